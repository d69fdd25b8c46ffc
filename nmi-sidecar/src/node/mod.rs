//! The agent of the node: asked over TLS, recognised by its certificate, told who this pod is by
//! the pod's own token.

mod assertion;
mod client;
mod failure;
mod pool;
mod source;
mod trust;

pub use assertion::AssertionFile;
pub use client::NodeClient;
pub use failure::{FailedCall, Failure};
pub use source::NodeSource;
