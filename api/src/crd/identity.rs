//! `AzureIdentity`: one Azure identity that bindings may hand to pods.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FederatedBy, IdentityType};
use crate::arm_id::{ArmIdError, IdentityId};
use crate::guid::{Guid, NotAGuid};
use crate::labels;
use crate::tenant::{NotATenant, Tenant};

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
    printcolumn = r#"{"name":"FederatedBy","type":"string","priority":1,"jsonPath":".spec.federatedBy"}"#,
    printcolumn = r#"{"name":"ClientID","type":"string","jsonPath":".spec.clientID"}"#,
    printcolumn = r#"{"name":"Pods","type":"integer","jsonPath":".status.pods"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
pub struct AzureIdentitySpec {
    /// 0: user-assigned managed identity, 1: service principal with a secret, 2: service principal
    /// with a certificate, 3: managed identity or service principal by workload identity
    /// federation.
    #[serde(rename = "type", default)]
    pub kind: IdentityType,

    /// Type 3: whose service-account token Entra is shown. Pod: the pod's own, with one federated
    /// credential for every service account. NodeAgent: the node agent's, with one federated
    /// credential for the cluster.
    #[serde(rename = "federatedBy", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::federated_by::words")]
    pub federated_by: Option<FederatedBy>,

    /// Type 0: the ARM id of the managed identity, as `az identity show --query id` prints it.
    /// Type 3: the same id if applications ask by it, otherwise nothing.
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

    /// Types 1, 2 and 3: the tenant of the application or managed identity, by id or domain.
    #[serde(
        rename = "tenantID",
        alias = "TenantID",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub tenant_id: Option<String>,

    /// Type 1: up to three further tenants of a multi-tenant application. Applications get a token
    /// of each beside that of `tenantID`.
    #[serde(
        rename = "auxiliaryTenantIDs",
        alias = "AuxiliaryTenantIDs",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 3), inner(length(max = 253), regex(pattern = "^[A-Za-z0-9.-]+$")))]
    pub auxiliary_tenant_ids: Option<Vec<String>>,

    /// Types 1, 2 and 3: the Entra endpoint, where it is not the cluster's own cloud. https only.
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

/// As many as aad-pod-identity took: each is a token in every answer.
const MAX_AUXILIARY_TENANTS: usize = 3;

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
    /// A tenant is malformed.
    #[error("spec.{field}: {problem}")]
    Tenant {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: NotATenant,
    },
    /// More auxiliary tenants than tokens fit into an answer.
    #[error("spec.auxiliaryTenantIDs has {0} tenants: three is the most")]
    TooManyTenants(usize),
    /// The type is unknown.
    #[error(
        "spec.type {0} is unknown: use 0 (user-assigned identity), 1 (service principal with secret), 2 (with certificate) or 3 (federated)"
    )]
    UnknownType(i64),
    /// The form of federation is unknown.
    #[error("spec.federatedBy {0:?} is unknown: use Pod or NodeAgent")]
    UnknownForm(String),
    /// A field of another type.
    #[error("spec.{field} is not for type {kind}: remove it")]
    ForeignField {
        /// The identity's type.
        kind: i64,
        /// The field.
        field: &'static str,
    },
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
        self.spec.named_resource_id()?;
        self.spec.client_id()?;
        if let Some(namespace) = self.spec.client_password.as_ref().and_then(SecretRef::namespace)
            && Some(namespace) != self.metadata.namespace.as_deref()
        {
            return Err(IdentityProblem::ForeignSecret(namespace.to_owned()));
        }
        self.spec.require_fields()?;
        self.spec.tenant()?;
        self.spec.auxiliary_tenants()?;
        self.spec.federated_by().map(drop)
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
            IdentityType::ServicePrincipal
            | IdentityType::ServicePrincipalCertificate
            | IdentityType::Federated => Ok(None),
            IdentityType::Unknown(kind) => Err(IdentityProblem::UnknownType(kind)),
        }
    }

    /// The ARM id by which applications may ask for the identity: that of type 0, and what the
    /// author of type 3 wrote. `None` if there is none.
    pub fn named_resource_id(&self) -> Result<Option<IdentityId>, IdentityProblem> {
        match (self.kind, present(self.resource_id.as_deref())) {
            (IdentityType::Federated, Some(text)) => Ok(Some(text.parse()?)),
            _ => self.identity_id(),
        }
    }

    /// The tenant of types 1, 2 and 3; `None` if there is none, and for type 0.
    pub fn tenant(&self) -> Result<Option<Tenant>, IdentityProblem> {
        let text = present(self.tenant_id.as_deref());
        match self.kind {
            IdentityType::UserAssigned => Ok(None),
            _ => text.map(|text| tenant("tenantID", text)).transpose(),
        }
    }

    /// The further tenants of type 1. The other types have none, whatever is written, as in
    /// aad-pod-identity.
    pub fn auxiliary_tenants(&self) -> Result<Vec<Tenant>, IdentityProblem> {
        let tenants = match self.kind {
            IdentityType::ServicePrincipal => self.auxiliary_tenant_ids.as_deref(),
            _ => None,
        };
        let tenants = tenants.unwrap_or_default();
        if tenants.len() > MAX_AUXILIARY_TENANTS {
            return Err(IdentityProblem::TooManyTenants(tenants.len()));
        }
        tenants.iter().map(|text| tenant("auxiliaryTenantIDs", text)).collect()
    }

    /// The form of federation: that of type 3, and none of the other types.
    pub fn federated_by(&self) -> Result<Option<&FederatedBy>, IdentityProblem> {
        let kind = self.kind.into();
        match (self.kind, &self.federated_by) {
            (IdentityType::Federated, None) => {
                Err(IdentityProblem::MissingField { kind, field: "federatedBy" })
            }
            (IdentityType::Federated, Some(FederatedBy::Unknown(word))) => {
                Err(IdentityProblem::UnknownForm(word.clone()))
            }
            (IdentityType::Federated, Some(form)) => Ok(Some(form)),
            (_, None) => Ok(None),
            (_, Some(_)) => Err(IdentityProblem::ForeignField { kind, field: "federatedBy" }),
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
        for (field, value) in
            [("clientID", self.client_id.as_deref()), ("tenantID", self.tenant_id.as_deref())]
        {
            if present(value).is_none() {
                return Err(IdentityProblem::MissingField { kind, field });
            }
        }
        match (self.kind, present(secret)) {
            (IdentityType::Federated, None) => Ok(()),
            (IdentityType::Federated, Some(_)) => {
                Err(IdentityProblem::ForeignField { kind, field: "clientPassword" })
            }
            (_, Some(_)) => Ok(()),
            (_, None) => Err(IdentityProblem::MissingField { kind, field: "clientPassword.name" }),
        }
    }
}

fn tenant(field: &'static str, text: &str) -> Result<Tenant, IdentityProblem> {
    text.parse().map_err(|problem| IdentityProblem::Tenant { field, problem })
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const ID: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n";
    const GUID: &str = "00000000-0000-0000-0000-00000000000a";

    /// Type 3 with some fields changed.
    fn federated(changes: &[(&str, Value)]) -> Value {
        let mut spec = serde_json::json!({
            "type": 3, "federatedBy": "NodeAgent", "clientID": GUID, "tenantID": "contoso.com",
            "resourceID": "", "clientPassword": {}
        });
        for (field, value) in changes {
            spec[field] = value.clone();
        }
        spec
    }

    /// Type 1 with auxiliary tenants.
    fn principal(auxiliary: Value) -> Value {
        let mut spec = serde_json::json!({
            "type": 1, "clientID": GUID, "tenantID": "t", "clientPassword": {"name": "s"}
        });
        spec["auxiliaryTenantIDs"] = auxiliary;
        spec
    }

    fn identity(spec: Value) -> AzureIdentity {
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
    fn federated_identities_have_a_form_and_may_have_a_resource_id() {
        for (form, expected) in [("Pod", FederatedBy::Pod), ("NodeAgent", FederatedBy::NodeAgent)] {
            let identity = identity(federated(&[("federatedBy", form.into())]));
            assert_eq!(identity.validate(), Ok(()));
            assert_eq!(identity.spec.federated_by(), Ok(Some(&expected)));
            assert_eq!(identity.spec.named_resource_id(), Ok(None));
        }
        let named = identity(federated(&[("resourceID", ID.into())]));
        assert_eq!(named.validate(), Ok(()));
        assert_eq!(named.spec.named_resource_id(), Ok(ID.parse().ok()));
        assert_eq!(named.spec.identity_id(), Ok(None), "nothing is attached");
    }

    #[test]
    fn auxiliary_tenants_are_those_of_type_one() {
        let of = |auxiliary| identity(principal(auxiliary)).spec.auxiliary_tenants().unwrap();
        let tenants = of(serde_json::json!(["B.example", GUID]));
        let tenants: Vec<&str> = tenants.iter().map(Tenant::as_str).collect();
        assert_eq!(tenants, ["b.example", GUID]);
        assert_eq!(of(Value::Null), []);
        assert_eq!(of(serde_json::json!([])), []);
        let stored = identity(serde_json::json!({"resourceID": ID, "auxiliaryTenantIDs": ["?"]}));
        assert_eq!(stored.validate(), Ok(()), "it worked with aad-pod-identity");
    }

    #[test]
    fn each_problem_names_the_field() {
        let cases = [
            (serde_json::json!({}), "type 0 needs spec.resourceID"),
            (serde_json::json!({"resourceID": "x"}), "spec.resourceID: \"x\" is not an ARM"),
            (serde_json::json!({"resourceID": ID, "clientID": "x"}), "spec.clientID: \"x\""),
            (serde_json::json!({"type": 7}), "spec.type 7 is unknown"),
            (federated(&[("federatedBy", "".into())]), "spec.federatedBy \"\" is unknown"),
            (federated(&[("federatedBy", "Node".into())]), "use Pod or NodeAgent"),
            (federated(&[("federatedBy", Value::Null)]), "type 3 needs spec.federatedBy"),
            (federated(&[("clientID", "".into())]), "type 3 needs spec.clientID"),
            (federated(&[("tenantID", Value::Null)]), "type 3 needs spec.tenantID"),
            (federated(&[("tenantID", "a/b".into())]), "spec.tenantID: \"a/b\" is not a tenant"),
            (federated(&[("resourceID", "x".into())]), "spec.resourceID: \"x\" is not an ARM"),
            (
                federated(&[("clientPassword", serde_json::json!({"name": "s"}))]),
                "spec.clientPassword is not for type 3",
            ),
            (
                serde_json::json!({"resourceID": ID, "federatedBy": "Pod"}),
                "spec.federatedBy is not for type 0",
            ),
            (
                principal(serde_json::json!(["a", "b", "c", "d"])),
                "spec.auxiliaryTenantIDs has 4 tenants",
            ),
            (principal(serde_json::json!(["a", "../b"])), "spec.auxiliaryTenantIDs: \"../b\""),
            (principal(serde_json::json!([""])), "spec.auxiliaryTenantIDs: \"\" is not"),
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
