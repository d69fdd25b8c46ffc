//! Which identities a pod gets: every binding whose selector equals the pod's label, the identity
//! of that name in the binding's namespace.

use std::collections::BTreeSet;

use crate::crd::{AzureIdentity, AzureIdentityBinding};

/// How far a binding reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Pods of all namespaces, except where an identity is annotated as namespaced.
    #[default]
    Cluster,
    /// Only pods of the binding's own namespace (`--forceNamespaced`).
    Namespaced,
}

/// What a pod's label led to, per matching binding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Match<'a> {
    /// The pod gets the identity.
    Identity {
        /// The binding that matched.
        binding: &'a AzureIdentityBinding,
        /// The identity it names.
        identity: &'a AzureIdentity,
    },
    /// The binding names an identity that its namespace does not have.
    MissingIdentity {
        /// The binding that matched.
        binding: &'a AzureIdentityBinding,
    },
    /// Identity and binding are for pods of their own namespace only, and the pod is elsewhere.
    OutOfScope {
        /// The binding that matched.
        binding: &'a AzureIdentityBinding,
        /// The identity it names.
        identity: &'a AzureIdentity,
    },
}

/// Whether the selector is the pod's label; empty selects nothing.
pub fn selects(binding: &AzureIdentityBinding, pod_label: &str) -> bool {
    let selector = binding.spec.selector();
    !selector.is_empty() && selector == pod_label
}

/// Whether a pod of `pod_namespace` may get the identity.
pub fn in_scope(identity: &AzureIdentity, pod_namespace: &str, scope: Scope) -> bool {
    let namespaced = scope == Scope::Namespaced || identity.is_namespaced();
    !namespaced || identity.metadata.namespace.as_deref() == Some(pod_namespace)
}

/// Follows one pod's label through the bindings that select it.
///
/// `identity` finds an identity by namespace and name. Two bindings that name the same identity
/// count once: the first, by namespace and name, wins, so that the outcome depends on no order.
pub fn matches<'a>(
    pod_namespace: &str,
    pod_label: &str,
    bindings: impl IntoIterator<Item = &'a AzureIdentityBinding>,
    identity: impl Fn(&str, &str) -> Option<&'a AzureIdentity>,
    scope: Scope,
) -> Vec<Match<'a>> {
    let mut selected: Vec<&AzureIdentityBinding> =
        bindings.into_iter().filter(|binding| selects(binding, pod_label)).collect();
    selected.sort_by_key(|binding| (&binding.metadata.namespace, &binding.metadata.name));

    let mut seen = BTreeSet::new();
    selected
        .into_iter()
        .filter(|binding| seen.insert((&binding.metadata.namespace, binding.spec.identity_name())))
        .map(|binding| {
            let namespace = binding.metadata.namespace.as_deref().unwrap_or_default();
            match identity(namespace, binding.spec.identity_name()) {
                None => Match::MissingIdentity { binding },
                Some(identity) if in_scope(identity, pod_namespace, scope) => {
                    Match::Identity { binding, identity }
                }
                Some(identity) => Match::OutOfScope { binding, identity },
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::crd::{AzureIdentityBindingSpec, AzureIdentitySpec};
    use crate::labels;

    fn binding(
        namespace: &str,
        name: &str,
        identity: &str,
        selector: &str,
    ) -> AzureIdentityBinding {
        let spec = AzureIdentityBindingSpec {
            azure_identity: Some(identity.to_owned()),
            selector: Some(selector.to_owned()),
            weight: None,
        };
        let mut binding = AzureIdentityBinding::new(name, spec);
        binding.metadata.namespace = Some(namespace.to_owned());
        binding
    }

    fn identity(namespace: &str, name: &str, behavior: Option<&str>) -> AzureIdentity {
        let mut identity = AzureIdentity::new(name, AzureIdentitySpec::default());
        identity.metadata.namespace = Some(namespace.to_owned());
        identity.metadata.annotations =
            behavior.map(|value| BTreeMap::from([(labels::BEHAVIOR.to_owned(), value.to_owned())]));
        identity
    }

    /// `namespace/identity` of what the pod gets, `?` for a missing identity, `-` for out of scope.
    fn outcome(
        pod: (&str, &str),
        bindings: &[AzureIdentityBinding],
        identities: &[AzureIdentity],
        scope: Scope,
    ) -> Vec<String> {
        let find = |namespace: &str, name: &str| {
            identities.iter().find(|identity| {
                identity.metadata.namespace.as_deref() == Some(namespace)
                    && identity.metadata.name.as_deref() == Some(name)
            })
        };
        let name = |i: &AzureIdentity| {
            format!(
                "{}/{}",
                i.metadata.namespace.clone().unwrap(),
                i.metadata.name.clone().unwrap()
            )
        };
        matches(pod.0, pod.1, bindings, find, scope)
            .into_iter()
            .map(|found| match found {
                Match::Identity { identity, .. } => name(identity),
                Match::MissingIdentity { binding } => format!("?{}", binding.spec.identity_name()),
                Match::OutOfScope { identity, .. } => format!("-{}", name(identity)),
            })
            .collect()
    }

    #[test]
    fn a_pod_gets_what_its_label_selects() {
        let bindings = [
            binding("b", "one", "x", "sel"),
            binding("a", "two", "y", "sel"),
            binding("a", "three", "y", "sel"),
            binding("a", "four", "z", "other"),
            binding("a", "five", "gone", "sel"),
            binding("a", "six", "y", ""),
        ];
        let identities =
            [identity("b", "x", None), identity("a", "y", None), identity("a", "z", None)];
        let cases: [((&str, &str), &[&str]); 5] = [
            (("pods", "sel"), &["?gone", "a/y", "b/x"]),
            (("a", "other"), &["a/z"]),
            (("a", "Sel"), &[]),
            (("a", ""), &[]),
            (("a", "sel "), &[]),
        ];
        for (pod, expected) in cases {
            assert_eq!(outcome(pod, &bindings, &identities, Scope::Cluster), expected, "{pod:?}");
        }
    }

    #[test]
    fn the_identity_is_looked_up_in_the_bindings_namespace_only() {
        let bindings = [binding("a", "one", "x", "sel")];
        let elsewhere = [identity("b", "x", None)];
        assert_eq!(outcome(("a", "sel"), &bindings, &elsewhere, Scope::Cluster), ["?x"]);
    }

    #[test]
    fn namespaced_identities_stay_in_their_namespace() {
        let bindings = [binding("a", "one", "x", "sel")];
        let cases = [
            (None, Scope::Cluster, "a", "a/x"),
            (None, Scope::Cluster, "b", "a/x"),
            (Some("namespaced"), Scope::Cluster, "a", "a/x"),
            (Some("namespaced"), Scope::Cluster, "b", "-a/x"),
            (Some("Namespaced"), Scope::Cluster, "b", "a/x"),
            (None, Scope::Namespaced, "a", "a/x"),
            (None, Scope::Namespaced, "b", "-a/x"),
        ];
        for (behavior, scope, pod_namespace, expected) in cases {
            let identities = [identity("a", "x", behavior)];
            assert_eq!(
                outcome((pod_namespace, "sel"), &bindings, &identities, scope),
                [expected],
                "{behavior:?} {scope:?} {pod_namespace}"
            );
        }
    }
}
