//! Whether one assignment can be used now, and if not, why. Pure.

use api::crd::attachment_name;
use api::{
    AssignedState, AzureAssignedIdentity, AzureAssignedIdentityStatus, Guid, Host, IdentityId,
};

use crate::content;
use crate::desired::{Assignment, NodeProblem, Place};
use crate::host::{HostView, Trouble};
use crate::snapshot::key;

/// What is to be said about an assignment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// How it stands, as far as that is known.
    pub(crate) standing: Standing,
    /// The status that its object should have: may still say `Assigned` when ARM reports that the
    /// identity is not attached any more. It is attached again, and meanwhile the pod may use what
    /// tokens there are.
    pub(crate) status: AzureAssignedIdentityStatus,
}

/// How an assignment stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Tokens can be had.
    Assigned,
    /// ARM was not asked yet: a new leader says nothing before it knows.
    Undetermined,
    /// The identity is about to be attached.
    Attaching,
    /// The pod's node leads to no VM or scale set.
    NoHost(NodeProblem),
    /// ARM does not attach the identity.
    Refused(Trouble),
    /// The VM or scale set cannot be read or changed.
    HostTrouble(Trouble),
    /// The attached identity is another one than `spec.clientID` says.
    ClientIdMismatch {
        /// What the `AzureIdentity` says.
        written: Guid,
        /// What ARM reports.
        attached: Guid,
    },
}

/// Judges an assignment by its stored object and by what is known of its host.
pub(crate) fn judge(
    assignment: &Assignment<'_>,
    stored: Option<&AzureAssignedIdentity>,
    view: Option<&HostView>,
) -> Verdict {
    match &assignment.place {
        Place::Nowhere => Verdict {
            standing: Standing::Assigned,
            status: content::status(AssignedState::Assigned, None),
        },
        // A pod outlives its node's object by a moment: what it had is not taken away for that.
        Place::Unknown(problem) => {
            waiting(assignment, stored, Standing::NoHost(problem.clone()), Seen::Nothing)
        }
        Place::Host { host, identity } => on_host(assignment, stored, view, (host, identity)),
    }
}

/// What ARM said of an identity that is not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Nothing yet.
    Nothing,
    /// That it is not attached.
    Missing,
}

fn on_host(
    assignment: &Assignment<'_>,
    stored: Option<&AzureAssignedIdentity>,
    view: Option<&HostView>,
    (host, identity): (&Host, &IdentityId),
) -> Verdict {
    let known = view.and_then(|view| view.identities.as_ref());
    if let Some(details) = known.and_then(|known| known.attached.get(identity)) {
        let written = assignment.identity.spec.client_id().ok().flatten();
        return match (written, &details.client_id) {
            (Some(written), Some(attached)) if written != *attached => refused(
                assignment,
                Standing::ClientIdMismatch { written, attached: attached.clone() },
            ),
            _ => Verdict {
                standing: Standing::Assigned,
                status: AzureAssignedIdentityStatus {
                    client_id: details.client_id.as_ref().map(Guid::to_string),
                    object_id: details.object_id.as_ref().map(Guid::to_string),
                    host: Some(attachment_name(host)),
                    ..content::status(AssignedState::Assigned, None)
                },
            },
        };
    }
    if let Some(trouble) = view.and_then(|view| view.refused.get(identity)) {
        return refused(assignment, Standing::Refused(trouble.clone()));
    }
    let standing = match view.and_then(|view| view.trouble.as_ref()) {
        Some(trouble) => Standing::HostTrouble(trouble.clone()),
        None if known.is_none() => Standing::Undetermined,
        None => Standing::Attaching,
    };
    let seen = if known.is_some() { Seen::Missing } else { Seen::Nothing };
    waiting(assignment, stored, standing, seen)
}

/// Not usable, and known to be.
fn refused(assignment: &Assignment<'_>, standing: Standing) -> Verdict {
    let status = content::status(AssignedState::Created, gist(assignment, &standing));
    Verdict { standing, status }
}

/// What was assigned before stays so in its object, a new one waits. As long as nothing was seen
/// that speaks against it, it is taken to stand as its object says.
fn waiting(
    assignment: &Assignment<'_>,
    stored: Option<&AzureAssignedIdentity>,
    standing: Standing,
    seen: Seen,
) -> Verdict {
    let undetermined = standing == Standing::Undetermined;
    let kept = stored.filter(|stored| {
        (stored.state() == AssignedState::Assigned || undetermined)
            && same_identity(assignment, stored)
            && same_host(assignment, stored)
    });
    if let Some((state, Some(status))) = kept.map(|stored| (stored.state(), stored.status.clone()))
    {
        let believed = state == AssignedState::Assigned && seen == Seen::Nothing;
        return Verdict { standing: if believed { Standing::Assigned } else { standing }, status };
    }
    let status = content::status(AssignedState::Created, gist(assignment, &standing));
    Verdict { standing, status }
}

/// Whether the stored object was assigned for the same Azure identity.
fn same_identity(assignment: &Assignment<'_>, stored: &AzureAssignedIdentity) -> bool {
    let (wanted, had) = (&assignment.identity.spec, stored.spec.identity.as_ref());
    had.is_some_and(|had| {
        let wanted = (wanted.kind, wanted.identity_id(), wanted.client_id());
        (had.spec.kind, had.spec.identity_id(), had.spec.client_id()) == wanted
    })
}

/// Whether the stored object was assigned where its pod runs now: a node may come back under its
/// name in another scale set. One that does not say where is taken at its word.
fn same_host(assignment: &Assignment<'_>, stored: &AzureAssignedIdentity) -> bool {
    let Place::Host { host, .. } = &assignment.place else { return true };
    let had = stored.status.as_ref().and_then(|status| status.host.as_deref());
    had.is_none_or(|had| had == attachment_name(host))
}

/// Why an assignment cannot be used, for its stored object. ARM's own words change with every
/// attempt, and would then be written once for every pod: they are on the identity.
pub(crate) fn gist(assignment: &Assignment<'_>, standing: &Standing) -> Option<String> {
    let host = match &assignment.place {
        Place::Host { host, .. } => host.id().name(),
        _ => "the host",
    };
    let (namespace, name) = key(assignment.identity);
    let see = format!("see the condition of AzureIdentity {namespace}/{name}");
    match standing {
        Standing::Assigned => None,
        Standing::Attaching | Standing::Undetermined => Some(format!("being attached to {host}")),
        Standing::NoHost(problem) => Some(problem.to_string()),
        Standing::Refused(trouble) => {
            Some(format!("cannot be attached to {host} ({}): {see}", trouble.code))
        }
        Standing::HostTrouble(trouble) => {
            Some(format!("{host} cannot be changed ({}): {see}", trouble.code))
        }
        Standing::ClientIdMismatch { written, attached } => Some(mismatch(written, attached)),
    }
}

/// The words for an identity whose two ids belong to two identities.
pub(crate) fn mismatch(written: &Guid, attached: &Guid) -> String {
    format!(
        "spec.clientID is {written}, but the client id of spec.resourceID is {attached}: correct or remove spec.clientID"
    )
}

impl Standing {
    /// All that is known, for people; `None` where all is well or on its way.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Self::Assigned | Self::Attaching | Self::Undetermined => None,
            Self::NoHost(problem) => Some(problem.to_string()),
            Self::Refused(trouble) | Self::HostTrouble(trouble) => Some(trouble.to_string()),
            Self::ClientIdMismatch { written, attached } => Some(mismatch(written, attached)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::{AzureIdentity, AzureIdentityBinding};

    use super::*;
    use crate::testing::{attached, binding, client_id, host, id, identity, pod};
    use crate::watch::BoundPod;

    struct Fixture {
        pod: BoundPod,
        binding: AzureIdentityBinding,
        identity: AzureIdentity,
        host: Host,
        id: IdentityId,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                pod: pod("apps", "web", "sel", "n1"),
                binding: binding("team", "b", "db", "sel"),
                identity: identity("team", "db"),
                host: host("vmss"),
                id: id("db"),
            }
        }

        fn assignment(&self) -> Assignment<'_> {
            Assignment {
                name: "web-1".to_owned(),
                pod: &self.pod,
                binding: &self.binding,
                identity: &self.identity,
                place: Place::Host { host: &self.host, identity: &self.id },
            }
        }

        fn stored(&self, state: AssignedState) -> AzureAssignedIdentity {
            content::assigned(&self.assignment(), content::status(state, None))
        }

        fn judge(
            &self,
            stored: Option<&AzureAssignedIdentity>,
            view: Option<&HostView>,
        ) -> Verdict {
            judge(&self.assignment(), stored, view)
        }
    }

    fn view(names: &[&str]) -> HostView {
        HostView {
            identities: Some(Arc::new(attached(names.iter().copied()))),
            ..HostView::default()
        }
    }

    fn trouble(message: &str) -> Trouble {
        Trouble {
            code: "identity_refused",
            message: message.to_owned(),
            remedy: Some("Do this".to_owned()),
            next_attempt: None,
        }
    }

    #[test]
    fn an_attached_identity_is_assigned_with_the_ids_that_arm_reports() {
        let verdict = Fixture::new().judge(None, Some(&view(&["db"])));
        assert_eq!(verdict.standing, Standing::Assigned);
        assert_eq!(verdict.status.status, "Assigned");
        assert_eq!(verdict.status.client_id.as_deref(), Some(client_id("db").as_str()));
        assert!(verdict.status.object_id.is_some() && verdict.status.message.is_none());
    }

    #[test]
    fn a_client_id_of_another_identity_is_never_assigned() {
        let mut fixture = Fixture::new();
        let stored = fixture.stored(AssignedState::Assigned);
        fixture.identity.spec.client_id = Some(client_id("admin").to_string());
        let verdict = fixture.judge(Some(&stored), Some(&view(&["db", "admin"])));
        assert!(matches!(verdict.standing, Standing::ClientIdMismatch { .. }));
        assert_eq!(verdict.status.status, "Created");
        let message = verdict.status.message.unwrap();
        assert!(message.contains(client_id("admin").as_str()), "{message}");
        assert!(message.contains(client_id("db").as_str()), "{message}");
        fixture.identity.spec.client_id = Some(client_id("db").as_str().to_ascii_uppercase());
        assert_eq!(fixture.judge(None, Some(&view(&["db"]))).standing, Standing::Assigned);
    }

    #[test]
    fn a_new_assignment_waits_for_the_host() {
        let fixture = Fixture::new();
        let refusing =
            HostView { refused: [(id("db"), trouble("not allowed"))].into(), ..view(&[]) };
        let troubled = HostView { trouble: Some(trouble("throttled")), ..HostView::default() };
        let cases = [
            (None, "being attached to vmss"),
            (Some(view(&["other"])), "being attached to vmss"),
            (
                Some(refusing),
                "cannot be attached to vmss (identity_refused): see the condition of AzureIdentity team/db",
            ),
            (
                Some(troubled),
                "vmss cannot be changed (identity_refused): see the condition of AzureIdentity team/db",
            ),
        ];
        for (view, expected) in cases {
            let verdict = fixture.judge(None, view.as_ref());
            assert_eq!(verdict.status.status, "Created");
            assert_eq!(verdict.status.message.as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_was_assigned_stays_so_until_something_speaks_against_it() {
        let fixture = Fixture::new();
        let stored = fixture.stored(AssignedState::Assigned);
        let refusing = HostView { refused: [(id("db"), trouble("deleted"))].into(), ..view(&[]) };
        let unread = HostView { trouble: Some(trouble("throttled")), ..HostView::default() };
        let unchanged = HostView { trouble: Some(trouble("forbidden")), ..view(&["other"]) };
        for (view, expected, standing) in [
            (None, "Assigned", Standing::Assigned),
            (Some(unread), "Assigned", Standing::Assigned),
            // The object stays as it is, but nobody is told that the identity is attached.
            (Some(view(&[])), "Assigned", Standing::Attaching),
            (Some(unchanged), "Assigned", Standing::HostTrouble(trouble("forbidden"))),
            (Some(refusing), "Created", Standing::Refused(trouble("deleted"))),
        ] {
            let verdict = fixture.judge(Some(&stored), view.as_ref());
            assert_eq!(verdict.status.status, expected, "{view:?}");
            assert_eq!(verdict.standing, standing, "{view:?}");
            if expected == "Assigned" {
                assert_eq!(Some(verdict.status), stored.status, "nothing is written");
            }
        }
    }

    #[test]
    fn what_was_assigned_on_another_host_is_not_assigned_here() {
        let mut fixture = Fixture::new();
        let mut stored = fixture.stored(AssignedState::Created);
        stored.status = Some(fixture.judge(None, Some(&view(&["db"]))).status);
        fixture.host = host("VMSS");
        assert_eq!(fixture.judge(Some(&stored), None).status.status, "Assigned", "another casing");

        fixture.host = host("other");
        let troubled = HostView { trouble: Some(trouble("forbidden")), ..HostView::default() };
        for (view, standing) in [
            (None, Standing::Undetermined),
            (Some(view(&[])), Standing::Attaching),
            (Some(troubled), Standing::HostTrouble(trouble("forbidden"))),
        ] {
            let verdict = fixture.judge(Some(&stored), view.as_ref());
            assert_eq!(verdict.status.status, "Created", "{view:?}");
            assert_eq!((verdict.standing, verdict.status.host), (standing, None), "{view:?}");
        }
        let verdict = fixture.judge(Some(&stored), Some(&view(&["db"])));
        assert_eq!(verdict.status.status, "Assigned", "attached there");
        assert_eq!(verdict.status.host, Some(attachment_name(&host("other"))));

        let nowhere = Assignment {
            place: Place::Unknown(NodeProblem::Missing("n1".to_owned())),
            ..fixture.assignment()
        };
        let verdict = judge(&nowhere, Some(&stored), None);
        assert_eq!(Some(verdict.status), stored.status, "its node may come back as it was");

        stored.status.as_mut().unwrap().host = None;
        let verdict = fixture.judge(Some(&stored), None);
        assert_eq!(verdict.status.status, "Assigned", "by a release that did not say where");
    }

    #[test]
    fn a_leader_that_knows_nothing_yet_rewrites_nothing() {
        let fixture = Fixture::new();
        let mut stored = fixture.stored(AssignedState::Created);
        let why = Some("cannot be attached".to_owned());
        stored.status = Some(content::status(AssignedState::Created, why));
        for view in [None, Some(HostView::default())] {
            let verdict = fixture.judge(Some(&stored), view.as_ref());
            assert_eq!(Some(verdict.status), stored.status);
            assert_eq!(verdict.standing, Standing::Undetermined);
        }
        let verdict = fixture.judge(Some(&stored), Some(&view(&[])));
        assert_eq!(verdict.standing, Standing::Attaching);
    }

    #[test]
    fn another_identity_under_the_same_name_starts_anew() {
        let mut fixture = Fixture::new();
        let stored = fixture.stored(AssignedState::Assigned);
        fixture.identity.spec.resource_id = Some(id("queue").as_str().to_owned());
        fixture.id = id("queue");
        assert_eq!(fixture.judge(Some(&stored), None).status.status, "Created");
        fixture.identity.spec.client_id = None;
        let verdict = fixture.judge(Some(&stored), Some(&view(&["queue"])));
        assert_eq!(verdict.status.status, "Assigned", "without a detour when it is attached");
    }

    #[test]
    fn a_service_principal_needs_no_host() {
        let fixture = Fixture::new();
        let assignment = Assignment { place: Place::Nowhere, ..fixture.assignment() };
        assert_eq!(judge(&assignment, None, None).status.status, "Assigned");
    }
}
