//! `AzureAssignedIdentity`: one identity assigned to one pod. Whoever may write one can take an
//! identity, so only the controller may.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AzureIdentity, AzureIdentityBinding};
use crate::labels;

/// Written by the controller into the pod's namespace, read by the agent of the pod's node.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "aadpodidentity.k8s.io",
    version = "v1",
    kind = "AzureAssignedIdentity",
    plural = "azureassignedidentities",
    namespaced,
    derive = "PartialEq",
    status = "AzureAssignedIdentityStatus",
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.pod"}"#,
    printcolumn = r#"{"name":"Identity","type":"string","jsonPath":".spec.azureIdentityRef.metadata.name"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.nodename"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.status"}"#,
    printcolumn = r#"{"name":"Host","type":"string","priority":1,"jsonPath":".status.host"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct AzureAssignedIdentitySpec {
    /// The identity as it was when it was assigned: name, namespace, the namespaced annotation and
    /// the spec.
    #[serde(rename = "azureIdentityRef", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::manifests::embedded_resource")]
    pub identity: Option<Box<AzureIdentity>>,

    /// The binding that matched: name, namespace and spec.
    #[serde(rename = "azureBindingRef", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::manifests::embedded_resource")]
    pub binding: Option<Box<AzureIdentityBinding>>,

    /// The pod's name.
    #[serde(default)]
    pub pod: String,

    /// The pod's namespace; always the object's own.
    #[serde(rename = "podNamespace", default)]
    pub pod_namespace: String,

    /// The pod's uid: a pod of the same name is another pod.
    #[serde(rename = "podUID", default)]
    pub pod_uid: String,

    /// The pod's node.
    #[serde(rename = "nodename", default)]
    pub node_name: String,
}

/// How far the assignment is. Part of the object itself, not a subresource, as it was in
/// aad-pod-identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AzureAssignedIdentityStatus {
    /// `Created`: not usable yet; `Assigned`: tokens can be had.
    #[serde(default)]
    pub status: String,
    /// Why it is not assigned yet, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Type 0: the client id that ARM reports for the attached identity.
    #[serde(rename = "clientID", default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Type 0: the object id (principal id) that ARM reports for the attached identity.
    #[serde(rename = "objectID", default, skip_serializing_if = "Option::is_none")]
    pub object_id: Option<String>,
    /// Type 0: where the identity is attached, by the name of the VM's or scale set's
    /// `AzureIdentityAttachment`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// The states of an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AssignedState {
    /// The identity is being attached to the host.
    Created,
    /// The identity is attached; tokens can be had.
    Assigned,
    /// Left behind by aad-pod-identity: detached, about to be deleted.
    Unassigned,
}

impl AssignedState {
    /// The state as `status.status` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Assigned => "Assigned",
            Self::Unassigned => "Unassigned",
        }
    }
}

impl AzureAssignedIdentity {
    /// The state; anything unknown, also nothing, is not usable.
    pub fn state(&self) -> AssignedState {
        match self.status.as_ref().map(|status| status.status.as_str()) {
            Some("Assigned") => AssignedState::Assigned,
            Some("Unassigned") => AssignedState::Unassigned,
            _ => AssignedState::Created,
        }
    }
}

/// The name of the object for a pod and an identity: readable, at most 253 bytes, and different
/// for every pair of pod uid and identity.
pub fn assigned_name(pod: &str, pod_uid: &str, identity_ns: &str, identity: &str) -> String {
    let hash = labels::short_hash(&[pod_uid, identity_ns, identity]);
    format!("{}-{hash}", labels::fit(pod, 253 - 17))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_collide_where_upstreams_did() {
        // aad-pod-identity joined pod, namespace and identity: a-b/c and a/b-c met.
        let names = [
            assigned_name("web-0", "uid-1", "team-a", "db"),
            assigned_name("web-0", "uid-2", "team-a", "db"),
            assigned_name("web-0", "uid-1", "team", "a-db"),
            assigned_name("web-0", "uid-1", "team-a", "queue"),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(assigned_name(&"p".repeat(253), "u", "n", "i").len() <= 253);
    }

    #[test]
    fn only_assigned_is_usable() {
        let mut object = AzureAssignedIdentity::new("n", AzureAssignedIdentitySpec::default());
        assert_eq!(object.state(), AssignedState::Created);
        for (text, state) in [
            ("Assigned", AssignedState::Assigned),
            ("assigned", AssignedState::Created),
            ("Unassigned", AssignedState::Unassigned),
            ("", AssignedState::Created),
        ] {
            object.status =
                Some(AzureAssignedIdentityStatus { status: text.to_owned(), ..Default::default() });
            assert_eq!(object.state(), state, "{text}");
        }
    }
}
