//! What goes wrong for which pod or binding, in words. Pure.

use std::time::Duration;

use api::AzureIdentityBinding;

use super::events::Subject;
use crate::cluster::{Cluster, named_by};
use crate::desired::{Assignment, PodProblem};
use crate::snapshot::key;
use crate::verdict::{Standing, Verdict, gist};
use crate::watch::{BoundPod, name, namespace};

/// Objects that belong together are created one after the other.
const APPLY_GRACE: Duration = Duration::from_secs(5);
/// Caches and hosts recover by themselves.
const RECOVERY_GRACE: Duration = Duration::from_secs(15);

/// Something that goes wrong at this moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Notice {
    pub(super) subject: Subject,
    pub(super) reason: &'static str,
    /// What else it is about, e.g. the identity; tells two notices of one subject apart.
    pub(super) about: String,
    /// What it is, in words that do not change with every attempt.
    pub(super) gist: String,
    /// All that is known.
    pub(super) message: String,
    pub(super) grace: Duration,
}

/// Why a pod holds less than its label asks for.
pub(crate) fn pod_notices(pod: &BoundPod, problems: &[PodProblem<'_>]) -> Vec<Notice> {
    problems.iter().map(|problem| of_problem(pod, problem)).collect()
}

/// Why an assignment cannot be used.
pub(crate) fn verdict_notice(assignment: &Assignment<'_>, verdict: &Verdict) -> Option<Notice> {
    let problem = verdict.standing.problem()?;
    let (identity_ns, identity) = key(assignment.identity);
    let about = format!("{identity_ns}/{identity}");
    let message = format!("AzureIdentity {about} is not assigned: {problem}");
    let grace = match verdict.standing {
        Standing::NoHost(_) | Standing::HostTrouble(_) => RECOVERY_GRACE,
        _ => Duration::ZERO,
    };
    let gist = gist(assignment, &verdict.standing).unwrap_or_default();
    Some(Notice { gist, ..of_pod(assignment.pod, about, message, grace) })
}

/// Why a binding binds nothing.
pub(crate) fn binding_notice(cluster: &Cluster, binding: &AzureIdentityBinding) -> Option<Notice> {
    let named = named_by(binding);
    if cluster.identity(&named).is_some() {
        return None;
    }
    let message =
        format!("AzureIdentity {} does not exist in namespace {}", named.name, named.namespace);
    Some(Notice {
        subject: Subject::binding(binding),
        reason: "IdentityNotFound",
        about: named.name,
        gist: message.clone(),
        message,
        grace: APPLY_GRACE,
    })
}

fn of_problem(pod: &BoundPod, problem: &PodProblem<'_>) -> Notice {
    let (about, message) = match problem {
        PodProblem::NoBinding => {
            return Notice {
                reason: "NoBinding",
                ..of_pod(
                    pod,
                    String::new(),
                    format!(
                        "no AzureIdentityBinding selects {}={}: create one with this selector, or correct the label",
                        api::labels::BINDING,
                        pod.label()
                    ),
                    APPLY_GRACE,
                )
            };
        }
        PodProblem::MissingIdentity(binding) => {
            let (binding_ns, binding_name) = key(*binding);
            let identity = binding.spec.identity_name();
            let message = format!(
                "AzureIdentityBinding {binding_ns}/{binding_name} names AzureIdentity {identity}, which does not exist in namespace {binding_ns}"
            );
            (format!("{binding_ns}/{identity}"), message)
        }
        PodProblem::OutOfScope(_, identity) => {
            let at = format!("{}/{}", namespace(&identity.metadata), name(&identity.metadata));
            let message = format!(
                "AzureIdentity {at} is only for pods of its own namespace {}",
                namespace(&identity.metadata)
            );
            (at, message)
        }
        PodProblem::InvalidIdentity(identity, problem) => {
            let at = format!("{}/{}", namespace(&identity.metadata), name(&identity.metadata));
            let message = format!("AzureIdentity {at} cannot be used: {problem}");
            (at, message)
        }
    };
    of_pod(pod, about, message, APPLY_GRACE)
}

fn of_pod(pod: &BoundPod, about: String, message: String, grace: Duration) -> Notice {
    Notice {
        subject: Subject::pod(pod),
        reason: "IdentityNotAssigned",
        about,
        gist: message.clone(),
        message,
        grace,
    }
}

// === impl Notice ===

impl Notice {
    /// Whether both are the same thing, perhaps in other words.
    pub(crate) fn is_about_the_same(&self, other: &Self) -> bool {
        (&self.subject.uid, self.reason, &self.about)
            == (&other.subject.uid, other.reason, &other.about)
    }
}
