//! Which identities a pod should hold, and why it may hold fewer than its label asks for.
//!
//! Pure. Whether an identity can be used yet is `verdict`'s question.

use api::crd::{IdentityProblem, assigned_name};
use api::host::HostError;
use api::matching::{Match, Scope, matches};
use api::{AzureIdentity, AzureIdentityBinding, Host, IdentityId};

use crate::cluster::{Cluster, named_by};
use crate::snapshot::{ObjectKey, key};
use crate::watch::{BoundPod, name, namespace, uid};

/// What one pod should hold.
#[derive(Default)]
pub(crate) struct Desired<'a> {
    pub(crate) assignments: Vec<Assignment<'a>>,
    pub(crate) problems: Vec<PodProblem<'a>>,
    /// The bindings that select the pod, each with whether the pod may have its identity. Also
    /// those that lose to another binding of the same identity.
    pub(crate) selected: Vec<(&'a AzureIdentityBinding, bool)>,
}

/// One identity for one pod.
pub(crate) struct Assignment<'a> {
    /// Name of its `AzureAssignedIdentity`, in the pod's namespace.
    pub(crate) name: String,
    pub(crate) pod: &'a BoundPod,
    pub(crate) binding: &'a AzureIdentityBinding,
    pub(crate) identity: &'a AzureIdentity,
    pub(crate) place: Place<'a>,
}

/// What has to be attached where before the pod can use the identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// Nothing: a service principal.
    Nowhere,
    /// The identity, to the VM or scale set of the pod's node.
    Host {
        /// The VM or scale set.
        host: &'a Host,
        /// The identity.
        identity: &'a IdentityId,
    },
    /// The pod's node is unknown, or not a machine that can carry identities.
    Unknown(NodeProblem),
}

/// Why no host is known for a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NodeProblem {
    /// No such node (yet, or any more).
    #[error("node {0} does not exist")]
    Missing(String),
    /// The node's `providerID` leads nowhere.
    #[error("node {node}: {source}")]
    NoHost {
        /// The node.
        node: String,
        /// What is wrong with it.
        source: HostError,
    },
}

/// Why a pod does not hold an identity that its label may have asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PodProblem<'a> {
    /// No binding selects the pod.
    NoBinding,
    /// The binding names an identity that does not exist.
    MissingIdentity(&'a AzureIdentityBinding),
    /// The identity is for pods of its own namespace.
    OutOfScope(&'a AzureIdentityBinding, &'a AzureIdentity),
    /// The identity cannot be used as it is written.
    InvalidIdentity(&'a AzureIdentity, IdentityProblem),
}

/// Why a pod lacks an identity that its label asks for, in a word; the gravest is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lack {
    OutOfScope,
    NoBinding,
    IdentityNotFound,
    IdentityInvalid,
}

/// How many pods a binding selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selected {
    /// Pods that may have the identity.
    pub(crate) in_scope: usize,
    /// Pods of other namespaces, which may not.
    pub(crate) out_of_scope: usize,
}

/// Follows a pod's label. A pod holds identities from when it is scheduled until it is finished or
/// gone.
pub(crate) fn desired<'a>(cluster: &'a Cluster, pod: &'a BoundPod, scope: Scope) -> Desired<'a> {
    let mut desired = Desired::default();
    if pod.label().is_empty() || pod.node().is_empty() || pod.is_finished() {
        return desired;
    }
    let bindings: Vec<&AzureIdentityBinding> = cluster.bindings_for(pod.label()).collect();
    if bindings.is_empty() {
        desired.problems.push(PodProblem::NoBinding);
        return desired;
    }
    for binding in &bindings {
        let in_scope = cluster.identity(&named_by(binding)).is_none_or(|identity| {
            api::matching::in_scope(&identity.object, namespace(&pod.metadata), scope)
        });
        desired.selected.push((binding, in_scope));
    }
    let find = |namespace: &str, name: &str| {
        cluster.identity(&ObjectKey::new(namespace, name)).map(|identity| &*identity.object)
    };
    for found in matches(namespace(&pod.metadata), pod.label(), bindings, find, scope) {
        match found {
            Match::Identity { binding, identity } => {
                desired.add_match(cluster, pod, binding, identity);
            }
            Match::MissingIdentity { binding } => {
                desired.problems.push(PodProblem::MissingIdentity(binding));
            }
            Match::OutOfScope { binding, identity } => {
                desired.problems.push(PodProblem::OutOfScope(binding, identity));
            }
        }
    }
    desired
}

// === impl Desired ===

impl<'a> Desired<'a> {
    /// Why the pod lacks something, if it does.
    pub(crate) fn lack(&self) -> Option<Lack> {
        let lacks = self.problems.iter().filter_map(|problem| match problem {
            PodProblem::NoBinding => Some(Lack::NoBinding),
            PodProblem::MissingIdentity(_) => Some(Lack::IdentityNotFound),
            PodProblem::InvalidIdentity(..) => Some(Lack::IdentityInvalid),
            // A binding of another namespace may use the same selector and not mean this pod.
            PodProblem::OutOfScope(..) => self.assignments.is_empty().then_some(Lack::OutOfScope),
        });
        lacks.max()
    }

    fn add_match(
        &mut self,
        cluster: &'a Cluster,
        pod: &'a BoundPod,
        binding: &'a AzureIdentityBinding,
        identity: &'a AzureIdentity,
    ) {
        let Some(entry) = cluster.identity(&ObjectKey::of(identity)) else { return };
        let place = match &entry.attach {
            Err(problem) => {
                self.problems.push(PodProblem::InvalidIdentity(identity, problem.clone()));
                return;
            }
            Ok(None) => Place::Nowhere,
            Ok(Some(id)) => place(cluster, pod.node(), id),
        };
        let (identity_ns, identity_name) = key(identity);
        let name =
            assigned_name(name(&pod.metadata), uid(&pod.metadata), identity_ns, identity_name);
        self.assignments.push(Assignment { name, pod, binding, identity, place });
    }
}

// === impl Lack ===

impl Lack {
    /// All of them, in their order.
    pub(crate) const ALL: [Self; 4] =
        [Self::OutOfScope, Self::NoBinding, Self::IdentityNotFound, Self::IdentityInvalid];

    /// As a metric's label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::OutOfScope => "out_of_scope",
            Self::NoBinding => "no_binding",
            Self::IdentityNotFound => "identity_not_found",
            Self::IdentityInvalid => "identity_invalid",
        }
    }
}

// === impl Assignment ===

impl Assignment<'_> {
    /// The key of its `AzureAssignedIdentity`.
    pub(crate) fn key(&self) -> ObjectKey {
        ObjectKey::new(namespace(&self.pod.metadata), &self.name)
    }
}

fn place<'a>(cluster: &'a Cluster, node: &str, identity: &'a IdentityId) -> Place<'a> {
    match cluster.host(node) {
        None => Place::Unknown(NodeProblem::Missing(node.to_owned())),
        Some(Ok(host)) => Place::Host { host, identity },
        Some(Err(source)) => {
            Place::Unknown(NodeProblem::NoHost { node: node.to_owned(), source: source.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Snapshot;
    use crate::testing::{self, Edit, binding, identity, node, pod, snapshot};

    /// `pod -> identity @ host` of every assignment, `pod ! problem` of every problem.
    fn outcome(world: &Snapshot) -> Vec<String> {
        let cluster = testing::cluster(world);
        let mut all = Vec::new();
        for pod in &world.pods {
            let desired = desired(&cluster, pod, Scope::Cluster);
            all.extend(desired.assignments.iter().map(|a| {
                let place = match &a.place {
                    Place::Nowhere => "-".to_owned(),
                    Place::Host { host, .. } => host.id().name().to_owned(),
                    Place::Unknown(problem) => problem.to_string(),
                };
                format!("{} -> {} @ {place}", name(&a.pod.metadata), name(&a.identity.metadata))
            }));
            all.extend(desired.problems.iter().map(|problem| {
                let problem = match problem {
                    PodProblem::NoBinding => "no binding".to_owned(),
                    PodProblem::MissingIdentity(b) => format!("missing {}", b.spec.identity_name()),
                    PodProblem::OutOfScope(_, i) => format!("scope of {}", name(&i.metadata)),
                    PodProblem::InvalidIdentity(i, _) => format!("invalid {}", name(&i.metadata)),
                };
                format!("{} ! {problem}", name(&pod.metadata))
            }));
        }
        all.sort();
        all
    }

    #[test]
    fn a_pod_holds_identities_while_it_is_scheduled_and_unfinished() {
        let mut world = snapshot();
        world.nodes = vec![node("n1", "vmss-a").into()];
        world.identities = vec![identity("team", "db").into()];
        world.bindings = vec![binding("team", "b", "db", "sel").into()];
        let cases: [(&str, Edit<'_, BoundPod>, &[&str]); 6] = [
            ("running", &|_| {}, &["web -> db @ vmss-a"]),
            ("unscheduled", &|pod| pod.spec.node_name = None, &[]),
            ("succeeded", &|pod| pod.status.phase = Some("Succeeded".into()), &[]),
            ("failed", &|pod| pod.status.phase = Some("Failed".into()), &[]),
            ("unlabelled", &|pod| testing::relabel(pod, ""), &[]),
            ("unbound", &|pod| testing::relabel(pod, "other"), &["web ! no binding"]),
        ];
        for (case, change, expected) in cases {
            let mut pod = pod("apps", "web", "sel", "n1");
            change(&mut pod);
            world.pods = vec![pod.into()];
            assert_eq!(outcome(&world), expected, "{case}");
        }
    }

    #[test]
    fn what_cannot_be_assigned_is_a_problem_of_the_pod() {
        let mut world = snapshot();
        world.nodes = vec![node("n1", "vmss-a").into()];
        let mut invalid = identity("team", "invalid");
        invalid.spec.resource_id = Some("nonsense".to_owned());
        let mut namespaced = identity("team", "local");
        testing::annotate(&mut namespaced.metadata, api::labels::BEHAVIOR, "namespaced");
        world.identities = vec![invalid.into(), namespaced.into()];
        world.bindings = ["invalid", "local", "gone"]
            .map(|name| binding("team", name, name, "sel").into())
            .to_vec();
        world.pods = vec![pod("apps", "web", "sel", "n1").into()];
        assert_eq!(
            outcome(&world),
            ["web ! invalid invalid", "web ! missing gone", "web ! scope of local"]
        );
    }

    #[test]
    fn a_pod_lacks_what_is_not_there_but_not_what_other_namespaces_keep_to_themselves() {
        let mut world = snapshot();
        let mut local = identity("team", "local");
        testing::annotate(&mut local.metadata, api::labels::BEHAVIOR, "namespaced");
        let mut invalid = identity("team", "invalid");
        invalid.spec.resource_id = Some("nonsense".to_owned());
        world.identities = vec![local.into(), invalid.into(), identity("team", "db").into()];
        let pod = pod("apps", "web", "sel", "n1");
        let cases: [(&[&str], Option<Lack>); 6] = [
            (&[], Some(Lack::NoBinding)),
            (&["db"], None),
            (&["local"], Some(Lack::OutOfScope)),
            (&["local", "db"], None),
            (&["db", "gone"], Some(Lack::IdentityNotFound)),
            (&["gone", "invalid", "local"], Some(Lack::IdentityInvalid)),
        ];
        for (names, expected) in cases {
            let bindings = names.iter().map(|name| binding("team", name, name, "sel").into());
            world.bindings = bindings.collect();
            let cluster = testing::cluster(&world);
            assert_eq!(desired(&cluster, &pod, Scope::Cluster).lack(), expected, "{names:?}");
        }
    }

    #[test]
    fn a_node_that_is_unknown_or_elsewhere_is_named() {
        let mut world = snapshot();
        let mut bare = node("bare", "x");
        bare.spec.provider_id = None;
        world.nodes = vec![bare.into()];
        world.identities = vec![identity("team", "db").into()];
        world.bindings = vec![binding("team", "b", "db", "sel").into()];
        world.pods =
            vec![pod("apps", "a", "sel", "gone").into(), pod("apps", "b", "sel", "bare").into()];
        let outcome = outcome(&world);
        assert!(outcome[0].contains("node gone does not exist"), "{outcome:?}");
        assert!(outcome[1].contains("the node has no spec.providerID"), "{outcome:?}");
    }

    #[test]
    fn every_binding_counts_its_pods_even_when_another_wins() {
        let mut world = snapshot();
        world.identities = vec![identity("team", "db").into()];
        world.bindings = ["a", "b"].map(|name| binding("team", name, "db", "sel").into()).to_vec();
        world.pods = vec![pod("apps", "web", "sel", "n1").into()];
        let cluster = testing::cluster(&world);
        let desired = desired(&cluster, &world.pods[0], Scope::Cluster);
        assert_eq!(desired.assignments.len(), 1);
        let mut selected: Vec<_> =
            desired.selected.iter().map(|(b, in_scope)| (name(&b.metadata), *in_scope)).collect();
        selected.sort_unstable();
        assert_eq!(selected, [("a", true), ("b", true)]);
    }
}
