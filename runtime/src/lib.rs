//! What every long-running process needs: logs, shutdown, supervised tasks, probes and metrics,
//! TLS certificates that can be replaced. Knows nothing of identities.

pub mod admin;
mod bounded;
pub mod ca;
pub mod crypto;
pub mod log;
pub mod metrics;
pub mod predecessor;
pub mod shutdown;
pub mod tasks;
pub mod tls;

pub use admin::{Admin, Latch, Readiness};
pub use log::LogArgs;
pub use metrics::Metrics;
pub use shutdown::Shutdown;
pub use tasks::{TaskError, Tasks};
pub use tls::ServingCert;
