//! `AzureIdentityAttachment`: what the controller attached to one VM or scale set, written before
//! ARM is asked, so that it is still known after a crash what to detach.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::labels;

/// One host and the identities on it that are the controller's. Lives in the release namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "aadpodidentity.k8s.io",
    version = "v1",
    kind = "AzureIdentityAttachment",
    plural = "azureidentityattachments",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"Host","type":"string","jsonPath":".spec.host"}"#,
    printcolumn = r#"{"name":"Identities","type":"string","jsonPath":".spec.identities[*].resourceID"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct AzureIdentityAttachmentSpec {
    /// ARM id of the VM or scale set.
    pub host: String,
    /// The identities that the controller attached, or was about to attach.
    #[serde(default)]
    pub identities: Vec<AttachedIdentity>,
}

/// One identity on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachedIdentity {
    /// ARM id of the identity, as the `AzureIdentity` spelled it.
    #[serde(rename = "resourceID")]
    pub resource_id: String,
    /// When the last user left (RFC 3339); absent while the identity is in use.
    #[serde(rename = "unusedSince", default, skip_serializing_if = "Option::is_none")]
    pub unused_since: Option<String>,
}

/// The name of the record of a host: the same for every casing of its id.
pub fn attachment_name(host: &Host) -> String {
    let hash = labels::short_hash(&[host.id().folded()]);
    let readable: String = host
        .id()
        .name()
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let readable = readable.trim_matches('-');
    if readable.is_empty() {
        return format!("host-{hash}");
    }
    format!("{}-{hash}", labels::fit(readable, 200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_a_host_whatever_its_casing() {
        let name = |id: &str| attachment_name(&Host::from_provider_id(id).unwrap());
        let a = name(
            "azure:///subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/virtualMachines/My_VM",
        );
        let b = name(
            "azure:///subscriptions/s/resourcegroups/g/providers/microsoft.compute/virtualmachines/my_vm",
        );
        assert_eq!(a, b);
        assert!(a.starts_with("my-vm-"), "{a}");
        let other = name(
            "azure:///subscriptions/s/resourcegroups/h/providers/microsoft.compute/virtualmachines/my_vm",
        );
        assert_ne!(a, other);
    }
}
