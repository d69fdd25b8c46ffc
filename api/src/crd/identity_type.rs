//! The types of `AzureIdentity`, as numbers.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

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
    /// 3: a managed identity or service principal by workload identity federation.
    Federated,
    /// None of these.
    Unknown(i64),
}

// === impl IdentityType ===

impl From<i64> for IdentityType {
    fn from(number: i64) -> Self {
        match number {
            0 => Self::UserAssigned,
            1 => Self::ServicePrincipal,
            2 => Self::ServicePrincipalCertificate,
            3 => Self::Federated,
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
            IdentityType::Federated => 3,
            IdentityType::Unknown(other) => other,
        }
    }
}

impl JsonSchema for IdentityType {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IdentityType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "enum": [0, 1, 2, 3]})
    }
}
