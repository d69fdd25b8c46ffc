//! What has to be written so that one assignment is as it should be, and in which order.
//!
//! Pure. `writes` executes it.

use api::matching::Scope;
use api::{AssignedState, AzureAssignedIdentity, AzureAssignedIdentityStatus};

use crate::cluster::Cluster;
use crate::content::{self, is_current, is_ours, is_said};
use crate::desired::{Assignment, Place, desired};
use crate::snapshot::ObjectKey;
use crate::verdict::{Verdict, judge};
use crate::watch::uid;

/// One write to an `AzureAssignedIdentity`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// A new object, with its status: one write where the identity is attached already.
    Create(Box<AzureAssignedIdentity>),
    /// New content and status.
    Replace {
        /// The object.
        object: Box<AzureAssignedIdentity>,
        /// Its state before.
        was: AssignedState,
    },
    /// A new status.
    Move {
        /// The object.
        key: ObjectKey,
        /// Its version: a write against another one fails.
        version: Option<String>,
        /// The status.
        status: Box<AzureAssignedIdentityStatus>,
        /// Its state before.
        was: AssignedState,
    },
    /// Nobody is to use it any more.
    Delete {
        /// The object.
        key: ObjectKey,
        /// Its uid: another object of that name stays.
        uid: Option<String>,
    },
}

/// Which write goes first when many are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rank {
    /// Takes rights away.
    Withdraw,
    /// Makes an identity usable.
    Grant,
    /// Tells of identities and bindings.
    Status,
    /// Tells of an assignment that cannot be used yet.
    Announce,
}

/// The write that an assignment needs, if any.
pub(crate) fn rank(
    assignment: &Assignment<'_>,
    stored: Option<&AzureAssignedIdentity>,
    verdict: &Verdict,
) -> Option<Rank> {
    let usable = verdict.status.status == AssignedState::Assigned.as_str();
    match stored {
        None if usable => Some(Rank::Grant),
        None => Some(Rank::Announce),
        Some(stored)
            if is_current(assignment, stored)
                && is_said(stored.status.as_ref(), &verdict.status) =>
        {
            None
        }
        Some(_) if usable => Some(Rank::Grant),
        Some(_) => Some(Rank::Withdraw),
    }
}

/// How an assignment stands, by what is stored and what is known of its host.
pub(crate) fn verdict(cluster: &Cluster, assignment: &Assignment<'_>) -> Verdict {
    let stored = cluster.assigned(&assignment.key());
    let view = match assignment.place {
        Place::Host { host, .. } => cluster.view(host),
        _ => None,
    };
    judge(assignment, stored.map(|stored| &**stored), view)
}

/// The write that makes `at` what it should be for its owner, if it is not so already. Without an
/// owner nobody is to use it.
pub(crate) fn change(
    cluster: &Cluster,
    at: &ObjectKey,
    owner: Option<&ObjectKey>,
    scope: Scope,
) -> Option<Change> {
    let stored = cluster.assigned(at).map(|stored| &**stored);
    let Some(pod) = owner.and_then(|owner| cluster.pod(owner)) else {
        return stored.filter(|stored| is_ours(stored)).map(|stored| Change::Delete {
            key: at.clone(),
            uid: Some(uid(&stored.metadata)).filter(|uid| !uid.is_empty()).map(str::to_owned),
        });
    };
    let desired = desired(cluster, pod, scope);
    let assignment = desired.assignments.iter().find(|assignment| assignment.name == at.name)?;
    let verdict = verdict(cluster, assignment);
    rank(assignment, stored, &verdict)?;
    Some(build(assignment, stored, verdict))
}

fn build(
    assignment: &Assignment<'_>,
    stored: Option<&AzureAssignedIdentity>,
    verdict: Verdict,
) -> Change {
    match stored {
        None => Change::Create(Box::new(content::assigned(assignment, verdict.status))),
        Some(stored) if !is_current(assignment, stored) => {
            let object = content::replacement(assignment, verdict.status, stored);
            Change::Replace { object: Box::new(object), was: stored.state() }
        }
        Some(stored) => Change::Move {
            key: assignment.key(),
            version: stored.metadata.resource_version.clone(),
            status: Box::new(verdict.status),
            was: stored.state(),
        },
    }
}

// === impl Change ===

impl Change {
    /// The object that is written.
    pub(crate) fn key(&self) -> ObjectKey {
        match self {
            Self::Create(object) | Self::Replace { object, .. } => ObjectKey::of(&**object),
            Self::Move { key, .. } | Self::Delete { key, .. } => key.clone(),
        }
    }

    /// The state before the change; `None` if there was no object.
    pub(crate) fn was(&self) -> Option<AssignedState> {
        match self {
            Self::Create(_) | Self::Delete { .. } => None,
            Self::Replace { was, .. } | Self::Move { was, .. } => Some(*was),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
