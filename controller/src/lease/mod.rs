//! Leader election by a Lease, fenced by expiry: a leader that was paused or cut off stops writing
//! before another may begin.
//!
//! `claim` decides, `manager` talks to the API server.

mod claim;
mod manager;

pub(crate) use claim::Leadership;
pub(crate) use manager::{LeaseManager, LeaseSettings};
