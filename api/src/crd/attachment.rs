//! `AzureIdentityAttachment`: what the controller attached to one VM or scale set, written before
//! ARM is asked, so that it is still known after a crash what to detach. Its status says how the
//! host stands.

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
    status = "AzureIdentityAttachmentStatus",
    printcolumn = r#"{"name":"Host","type":"string","jsonPath":".status.host"}"#,
    printcolumn = r#"{"name":"Identities","type":"integer","jsonPath":".status.identityCount"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"jsonPath":".status.reason"}"#,
    printcolumn = r#"{"name":"Next Attempt","type":"string","jsonPath":".status.nextAttempt"}"#,
    printcolumn = r#"{"name":"ID","type":"string","priority":1,"jsonPath":".spec.host"}"#,
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

/// How a host stands, for people: nothing is decided by it, but that a new leader leaves a host alone
/// that ARM throttles. Said whenever there is nothing more to do for the moment; all times are
/// RFC 3339.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureIdentityAttachmentStatus {
    /// `Pending`: nothing was said yet; `Updating`: a change is under way; `Ready`: what pods need
    /// is attached; `Failing`: something is not, or cannot be looked at; `HostNotFound`: ARM does
    /// not know the host.
    #[serde(default = "pending")]
    pub state: String,
    /// Kind and name of the host: `vm/…` or `vmss/…`.
    pub host: Option<String>,
    /// How many identities are recorded.
    pub identity_count: Option<i32>,
    /// Why not `Ready`, in one word.
    pub reason: Option<String>,
    /// What to do, and ARM's words.
    pub message: Option<String>,
    /// The identities that cannot be attached or detached.
    #[serde(default)]
    pub failing: Vec<FailingIdentity>,
    /// When ARM is asked again, where something fails. Past: it is being asked.
    pub next_attempt: Option<String>,
    /// Since when the state is what it is.
    pub last_transition_time: Option<String>,
    /// When all this was found.
    pub observed_at: Option<String>,
}

/// An identity that cannot be attached to a host, or not detached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailingIdentity {
    /// ARM id of the identity.
    #[serde(rename = "resourceID", default)]
    pub resource_id: String,
    /// Why, in one word.
    #[serde(default)]
    pub reason: String,
    /// What to do, and ARM's words.
    #[serde(default)]
    pub message: String,
    /// When ARM is asked again. Past: it is being asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
}

/// The states of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostState {
    /// Nothing was said yet.
    Pending,
    /// A change is under way.
    Updating,
    /// What pods need is attached.
    Ready,
    /// Something is not attached that should be, or the host cannot be looked at.
    Failing,
    /// ARM does not know the host.
    HostNotFound,
}

impl HostState {
    /// The state as `status.state` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Updating => "Updating",
            Self::Ready => "Ready",
            Self::Failing => "Failing",
            Self::HostNotFound => "HostNotFound",
        }
    }
}

fn pending() -> String {
    HostState::Pending.as_str().to_owned()
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
    fn a_status_of_any_release_reads() {
        let read = |json| serde_json::from_value::<AzureIdentityAttachmentStatus>(json).unwrap();
        let empty = read(serde_json::json!({}));
        assert_eq!((empty.state.as_str(), empty.failing.len()), ("Pending", 0));
        let later = read(serde_json::json!({
            "state": "Paused", "since": 7, "host": null, "failing": [{"resourceID": "x", "hint": "y"}],
        }));
        assert_eq!((later.state.as_str(), later.failing[0].resource_id.as_str()), ("Paused", "x"));
    }

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
