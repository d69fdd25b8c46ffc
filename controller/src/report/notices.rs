//! What goes wrong for which pod or binding, and when it is worth an event: after a grace in which
//! it may mend by itself, and once, not in every cycle. Pure.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::events::{Happening, Severity, Subject};
use crate::clock::{after, since};
use crate::desired::{Desired, PodProblem};
use crate::snapshot::{Index, key};
use crate::verdict::{Standing, Verdict};
use crate::watch::{BoundPod, name, namespace};

/// Objects that belong together are created one after the other.
const APPLY_GRACE: Duration = Duration::from_secs(5);
/// Caches and hosts recover by themselves.
const RECOVERY_GRACE: Duration = Duration::from_secs(15);
/// The same thing in other words is said again after this.
const REWORD: Duration = Duration::from_secs(300);
/// What came and went within this is still known.
const MEMORY: Duration = Duration::from_secs(300);

/// Something that goes wrong at this moment.
#[derive(Clone, Debug)]
pub(crate) struct Notice {
    subject: Subject,
    reason: &'static str,
    /// What else it is about, e.g. the identity; tells two notices of one subject apart.
    about: String,
    /// What it is, in words that do not change with every attempt.
    gist: String,
    /// All that is known.
    message: String,
    grace: Duration,
}

/// Remembers what was said.
#[derive(Debug, Default)]
pub(crate) struct Announcer(HashMap<(String, &'static str, String), Memory>);

#[derive(Debug)]
struct Memory {
    since: Timestamp,
    last: Timestamp,
    said: Option<(Timestamp, String)>,
}

/// Everything that goes wrong.
pub(crate) fn notices(
    index: &Index<'_>,
    desired: &Desired<'_>,
    verdicts: &[Verdict],
) -> Vec<Notice> {
    let mut all = Vec::new();
    for (pod, problem) in &desired.problems {
        all.push(of_problem(pod, problem));
    }
    for (assignment, verdict) in desired.assignments.iter().zip(verdicts) {
        if let Some(problem) = verdict.standing.problem() {
            let (identity_ns, identity) = key(assignment.identity);
            let about = format!("{identity_ns}/{identity}");
            let message = format!("AzureIdentity {about} is not assigned: {problem}");
            let grace = match verdict.standing {
                Standing::NoHost(_) | Standing::HostTrouble(_) => RECOVERY_GRACE,
                _ => Duration::ZERO,
            };
            let gist = verdict.status.message.clone().unwrap_or_default();
            all.push(Notice { gist, ..of_pod(assignment.pod, about, message, grace) });
        }
    }
    for binding in index.bindings {
        let named = (namespace(&binding.metadata), binding.spec.identity_name());
        if !index.identities.contains_key(&named) {
            let message =
                format!("AzureIdentity {} does not exist in namespace {}", named.1, named.0);
            all.push(Notice {
                subject: Subject::binding(binding),
                reason: "IdentityNotFound",
                about: named.1.to_owned(),
                gist: message.clone(),
                message,
                grace: APPLY_GRACE,
            });
        }
    }
    all
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

// === impl Announcer ===

impl Announcer {
    /// What to publish of all that goes wrong now, and when something may have to be said next.
    pub(crate) fn due(
        &mut self,
        notices: Vec<Notice>,
        now: Timestamp,
    ) -> (Vec<Happening>, Option<Timestamp>) {
        let mut due = Vec::new();
        let mut next: Option<Timestamp> = None;
        for notice in notices {
            let at = (notice.subject.uid.clone(), notice.reason, notice.about.clone());
            let memory = self.0.entry(at).or_insert(Memory { since: now, last: now, said: None });
            memory.last = now;
            let when = match &memory.said {
                Some((_, said)) if *said == notice.gist => continue,
                Some((time, _)) => after(*time, REWORD),
                None => after(memory.since, notice.grace),
            };
            if when > now {
                next = Some(next.map_or(when, |next| next.min(when)));
            } else {
                memory.said = Some((now, notice.gist.clone()));
                due.push(notice.into_happening());
            }
        }
        // What was in its grace and mended starts anew; what was said is not said again at once.
        self.0.retain(|_, memory| {
            let gone = since(now, memory.last);
            gone.is_zero() || (memory.said.is_some() && gone < MEMORY)
        });
        (due, next)
    }
}

// === impl Notice ===

impl Notice {
    fn into_happening(self) -> Happening {
        Happening {
            severity: Severity::Warning,
            subject: self.subject,
            reason: self.reason,
            action: "Assigning",
            note: self.message,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::matching::Scope;

    use super::*;
    use crate::host::{HostView, Trouble};
    use crate::plan::plan;
    use crate::snapshot::Snapshot;
    use crate::testing::{binding, host, id, identity, node, pod, snapshot};

    fn at(seconds: u64) -> Timestamp {
        after(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds))
    }

    fn all(world: &Snapshot) -> Vec<Notice> {
        let index = world.index();
        let desired = crate::desired::desired(&index, Scope::Cluster);
        let plan = plan(&index, &desired, &crate::host::Views::new(), 100);
        notices(&index, &desired, &plan.verdicts)
    }

    fn said(announcer: &mut Announcer, world: &Snapshot, now: Timestamp) -> Vec<String> {
        let (due, _) = announcer.due(all(world), now);
        due.iter().map(|h| format!("{} {}", h.subject.name, h.reason)).collect()
    }

    #[test]
    fn a_pod_that_no_binding_selects_is_told_once_after_a_grace() {
        let mut world = snapshot();
        world.pods = vec![pod("apps", "web", "typo", "n1").into()];
        let mut announcer = Announcer::default();
        assert!(said(&mut announcer, &world, at(0)).is_empty());
        let (_, next) = announcer.due(all(&world), at(1));
        assert_eq!(next, Some(at(5)));
        assert_eq!(said(&mut announcer, &world, at(5)), ["web NoBinding"]);
        assert!(said(&mut announcer, &world, at(6)).is_empty());
        assert!(said(&mut announcer, &world, at(6000)).is_empty());
    }

    #[test]
    fn the_words_of_every_attempt_are_not_said_once_a_pod() {
        let mut world = snapshot();
        world.nodes = vec![node("n1", "vmss").into()];
        world.pods = vec![pod("apps", "web", "sel", "n1").into()];
        world.identities = vec![identity("team", "db").into()];
        world.bindings = vec![binding("team", "b", "db", "sel").into()];
        let mut announcer = Announcer::default();
        let mut attempt = |words: &str, seconds| {
            let trouble = Trouble { code: "refused", message: words.to_owned(), remedy: None };
            let view = HostView { refused: [(id("db"), trouble)].into(), ..HostView::default() };
            let views = [(host("vmss"), Arc::new(view))].into();
            let index = world.index();
            let desired = crate::desired::desired(&index, Scope::Cluster);
            let plan = plan(&index, &desired, &views, 100);
            let notices = notices(&index, &desired, &plan.verdicts);
            let (due, _) = announcer.due(notices, at(seconds));
            due.into_iter().map(|happening| happening.note).collect::<Vec<_>>()
        };
        assert_eq!(
            attempt("no (request 1)", 0),
            ["AzureIdentity team/db is not assigned: no (request 1)"]
        );
        assert!(attempt("no (request 2)", 1000).is_empty());
    }

    #[test]
    fn what_mends_within_the_grace_is_never_said() {
        let mut world = snapshot();
        world.nodes = vec![node("n1", "vmss").into()];
        world.pods = vec![pod("apps", "web", "sel", "n1").into()];
        world.bindings = vec![binding("team", "b", "db", "sel").into()];
        let mut announcer = Announcer::default();
        assert!(said(&mut announcer, &world, at(0)).is_empty());
        world.identities = vec![identity("team", "db").into()];
        assert!(said(&mut announcer, &world, at(3)).is_empty());
        world.identities.clear();
        assert!(said(&mut announcer, &world, at(6)).is_empty(), "a grace of its own");
        let mut late = said(&mut announcer, &world, at(11));
        late.sort();
        assert_eq!(late, ["b IdentityNotFound", "web IdentityNotAssigned"]);
    }
}
