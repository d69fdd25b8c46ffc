//! The condition `Ready` of identities and bindings: whether it works, and what to do if not. Pure.

use std::collections::BTreeSet;

use api::crd::{AzureIdentityBindingStatus, AzureIdentityStatus, IdentityProblem, READY};
use api::{AzureIdentity, AzureIdentityBinding, Host};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::tally::{Tally, tally};
use crate::cluster::{Cluster, Identity, named_by};
use crate::desired::Selected;
use crate::ledger::{Holding, Ledger};
use crate::snapshot::{ObjectKey, key};
use crate::verdict::{Standing, mismatch};
use crate::watch::namespace;

/// A condition before it is compared with the stored one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    status: &'static str,
    reason: &'static str,
    message: String,
}

/// The status that an identity should have, if it is not the one that is stored.
pub(crate) fn identity_status(
    cluster: &Cluster,
    ledger: &Ledger,
    at: &ObjectKey,
    now: Timestamp,
) -> Option<AzureIdentityStatus> {
    let identity = cluster.identity(at)?;
    let object = &*identity.object;
    let tally = tally_of(ledger, at);
    if tally.undetermined > 0 && is_judged(object) {
        return None;
    }
    let finding = judge_identity(identity, &tally);
    let stored = object.status.as_ref();
    let before = stored.map_or(&[][..], |stored| &stored.conditions);
    let conditions = conditions(before, finding, object.metadata.generation, now);
    let status = AzureIdentityStatus { conditions, pods: count(tally.assigned) };
    (stored != Some(&status)).then_some(status)
}

/// The status that a binding should have, if it is not the one that is stored.
pub(crate) fn binding_status(
    cluster: &Cluster,
    ledger: &Ledger,
    at: &ObjectKey,
    now: Timestamp,
) -> Option<AzureIdentityBindingStatus> {
    let binding = cluster.binding(at)?;
    let named = named_by(binding);
    let tally = tally_of(ledger, &named);
    if tally.undetermined > 0 && is_judged(binding) {
        return None;
    }
    let selected = ledger.selected(at);
    let finding = judge_binding(binding, selected, cluster.identity(&named), &tally);
    let stored = binding.status.as_ref();
    let before = stored.map_or(&[][..], |stored| &stored.conditions);
    let conditions = conditions(before, finding, binding.metadata.generation, now);
    let status = AzureIdentityBindingStatus { conditions, pods: count(selected.in_scope) };
    (stored != Some(&status)).then_some(status)
}

fn tally_of<'a>(ledger: &'a Ledger, identity: &ObjectKey) -> Tally<'a> {
    let host = |held: &'a Holding| held.place.as_ref().map(|(host, _)| host);
    tally(ledger.uses(identity).map(|held| (&held.standing, host(held))))
}

fn judge_identity(identity: &Identity, tally: &Tally<'_>) -> Finding {
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
    let hosts = match named(&tally.hosts) {
        hosts if hosts.is_empty() => hosts,
        hosts => format!(", attached to {hosts}"),
    };
    let message = format!("assigned to {}{hosts}", plural(tally.assigned, "pod"));
    Finding { status: "True", reason: "Assigned", message }
}

fn judge_binding(
    binding: &AzureIdentityBinding,
    selected: Selected,
    identity: Option<&Identity>,
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
        return failed("IdentityInvalid", see(&identity.object));
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
            failed("Attaching", see(&identity.object))
        }
        Some(_) => failed("IdentityNotReady", see(&identity.object)),
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

/// The first hosts by name, and how many more there are.
fn named(hosts: &BTreeSet<&Host>) -> String {
    const NAMED: usize = 3;
    let names: Vec<String> = hosts.iter().take(NAMED).map(|host| host.short()).collect();
    match hosts.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
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
