//! The agent of the node: asked over TLS, recognised by its certificate, told who this pod is by
//! the pod's own token.

mod client;
mod failure;
mod pool;
mod source;
mod trust;

pub use client::NodeClient;
pub use failure::Failure;
pub use source::NodeSource;
