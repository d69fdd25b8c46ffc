//! One host at a time: what ARM says is attached to a VM or scale set, what is recorded as ours,
//! and the one change that is in flight.
//!
//! `model` decides, `worker` executes, `telling` words what people may read of it in the record,
//! `pool` keeps one worker a host. Hosts never wait for each other, but for a subscription that ARM
//! throttles.

mod failure;
mod immutable;
mod model;
mod outcomes;
mod pool;
mod record;
mod sign_in;
mod telling;
mod throttles;
mod view;
mod worker;

pub(crate) use immutable::Immutable;
pub(crate) use model::HostSettings;
#[cfg(test)]
pub(crate) use model::{HostModel, Step};
pub(crate) use pool::{HostContext, HostPool, WorkerPanicked};
pub(crate) use record::{ApiRecords, Records};
#[cfg(test)]
pub(crate) use record::{Entries, Record, RecordError};
pub(crate) use sign_in::SignIn;
#[cfg(test)]
pub(crate) use telling::Status;
pub(crate) use throttles::Throttles;
pub(crate) use view::{HostView, Trouble};
