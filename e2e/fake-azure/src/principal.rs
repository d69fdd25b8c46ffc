//! Who can get a token: app registrations and user-assigned identities, and what they prove it by.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::arm_id::ArmId;
use crate::guid::Guid;
use crate::seed;

/// A directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// The tenant id.
    pub id: Guid,
    /// A verified domain that may stand for the id in URLs.
    #[serde(default)]
    pub domain: Option<String>,
}

/// An app registration with its service principal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// The application id.
    pub client_id: Guid,
    /// The object id of the service principal.
    #[serde(default = "Guid::random")]
    pub principal_id: Guid,
    /// The home tenant.
    #[serde(default = "seed::tenant")]
    pub tenant_id: Guid,
    /// Client secrets; each of them is accepted.
    #[serde(default)]
    pub secrets: Vec<ClientSecret>,
    /// Registered certificates, PEM.
    #[serde(default)]
    pub certificates: Vec<String>,
    /// Federated credentials.
    #[serde(default)]
    pub federated_credentials: Vec<FederatedCredential>,
    /// Further tenants that let the application in, and the object id that it has in each.
    #[serde(default)]
    pub guest_tenants: BTreeMap<Guid, Guid>,
}

/// A user-assigned managed identity.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The ARM id.
    pub id: ArmId,
    /// The application id in tokens.
    #[serde(default = "Guid::random")]
    pub client_id: Guid,
    /// The object id in tokens.
    #[serde(default = "Guid::random")]
    pub principal_id: Guid,
    /// The tenant.
    #[serde(default = "seed::tenant")]
    pub tenant_id: Guid,
    /// The Azure region.
    #[serde(default = "seed::location")]
    pub location: String,
    /// Federated credentials (workload identity).
    #[serde(default)]
    pub federated_credentials: Vec<FederatedCredential>,
}

/// Tokens of this issuer, subject and audience are accepted as client assertions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FederatedCredential {
    /// Compared exactly.
    pub issuer: String,
    /// Compared exactly.
    pub subject: String,
    /// Each compared exactly with each audience of the token.
    #[serde(default = "exchange_audiences")]
    pub audiences: Vec<String>,
}

/// The keys of an issuer of federated tokens. Without them signatures are not checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The `iss` claim.
    pub issuer: String,
    /// A JWKS document.
    pub jwks: Value,
}

/// A secret of an application or of a vault. Its text is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientSecret(String);

fn exchange_audiences() -> Vec<String> {
    vec!["api://AzureADTokenExchange".to_owned()]
}

impl ClientSecret {
    /// A secret with this text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text. Whoever calls this must not log it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether this is the secret.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0 == text
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret(…)")
    }
}
