//! `AzurePodIdentityException`: pods that the node guard lets through to the metadata address.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Lets pods of its own namespace reach the node's metadata service, and with it every identity
/// that is attached to the node. For agents that need the node's own identity.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "aadpodidentity.k8s.io",
    version = "v1",
    kind = "AzurePodIdentityException",
    plural = "azurepodidentityexceptions",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"PodLabels","type":"string","jsonPath":".spec.podLabels"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct AzurePodIdentityExceptionSpec {
    /// A pod is excepted if it carries one of these labels: key exactly, value without case, as
    /// aad-pod-identity compared them.
    #[serde(rename = "podLabels", alias = "PodLabels", default)]
    pub pod_labels: Option<BTreeMap<String, String>>,
}

impl AzurePodIdentityExceptionSpec {
    /// Whether one of the exception's labels is on the pod.
    pub fn excepts(&self, pod_labels: &BTreeMap<String, String>) -> bool {
        self.pod_labels.iter().flatten().any(|(key, value)| {
            pod_labels.get(key).is_some_and(|actual| actual.eq_ignore_ascii_case(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn one_matching_label_is_enough_and_none_is_not() {
        let spec = AzurePodIdentityExceptionSpec {
            pod_labels: Some(map(&[("app", "Agent"), ("tier", "system")])),
        };
        assert!(spec.excepts(&map(&[("app", "agent"), ("x", "y")])));
        assert!(!spec.excepts(&map(&[("app", "other")])));
        assert!(!spec.excepts(&map(&[("App", "Agent")])));
        assert!(!AzurePodIdentityExceptionSpec::default().excepts(&map(&[("app", "agent")])));
    }
}
