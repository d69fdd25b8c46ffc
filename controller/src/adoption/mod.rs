//! Moving from aad-pod-identity: nothing is touched while its controller (MIC) is at work, and what
//! it left behind is taken over once it is gone.
//!
//! `election` and `leftover` decide; `mic` watches, `adopter` executes.

mod adopter;
mod election;
mod leftover;
mod metrics;
mod mic;

pub(crate) use adopter::{Adopter, Claims};
pub(crate) use leftover::is_leftover;
pub(crate) use metrics::AdoptionMetrics;
pub(crate) use mic::{MicPresence, MicWatch};
