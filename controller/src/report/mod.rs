//! What users are told: conditions on identities and bindings, events on pods and bindings.
//!
//! `status` and `notices` decide what is true, `announcer` when it is worth saying; `events`
//! publishes.

mod announcer;
mod events;
mod notices;
mod status;
mod tally;

pub(crate) use announcer::Announcer;
pub(crate) use events::{EventSender, Happening, Severity, Subject, events};
pub(crate) use notices::{Notice, binding_notice, pod_notices, verdict_notice};
pub(crate) use status::{binding_status, identity_status};
