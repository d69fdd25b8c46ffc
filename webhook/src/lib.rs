//! The admission webhook: decides which pods get the redirect and the sidecar, and patches them.
//!
//! ```text
//! AdmissionReview → review → decision → inject → JSON patch
//!                             ↑ namespaces (a local watch: no API call on the way)
//! ```

mod advice;
mod args;
mod config;
mod containers;
mod decision;
mod gate;
mod hazards;
mod inject;
mod injector;
mod metrics;
mod namespace_view;
mod namespaces;
mod ours;
mod overrides;
mod pod;
mod pointer;
mod quantity;
mod review;
mod router;
mod run;
mod serve;
mod trust;
mod warm_up;
mod warnings;

pub use args::Args;
pub use config::{Config, ConfigError, ImagePullPolicy, InjectorConfig};
pub use decision::{Decision, Plan, SkipReason, Verdict, decide};
pub use gate::GateTimeout;
pub use hazards::DenyReason;
pub use inject::patch;
pub use injector::{Failure, Injector};
pub use metrics::ReviewMetrics;
pub use namespace_view::NamespaceView;
pub use namespaces::{NamespaceWatch, Namespaces};
pub use overrides::{LogLevel, Resources, Settings};
pub use pointer::PatchError;
pub use quantity::Quantity;
pub use review::{Answer, Review, ReviewError};
pub use router::router;
pub use run::run;
pub use serve::{Drain, serve};
pub use warm_up::{NotAWarmUp, WarmUp};
pub use warnings::Warnings;
