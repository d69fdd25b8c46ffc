//! `AzureIdentityBinding`: which pods, by the value of one label, get an identity.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Hands an `AzureIdentity` of its own namespace to the pods whose label `aadpodidbinding` equals
/// the selector.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "aadpodidentity.k8s.io",
    version = "v1",
    kind = "AzureIdentityBinding",
    plural = "azureidentitybindings",
    namespaced,
    derive = "PartialEq",
    status = "AzureIdentityBindingStatus",
    printcolumn = r#"{"name":"AzureIdentity","type":"string","jsonPath":".spec.azureIdentity"}"#,
    printcolumn = r#"{"name":"Selector","type":"string","jsonPath":".spec.selector"}"#,
    printcolumn = r#"{"name":"Pods","type":"integer","jsonPath":".status.pods"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct AzureIdentityBindingSpec {
    /// Name of an `AzureIdentity` in the binding's own namespace.
    #[serde(
        rename = "azureIdentity",
        alias = "AzureIdentity",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub azure_identity: Option<String>,

    /// The value of the pod label `aadpodidbinding`, compared exactly.
    #[serde(alias = "Selector", default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// Kept for compatibility; all matching bindings count.
    #[serde(alias = "Weight", default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
}

/// What the controller found out about a binding.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AzureIdentityBindingStatus {
    /// `Ready`: whether the binding's identity exists and pods match, and what to do if not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Pods that the binding matches.
    #[serde(default)]
    pub pods: i32,
}

impl AzureIdentityBindingSpec {
    /// The identity's name; empty if there is none.
    pub fn identity_name(&self) -> &str {
        self.azure_identity.as_deref().unwrap_or_default()
    }

    /// The selector; empty selects nothing.
    pub fn selector(&self) -> &str {
        self.selector.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_spelling_reads_like_the_newest() {
        let old: AzureIdentityBindingSpec =
            serde_json::from_value(serde_json::json!({"AzureIdentity": "a", "Selector": "s"}))
                .unwrap();
        let new: AzureIdentityBindingSpec =
            serde_json::from_value(serde_json::json!({"azureIdentity": "a", "selector": "s"}))
                .unwrap();
        assert_eq!(old, new);
        assert_eq!((old.identity_name(), old.selector()), ("a", "s"));
    }
}
