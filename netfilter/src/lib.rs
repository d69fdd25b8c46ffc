//! Keeps chains of our own in the kernel's packet filter, by way of the iptables tools.
//!
//! The `iptables` crate runs the commands; this crate adds what fail-closed code needs on top: a
//! failure is never read as "not there", no command can hang its caller, every write is read back,
//! and at no instant between two writes do the rules allow more than the old or the new ones did.
//! Which rules there should be is decided by the callers: `init-redirect` in a pod's network
//! namespace, `nmi-host` on the node.

mod backend;
mod chain;
mod error;
mod iptables;
mod jump;
mod process;
#[cfg(feature = "testing")]
pub mod testing;

pub use backend::{Backend, BackendChoice, ParseBackendError, legacy_in_use};
pub use chain::{Chain, Edit, Table};
pub use error::Error;
pub use iptables::Iptables;
pub use jump::Jump;
