//! What users are told: conditions on identities and bindings, events on pods and bindings.
//!
//! `status` and `notices` decide what is true and when it is worth saying; `events` publishes.

mod events;
mod notices;
mod pace;
mod status;
mod tally;

pub(crate) use events::{EventSender, Happening, Severity, Subject, events};
pub(crate) use notices::{Announcer, notices};
pub(crate) use pace::Pace;
pub(crate) use tally::tally;
