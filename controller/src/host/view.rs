//! What others may see of a host: what is attached, and what does not work.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::IdentityId;
use jiff::Timestamp;

use crate::compute::{ArmError, HostIdentities};

/// What others may see of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostView {
    /// What ARM last reported; `None` until it was asked.
    pub(crate) identities: Option<Arc<HostIdentities>>,
    /// Identities that ARM refuses to attach or detach.
    pub(crate) refused: BTreeMap<IdentityId, Trouble>,
    /// Why the host as a whole cannot be read or changed.
    pub(crate) trouble: Option<Trouble>,
}

/// Something that does not work, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Its name from a closed set: stays the same while the words change, e.g. by request ids.
    pub(crate) code: &'static str,
    /// What happened.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
    /// When it is tried again, if nothing changes.
    pub(crate) next_attempt: Option<Timestamp>,
}

// === impl Trouble ===

impl From<&ArmError> for Trouble {
    fn from(error: &ArmError) -> Self {
        let (code, remedy) = (error.code(), error.remedy());
        Self { code, message: error.to_string(), remedy, next_attempt: None }
    }
}

impl Trouble {
    /// The same, with the time of the next attempt: to the second, which is more than people need.
    pub(super) fn until(&self, next: Timestamp) -> Self {
        let next = Timestamp::from_second(next.as_second()).unwrap_or(next);
        Self { next_attempt: Some(next), ..self.clone() }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // First what to do and when: long texts are cut off at the end.
        if let Some(remedy) = &self.remedy {
            write!(f, "remedy: {remedy} ; ")?;
        }
        if let Some(next) = self.next_attempt {
            write!(f, "next attempt at {next} ; ")?;
        }
        if self.remedy.is_some() || self.next_attempt.is_some() {
            f.write_str("reason: ")?;
        }
        f.write_str(&self.message)
    }
}
