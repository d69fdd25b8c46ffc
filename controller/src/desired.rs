//! Which pods should hold which identities, and why some pods hold fewer than their label asks for.
//!
//! Pure. Whether an identity can be used yet is `verdict`'s question.

use std::collections::HashMap;

use api::crd::{IdentityProblem, assigned_name};
use api::host::HostError;
use api::matching::{Match, Scope, matches};
use api::{AzureIdentity, AzureIdentityBinding, Host, IdentityId};

use crate::snapshot::{Index, key};
use crate::watch::{BoundPod, name, namespace, uid};

/// What should be.
#[derive(Default)]
pub(crate) struct Desired<'a> {
    pub(crate) assignments: Vec<Assignment<'a>>,
    pub(crate) problems: Vec<(&'a BoundPod, PodProblem<'a>)>,
    /// Pods that each binding selects, by the binding's namespace and name.
    pub(crate) selected: HashMap<(&'a str, &'a str), Selected>,
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

/// How many pods a binding selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selected {
    /// Pods that may have the identity.
    pub(crate) in_scope: usize,
    /// Pods of other namespaces, which may not.
    pub(crate) out_of_scope: usize,
}

/// Follows every pod's label. A pod holds identities from when it is scheduled until it is
/// finished or gone.
pub(crate) fn desired<'a>(index: &'a Index<'a>, scope: Scope) -> Desired<'a> {
    let mut desired = Desired::default();
    for pod in index.pods {
        if !pod.label().is_empty() && !pod.node().is_empty() && !pod.is_finished() {
            desired.add_pod(index, pod, scope);
        }
    }
    desired
}

// === impl Desired ===

impl<'a> Desired<'a> {
    fn add_pod(&mut self, index: &'a Index<'a>, pod: &'a BoundPod, scope: Scope) {
        let bindings = index.selectors.get(pod.label()).map_or(&[][..], Vec::as_slice);
        if bindings.is_empty() {
            self.problems.push((pod, PodProblem::NoBinding));
            return;
        }
        self.count(index, pod, bindings, scope);
        let find = |namespace: &str, name: &str| {
            index.identities.get(&(namespace, name)).map(|identity| identity.object)
        };
        for found in
            matches(namespace(&pod.metadata), pod.label(), bindings.iter().copied(), find, scope)
        {
            match found {
                Match::Identity { binding, identity } => {
                    self.add_match(index, pod, binding, identity);
                }
                Match::MissingIdentity { binding } => {
                    self.problems.push((pod, PodProblem::MissingIdentity(binding)));
                }
                Match::OutOfScope { binding, identity } => {
                    self.problems.push((pod, PodProblem::OutOfScope(binding, identity)));
                }
            }
        }
    }

    fn add_match(
        &mut self,
        index: &'a Index<'a>,
        pod: &'a BoundPod,
        binding: &'a AzureIdentityBinding,
        identity: &'a AzureIdentity,
    ) {
        let Some(entry) = index.identities.get(&key(identity)) else { return };
        let place = match &entry.attach {
            Err(problem) => {
                let problem = PodProblem::InvalidIdentity(identity, problem.clone());
                self.problems.push((pod, problem));
                return;
            }
            Ok(None) => Place::Nowhere,
            Ok(Some(id)) => place(index, pod.node(), id),
        };
        let (identity_ns, identity_name) = key(identity);
        let name =
            assigned_name(name(&pod.metadata), uid(&pod.metadata), identity_ns, identity_name);
        self.assignments.push(Assignment { name, pod, binding, identity, place });
    }

    /// Counts per binding, also those that lose to another binding of the same identity.
    fn count(
        &mut self,
        index: &'a Index<'a>,
        pod: &BoundPod,
        bindings: &[&'a AzureIdentityBinding],
        scope: Scope,
    ) {
        for binding in bindings {
            let selected = self.selected.entry(key(*binding)).or_default();
            let named = (namespace(&binding.metadata), binding.spec.identity_name());
            let allowed = index.identities.get(&named).is_none_or(|identity| {
                api::matching::in_scope(identity.object, namespace(&pod.metadata), scope)
            });
            if allowed {
                selected.in_scope += 1;
            } else {
                selected.out_of_scope += 1;
            }
        }
    }
}

fn place<'a>(index: &'a Index<'a>, node: &str, identity: &'a IdentityId) -> Place<'a> {
    match index.hosts.get(node) {
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
    fn outcome(snapshot: &Snapshot) -> Vec<String> {
        let index = snapshot.index();
        let desired = desired(&index, Scope::Cluster);
        let assignments = desired.assignments.iter().map(|a| {
            let place = match &a.place {
                Place::Nowhere => "-".to_owned(),
                Place::Host { host, .. } => host.id().name().to_owned(),
                Place::Unknown(problem) => problem.to_string(),
            };
            format!("{} -> {} @ {place}", name(&a.pod.metadata), name(&a.identity.metadata))
        });
        let problems = desired.problems.iter().map(|(pod, problem)| {
            let problem = match problem {
                PodProblem::NoBinding => "no binding".to_owned(),
                PodProblem::MissingIdentity(b) => format!("missing {}", b.spec.identity_name()),
                PodProblem::OutOfScope(_, i) => format!("scope of {}", name(&i.metadata)),
                PodProblem::InvalidIdentity(i, _) => format!("invalid {}", name(&i.metadata)),
            };
            format!("{} ! {problem}", name(&pod.metadata))
        });
        let mut all: Vec<String> = assignments.chain(problems).collect();
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
        let index = world.index();
        let desired = desired(&index, Scope::Cluster);
        assert_eq!(desired.assignments.len(), 1);
        assert_eq!(desired.selected[&("team", "a")].in_scope, 1);
        assert_eq!(desired.selected[&("team", "b")].in_scope, 1);
    }
}
