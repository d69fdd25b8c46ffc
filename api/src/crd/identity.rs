//! `AzureIdentity`: one Azure identity that bindings may hand to pods.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, ResourceExt};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::arm_id::{ArmIdError, IdentityId};
use crate::guid::{Guid, NotAGuid};
use crate::labels;

/// Names an Azure identity and says how its tokens are obtained. Field names are those of
/// aad-pod-identity; the capitalised ones of its oldest releases are read too.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "aadpodidentity.k8s.io",
    version = "v1",
    kind = "AzureIdentity",
    plural = "azureidentities",
    namespaced,
    derive = "PartialEq",
    status = "AzureIdentityStatus",
    printcolumn = r#"{"name":"Type","type":"integer","jsonPath":".spec.type"}"#,
    printcolumn = r#"{"name":"ClientID","type":"string","jsonPath":".spec.clientID"}"#,
    printcolumn = r#"{"name":"Pods","type":"integer","jsonPath":".status.pods"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct AzureIdentitySpec {
    /// 0: user-assigned managed identity, 1: service principal with a secret, 2: service principal
    /// with a certificate.
    #[serde(rename = "type", default)]
    pub kind: IdentityType,

    /// Type 0: the ARM id of the managed identity, as `az identity show --query id` prints it.
    #[serde(
        rename = "resourceID",
        alias = "ResourceID",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub resource_id: Option<String>,

    /// The client id (application id) of the identity.
    #[serde(
        rename = "clientID",
        alias = "ClientID",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub client_id: Option<String>,

    /// Types 1 and 2: the Secret that holds the credential; it must be in the identity's own
    /// namespace.
    #[serde(
        rename = "clientPassword",
        alias = "ClientPassword",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub client_password: Option<SecretRef>,

    /// Types 1 and 2: the tenant of the application.
    #[serde(
        rename = "tenantID",
        alias = "TenantID",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub tenant_id: Option<String>,

    /// Type 1: further tenants of a multi-tenant application.
    #[serde(
        rename = "auxiliaryTenantIDs",
        alias = "AuxiliaryTenantIDs",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(inner(length(max = 253)))]
    pub auxiliary_tenant_ids: Option<Vec<String>>,

    /// Types 1 and 2: the Entra endpoint, where it is not the cluster's own cloud. https only.
    #[serde(
        rename = "adEndpoint",
        alias = "ADEndpoint",
        alias = "AdEndpoint",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub ad_endpoint: Option<String>,

    /// Kept for compatibility; the resource is always the one that the caller asks for.
    #[serde(
        rename = "adResourceID",
        alias = "ADResourceID",
        alias = "AdResourceID",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub ad_resource_id: Option<String>,
}

/// A Secret by name. Another namespace than the identity's own is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Name of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace of the Secret; the identity's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What the controller found out about an identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AzureIdentityStatus {
    /// `Ready`: whether pods can get tokens of this identity, and what to do if not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Pods to which the identity is assigned.
    #[serde(default)]
    pub pods: i32,
}

/// The kinds of identity. A number from elsewhere is kept, so that one odd object cannot break
/// reading all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "i64", into = "i64")]
pub enum IdentityType {
    /// 0: a user-assigned managed identity, attached to the host and minted by IMDS.
    #[default]
    UserAssigned,
    /// 1: a service principal with a client secret.
    ServicePrincipal,
    /// 2: a service principal with a certificate.
    ServicePrincipalCertificate,
    /// None of these.
    Unknown(i64),
}

/// Why an identity cannot be used as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityProblem {
    /// A field that the type needs is missing.
    #[error("type {kind} needs spec.{field}")]
    MissingField {
        /// The identity's type.
        kind: i64,
        /// The field.
        field: &'static str,
    },
    /// `resourceID` is malformed.
    #[error("spec.resourceID: {0}")]
    ResourceId(#[from] ArmIdError),
    /// `clientID` is malformed.
    #[error("spec.clientID: {0}")]
    ClientId(#[from] NotAGuid),
    /// The type is unknown.
    #[error(
        "spec.type {0} is unknown: use 0 (user-assigned identity), 1 (service principal with secret) or 2 (with certificate)"
    )]
    UnknownType(i64),
    /// The secret is elsewhere.
    #[error(
        "spec.clientPassword.namespace is {0:?}: the Secret must be in the identity's own namespace"
    )]
    ForeignSecret(String),
}

// === impl AzureIdentity ===

impl AzureIdentity {
    /// Whether the identity's annotation limits it to pods of its own namespace.
    pub fn is_namespaced(&self) -> bool {
        self.annotations()
            .get(labels::BEHAVIOR)
            .is_some_and(|value| value == labels::BEHAVIOR_NAMESPACED)
    }

    /// What the schema checks for new objects, for those that were stored before it.
    pub fn validate(&self) -> Result<(), IdentityProblem> {
        self.spec.identity_id()?;
        self.spec.client_id()?;
        if let Some(namespace) = self.spec.client_password.as_ref().and_then(SecretRef::namespace)
            && Some(namespace) != self.metadata.namespace.as_deref()
        {
            return Err(IdentityProblem::ForeignSecret(namespace.to_owned()));
        }
        self.spec.require_fields()
    }
}

// === impl AzureIdentitySpec ===

impl AzureIdentitySpec {
    /// Type 0: the ARM id to attach; `None` for the other types.
    pub fn identity_id(&self) -> Result<Option<IdentityId>, IdentityProblem> {
        match self.kind {
            IdentityType::UserAssigned => {
                let text = present(self.resource_id.as_deref())
                    .ok_or(IdentityProblem::MissingField { kind: 0, field: "resourceID" })?;
                Ok(Some(text.parse()?))
            }
            IdentityType::ServicePrincipal | IdentityType::ServicePrincipalCertificate => Ok(None),
            IdentityType::Unknown(kind) => Err(IdentityProblem::UnknownType(kind)),
        }
    }

    /// The client id, if one is given; empty counts as absent.
    pub fn client_id(&self) -> Result<Option<Guid>, IdentityProblem> {
        Ok(present(self.client_id.as_deref()).map(str::parse).transpose()?)
    }

    fn require_fields(&self) -> Result<(), IdentityProblem> {
        if self.kind == IdentityType::UserAssigned {
            return Ok(());
        }
        let kind = self.kind.into();
        let secret = self.client_password.as_ref().and_then(|secret| secret.name.as_deref());
        for (field, value) in [
            ("clientID", self.client_id.as_deref()),
            ("tenantID", self.tenant_id.as_deref()),
            ("clientPassword.name", secret),
        ] {
            if present(value).is_none() {
                return Err(IdentityProblem::MissingField { kind, field });
            }
        }
        Ok(())
    }
}

fn present(value: Option<&str>) -> Option<&str> {
    value.filter(|text| !text.is_empty())
}

// === impl SecretRef ===

impl SecretRef {
    fn namespace(&self) -> Option<&str> {
        present(self.namespace.as_deref())
    }
}

// === impl IdentityType ===

impl From<i64> for IdentityType {
    fn from(number: i64) -> Self {
        match number {
            0 => Self::UserAssigned,
            1 => Self::ServicePrincipal,
            2 => Self::ServicePrincipalCertificate,
            other => Self::Unknown(other),
        }
    }
}

impl From<IdentityType> for i64 {
    fn from(kind: IdentityType) -> Self {
        match kind {
            IdentityType::UserAssigned => 0,
            IdentityType::ServicePrincipal => 1,
            IdentityType::ServicePrincipalCertificate => 2,
            IdentityType::Unknown(other) => other,
        }
    }
}

impl JsonSchema for IdentityType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IdentityType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "enum": [0, 1, 2]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n";
    const GUID: &str = "00000000-0000-0000-0000-00000000000a";

    fn identity(spec: serde_json::Value) -> AzureIdentity {
        let mut identity = AzureIdentity::new("n", serde_json::from_value(spec).unwrap());
        identity.metadata.namespace = Some("team".to_owned());
        identity
    }

    #[test]
    fn the_oldest_spelling_reads_like_the_newest() {
        let old = identity(serde_json::json!({"type": 0, "ResourceID": ID, "ClientID": GUID}));
        let new = identity(serde_json::json!({"resourceID": ID, "clientID": GUID}));
        assert_eq!(old.spec, new.spec);
        assert_eq!(old.validate(), Ok(()));
    }

    #[test]
    fn go_leaves_zero_types_and_empty_strings_in_or_out() {
        let spec = serde_json::json!({"resourceID": ID, "clientID": "", "clientPassword": {}, "auxiliaryTenantIDs": null});
        let identity = identity(spec);
        assert_eq!(identity.validate(), Ok(()));
        assert_eq!(identity.spec.client_id(), Ok(None));
    }

    #[test]
    fn each_problem_names_the_field() {
        let cases = [
            (serde_json::json!({}), "type 0 needs spec.resourceID"),
            (serde_json::json!({"resourceID": "x"}), "spec.resourceID: \"x\" is not an ARM"),
            (serde_json::json!({"resourceID": ID, "clientID": "x"}), "spec.clientID: \"x\""),
            (serde_json::json!({"type": 7}), "spec.type 7 is unknown"),
            (serde_json::json!({"type": 1, "clientID": GUID}), "type 1 needs spec.tenantID"),
            (
                serde_json::json!({"type": 2, "clientID": GUID, "tenantID": "t"}),
                "type 2 needs spec.clientPassword.name",
            ),
            (
                serde_json::json!({"type": 1, "clientID": GUID, "tenantID": "t",
                    "clientPassword": {"name": "s", "namespace": "elsewhere"}}),
                "must be in the identity's own namespace",
            ),
        ];
        for (spec, expected) in cases {
            let error = identity(spec.clone()).validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn only_the_exact_annotation_makes_an_identity_namespaced() {
        for (value, expected) in [("namespaced", true), ("Namespaced", false), ("", false)] {
            let mut identity = identity(serde_json::json!({"resourceID": ID}));
            identity.annotations_mut().insert(labels::BEHAVIOR.to_owned(), value.to_owned());
            assert_eq!(identity.is_namespaced(), expected, "{value}");
        }
    }
}
