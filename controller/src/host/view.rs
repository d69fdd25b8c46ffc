//! What others may see of a host: what is attached, and what does not work.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::IdentityId;

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
}

// === impl Trouble ===

impl From<&ArmError> for Trouble {
    fn from(error: &ArmError) -> Self {
        Self { code: error.code(), message: error.to_string(), remedy: error.remedy() }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // First what to do: long texts are cut off at the end.
        match &self.remedy {
            Some(remedy) => write!(f, "remedy: {remedy} ; reason: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}
