//! The condition `Ready` of identities and bindings: whether it works, and what to do if not. Pure.

use api::crd::{AzureIdentityBindingStatus, AzureIdentityStatus, IdentityProblem, READY};
use api::{AzureIdentity, AzureIdentityBinding};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::tally::{Tallies, Tally};
use crate::desired::Selected;
use crate::snapshot::{Identity, Index, ObjectKey, key};
use crate::verdict::{Standing, mismatch};
use crate::watch::namespace;
use crate::writes::Write;

/// A condition before it is compared with the stored one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    status: &'static str,
    reason: &'static str,
    message: String,
}

/// The status writes that are due: only what differs from what is stored.
pub(super) fn due(index: &Index<'_>, tallies: &Tallies<'_>, now: Timestamp) -> Vec<Write> {
    let nothing = Tally::default();
    let mut writes = Vec::new();
    for (at, identity) in &index.identities {
        let tally = tallies.identities.get(at).unwrap_or(&nothing);
        if tally.undetermined > 0 && is_judged(identity.object) {
            continue;
        }
        if let Some(status) = identity_status(identity, tally, now) {
            writes.push(Write::Identity(ObjectKey::new(at.0, at.1), status));
        }
    }
    for binding in index.bindings {
        let at = key(&**binding);
        let selected = tallies.bindings.get(&at).copied().unwrap_or_default();
        let named = (namespace(&binding.metadata), binding.spec.identity_name());
        let identity = index.identities.get(&named);
        let tally = tallies.identities.get(&named).unwrap_or(&nothing);
        if tally.undetermined > 0 && is_judged(&**binding) {
            continue;
        }
        let finding = judge_binding(binding, selected, identity, tally);
        if let Some(status) = binding_status(binding, selected, finding, now) {
            writes.push(Write::Binding(ObjectKey::new(at.0, at.1), status));
        }
    }
    writes
}

fn identity_status(
    identity: &Identity<'_>,
    tally: &Tally<'_>,
    now: Timestamp,
) -> Option<AzureIdentityStatus> {
    let object = identity.object;
    let finding = judge_identity(identity, tally);
    let stored = object.status.clone().unwrap_or_default();
    let conditions = conditions(&stored.conditions, finding, object.metadata.generation, now);
    let status = AzureIdentityStatus { conditions, pods: count(tally.assigned) };
    (object.status.as_ref() != Some(&status)).then_some(status)
}

fn binding_status(
    binding: &AzureIdentityBinding,
    selected: Selected,
    finding: Finding,
    now: Timestamp,
) -> Option<AzureIdentityBindingStatus> {
    let stored = binding.status.clone().unwrap_or_default();
    let conditions = conditions(&stored.conditions, finding, binding.metadata.generation, now);
    let status = AzureIdentityBindingStatus { conditions, pods: count(selected.in_scope) };
    (binding.status.as_ref() != Some(&status)).then_some(status)
}

fn judge_identity(identity: &Identity<'_>, tally: &Tally<'_>) -> Finding {
    if let Err(problem) = &identity.attach {
        return invalid(problem);
    }
    if let Some((standing, host)) = tally.worst {
        let at = host.map(|host| format!(" at {}", host.id().name())).unwrap_or_default();
        let waiting =
            format!("{} of {} pods waiting{at}", tally.waiting, tally.assigned + tally.waiting);
        return match standing {
            Standing::Assigned | Standing::Attaching | Standing::Undetermined => {
                failed("Attaching", format!("{waiting}: being attached"))
            }
            Standing::NoHost(problem) => failed("NoHost", format!("{waiting}: {problem}")),
            Standing::HostTrouble(trouble) => {
                failed("HostNotReady", format!("{waiting}: {trouble}"))
            }
            Standing::Refused(trouble) => failed("ArmRefused", format!("{waiting}: {trouble}")),
            Standing::ClientIdMismatch { written, attached } => {
                failed("ClientIDMismatch", mismatch(written, attached))
            }
        };
    }
    if tally.assigned == 0 {
        let message = "no pod uses it: create an AzureIdentityBinding for it and label pods with aadpodidbinding";
        return Finding { status: "Unknown", reason: "NoPods", message: message.to_owned() };
    }
    let hosts = match tally.hosts.len() {
        0 => String::new(),
        number => format!(", attached to {}", plural(number, "host")),
    };
    let message = format!("assigned to {}{hosts}", plural(tally.assigned, "pod"));
    Finding { status: "True", reason: "Assigned", message }
}

fn judge_binding(
    binding: &AzureIdentityBinding,
    selected: Selected,
    identity: Option<&Identity<'_>>,
    tally: &Tally<'_>,
) -> Finding {
    let (name, namespace) = (binding.spec.identity_name(), namespace(&binding.metadata));
    if name.is_empty() || binding.spec.selector().is_empty() {
        let message = "spec.azureIdentity and spec.selector must both be set".to_owned();
        return failed("InvalidSpec", message);
    }
    let Some(identity) = identity else {
        let message = format!(
            "AzureIdentity {name} does not exist in namespace {namespace}: create it there, or correct spec.azureIdentity"
        );
        return failed("IdentityNotFound", message);
    };
    if identity.attach.is_err() {
        return failed("IdentityInvalid", see(identity.object));
    }
    if selected == Selected::default() {
        let message = format!(
            "no running pod is labelled {}={}",
            api::labels::BINDING,
            binding.spec.selector()
        );
        return Finding { status: "Unknown", reason: "NoMatchingPods", message };
    }
    if selected.in_scope == 0 {
        let message = format!(
            "{} of other namespaces match, but the identity is only for pods of namespace {namespace}",
            plural(selected.out_of_scope, "pod")
        );
        return failed("OutOfScope", message);
    }
    match tally.worst {
        Some((Standing::Attaching | Standing::Undetermined, _)) => {
            failed("Attaching", see(identity.object))
        }
        Some(_) => failed("IdentityNotReady", see(identity.object)),
        None => {
            let message = format!("selects {}", plural(selected.in_scope, "pod"));
            Finding { status: "True", reason: "Assigned", message }
        }
    }
}

/// Whether the object as it is now was judged before, by this leader or a former one.
fn is_judged<K: Judged>(object: &K) -> bool {
    let ready = object.conditions().iter().find(|condition| condition.type_ == READY);
    ready.is_some_and(|ready| ready.observed_generation == object.meta().generation)
}

/// A kind that carries the condition.
trait Judged: kube::Resource {
    fn conditions(&self) -> &[Condition];
}

impl Judged for AzureIdentity {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }
}

impl Judged for AzureIdentityBinding {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| &status.conditions)
    }
}

fn see(identity: &AzureIdentity) -> String {
    let (namespace, name) = key(identity);
    format!("see the condition of AzureIdentity {namespace}/{name}")
}

fn invalid(problem: &IdentityProblem) -> Finding {
    failed("InvalidSpec", problem.to_string())
}

fn failed(reason: &'static str, message: String) -> Finding {
    Finding { status: "False", reason, message }
}

/// The stored conditions with `Ready` as found; the time of transition is that of its status.
fn conditions(
    stored: &[Condition],
    finding: Finding,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let before = stored.iter().find(|condition| condition.type_ == READY);
    let since = before
        .filter(|before| before.status == finding.status)
        .map_or_else(|| seconds(now), |before| before.last_transition_time.clone());
    let ready = Condition {
        type_: READY.to_owned(),
        status: finding.status.to_owned(),
        reason: finding.reason.to_owned(),
        message: shorten(finding.message),
        last_transition_time: since,
        observed_generation: generation,
    };
    let others = stored.iter().filter(|condition| condition.type_ != READY).cloned();
    others.chain([ready]).collect()
}

/// As it is stored: what comes back has to equal what was written.
fn seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// The API server refuses messages of more than 32 KiB; nobody reads more than this.
fn shorten(mut message: String) -> String {
    const MAX: usize = 2048;
    if message.len() > MAX {
        let end = (0..=MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

fn plural(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
