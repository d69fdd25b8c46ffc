//! What has to be written so that the assignments are as they should be, and what each host needs.
//!
//! Pure. `writes` executes it.

use std::collections::HashSet;

use api::{AssignedState, AzureAssignedIdentity, AzureAssignedIdentityStatus};

use crate::content::{self, is_current, is_ours};
use crate::desired::{Assignment, Desired, Place};
use crate::host::{Needs, Views};
use crate::snapshot::{Index, ObjectKey, key};
use crate::verdict::{Verdict, judge};
use crate::watch::{namespace, uid};

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

/// What to do.
#[derive(Default)]
pub(crate) struct Plan {
    /// In the order in which they matter: what takes rights away first.
    pub(crate) changes: Vec<Change>,
    /// Whether there is more to do than `changes` holds.
    pub(crate) more: bool,
    pub(crate) needs: Needs,
    /// One for each assignment, in the same order.
    pub(crate) verdicts: Vec<Verdict>,
    /// Objects that another controller left behind.
    pub(crate) foreign: Vec<ObjectKey>,
}

/// A change before its object is built: most plans of a burst are superseded before they are
/// executed.
enum Intent<'a> {
    Create(&'a Assignment<'a>, usize),
    Replace(&'a Assignment<'a>, usize, &'a AzureAssignedIdentity),
    Move(usize, &'a AzureAssignedIdentity),
    Delete(&'a AzureAssignedIdentity),
}

/// Compares what should be with what is stored and attached. At most `limit` changes are built.
pub(crate) fn plan<'a>(
    index: &'a Index<'a>,
    desired: &'a Desired<'a>,
    views: &Views,
    limit: usize,
) -> Plan {
    let mut plan = Plan::default();
    let mut intents = Vec::new();
    let mut wanted = HashSet::with_capacity(desired.assignments.len());
    for (number, assignment) in desired.assignments.iter().enumerate() {
        let at = (namespace(&assignment.pod.metadata), assignment.name.as_str());
        wanted.insert(at);
        let stored = index.assigned.get(&at).copied();
        let verdict = judge(assignment, stored, view(assignment, views));
        intents.extend(intent(assignment, number, stored, &verdict));
        if let Place::Host { host, identity } = &assignment.place {
            add_need(&mut plan.needs, host, identity);
        }
        plan.verdicts.push(verdict);
    }
    for (at, stored) in &index.assigned {
        if wanted.contains(at) {
            continue;
        }
        if is_ours(stored) {
            intents.push(Intent::Delete(stored));
        } else {
            plan.foreign.push(ObjectKey::new(at.0, at.1));
        }
    }
    intents.sort_by_key(|intent| intent.rank(&plan.verdicts));
    plan.more = intents.len() > limit;
    plan.changes =
        intents.into_iter().take(limit).map(|intent| intent.build(&plan.verdicts)).collect();
    plan
}

fn view<'v>(assignment: &Assignment<'_>, views: &'v Views) -> Option<&'v crate::host::HostView> {
    match assignment.place {
        Place::Host { host, .. } => views.get(host).map(|view| &**view),
        _ => None,
    }
}

fn add_need(needs: &mut Needs, host: &api::Host, identity: &api::IdentityId) {
    // The usual case by far is that it is there already: look before cloning.
    let Some(needed) = needs.get_mut(host) else {
        needs.insert(host.clone(), [identity.clone()].into());
        return;
    };
    if !needed.contains(identity) {
        needed.insert(identity.clone());
    }
}

fn intent<'a>(
    assignment: &'a Assignment<'a>,
    number: usize,
    stored: Option<&'a AzureAssignedIdentity>,
    verdict: &Verdict,
) -> Option<Intent<'a>> {
    match stored {
        None => Some(Intent::Create(assignment, number)),
        Some(stored) if !is_current(assignment, stored) => {
            Some(Intent::Replace(assignment, number, stored))
        }
        Some(stored) if stored.status.as_ref() != Some(&verdict.status) => {
            Some(Intent::Move(number, stored))
        }
        Some(_) => None,
    }
}

// === impl Intent ===

impl Intent<'_> {
    fn rank(&self, verdicts: &[Verdict]) -> u8 {
        let assigned = |number: usize| {
            verdicts
                .get(number)
                .is_some_and(|verdict| verdict.status.status == AssignedState::Assigned.as_str())
        };
        match self {
            Self::Delete(_) => 0,
            Self::Move(number, _) | Self::Replace(_, number, _) if !assigned(*number) => 0,
            Self::Move(..) | Self::Replace(..) => 1,
            Self::Create(_, number) if assigned(*number) => 1,
            Self::Create(..) => 2,
        }
    }

    fn build(self, verdicts: &[Verdict]) -> Change {
        let status = |number: usize| {
            verdicts.get(number).map(|verdict| verdict.status.clone()).unwrap_or_default()
        };
        match self {
            Self::Create(assignment, number) => {
                Change::Create(Box::new(content::assigned(assignment, status(number))))
            }
            Self::Replace(assignment, number, stored) => {
                let object = content::replacement(assignment, status(number), stored);
                Change::Replace { object: Box::new(object), was: stored.state() }
            }
            Self::Move(number, stored) => {
                let (namespace, name) = key(stored);
                Change::Move {
                    key: ObjectKey::new(namespace, name),
                    version: stored.metadata.resource_version.clone(),
                    status: Box::new(status(number)),
                    was: stored.state(),
                }
            }
            Self::Delete(stored) => {
                let (namespace, name) = key(stored);
                let uid = Some(uid(&stored.metadata)).filter(|uid| !uid.is_empty());
                Change::Delete { key: ObjectKey::new(namespace, name), uid: uid.map(str::to_owned) }
            }
        }
    }
}

// === impl Change ===

impl Change {
    /// The object that is written.
    pub(crate) fn key(&self) -> ObjectKey {
        match self {
            Self::Create(object) | Self::Replace { object, .. } => {
                let (namespace, name) = key(&**object);
                ObjectKey::new(namespace, name)
            }
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
