//! The seam between the controller and the resources that carry identities: what a host has, and
//! the one change that is asked of it.
//!
//! No policy: which identities a host needs, and when to try again, is decided by the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use api::{Guid, Host, IdentityId};

mod arm;
#[cfg(test)]
mod arm_tests;
mod counting;
mod errors;
#[cfg(test)]
mod fixtures;
mod model;
mod operation;
mod refusal;
mod request;
#[cfg(test)]
pub(crate) mod scripted;

pub(crate) use arm::ArmClient;
pub(crate) use errors::{ArmError, ThrottleScope};
pub(crate) use request::EndpointError;

/// The identities of one host as ARM reported them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostIdentities {
    /// User-assigned identities, whoever attached them.
    pub attached: BTreeMap<IdentityId, IdentityDetails>,
    /// Whether the host has a system-assigned identity.
    pub system_assigned: bool,
    /// ARM's word for what is going on with the host, e.g. `Succeeded`, `Updating`, `Deleting`.
    pub provisioning_state: Option<String>,
}

/// What ARM says of one attached identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdentityDetails {
    /// The client (application) id.
    pub client_id: Option<Guid>,
    /// The object (principal) id.
    pub object_id: Option<Guid>,
}

/// The user-assigned identities to change on one host. An identity in both sets is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdentityDelta {
    /// To be attached, if not attached yet.
    pub attach: BTreeSet<IdentityId>,
    /// To be detached, if attached.
    pub detach: BTreeSet<IdentityId>,
}

/// What came of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patched {
    /// What ARM reports afterwards.
    pub identities: HostIdentities,
    /// Of what was to be attached, what had been attached already when the change was made: by an
    /// earlier request of ours, or by somebody else.
    pub found: BTreeSet<IdentityId>,
}

/// Reads and changes the identities of hosts.
pub(crate) trait Compute: Send + Sync + 'static {
    /// What the host has now.
    fn get(&self, host: &Host) -> impl Future<Output = Result<HostIdentities, ArmError>> + Send;

    /// Applies `delta` to a host that was last seen as `current`, and touches nothing else on it.
    ///
    /// One PATCH, or several if a request may not hold them all. Waits for the end of an
    /// asynchronous operation and returns what ARM reports afterwards, which may lack a part of
    /// `delta`. After an error any part of it may have been applied, unless
    /// [`ArmError::changed_nothing`]: ask `get`.
    fn patch(
        &self,
        host: &Host,
        current: &HostIdentities,
        delta: &IdentityDelta,
    ) -> impl Future<Output = Result<Patched, ArmError>> + Send;
}

impl From<HostIdentities> for Patched {
    fn from(identities: HostIdentities) -> Self {
        Self { identities, found: BTreeSet::new() }
    }
}

impl IdentityDelta {
    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.attach.is_empty() && self.detach.is_empty()
    }
}
