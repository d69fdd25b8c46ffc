//! Key vaults: secrets, and who may read them. Pure.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::guid::Guid;
use crate::principal::ClientSecret;
use crate::seed;
use crate::tokens::Claims;
use crate::vault_error::VaultError;

/// The audience of tokens for vaults. A slash at its end makes it another.
pub(crate) const AUDIENCE: &str = "https://vault.azure.net";

/// When every secret was made, seconds since the epoch.
const CREATED: u64 = 1_577_836_800;

/// A key vault.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyVault {
    /// Its name, the first part of its host name.
    pub name: String,
    /// The tenant that it trusts.
    #[serde(default = "seed::tenant")]
    pub tenant_id: Guid,
    /// The Azure region.
    #[serde(default = "seed::location")]
    pub location: String,
    /// Object ids or client ids that may get secrets.
    #[serde(default)]
    pub readers: Vec<Guid>,
    /// The secrets by name.
    #[serde(default)]
    pub secrets: BTreeMap<String, ClientSecret>,
}

impl KeyVault {
    /// The vault that a host name means: its first part. An address means the seed's vault.
    pub(crate) fn name_of(host: &str) -> &str {
        let name = host.split('.').next().unwrap_or_default();
        let is_name = host.contains('.') && name.parse::<u8>().is_err();
        if is_name { name } else { seed::VAULT }
    }

    /// The body of a secret for a caller whose token was checked.
    pub(crate) fn read(
        &self,
        caller: &Claims,
        name: &str,
        version: Option<&str>,
    ) -> Result<Value, VaultError> {
        if caller.tid != self.tenant_id {
            return Err(VaultError::Tenant);
        }
        if !self.readers.iter().any(|id| *id == caller.oid || *id == caller.appid) {
            return Err(VaultError::Forbidden {
                client_id: caller.appid.clone(),
                object_id: caller.oid.clone(),
                issuer: caller.iss.clone(),
                vault: self.name.clone(),
                location: self.location.clone(),
            });
        }
        let absent = || VaultError::SecretNotFound(name.to_owned());
        let (name, secret) = self
            .secrets
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .ok_or_else(absent)?;
        let current = version_of(name, secret);
        if version.is_some_and(|wanted| !wanted.is_empty() && wanted != current) {
            return Err(absent());
        }
        Ok(json!({
            "value": secret.text(),
            "id": format!("https://{}.vault.azure.net/secrets/{name}/{current}", self.name),
            "attributes": {
                "enabled": true,
                "created": CREATED,
                "updated": CREATED,
                "recoveryLevel": "Recoverable+Purgeable",
                "recoverableDays": 90,
            },
            "tags": {},
        }))
    }
}

/// Another value is another version.
fn version_of(name: &str, secret: &ClientSecret) -> String {
    let hash = digest(&SHA256, format!("{name}\n{}", secret.text()).as_bytes());
    hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::KeyVault;

    #[test]
    fn a_host_names_its_vault_and_an_address_the_seeds() {
        for (host, expected) in [
            ("team.vault.azure.net", "team"),
            ("team.vault.azure.net:10443", "team"),
            ("10.77.0.254:10443", "demo"),
            ("localhost:1234", "demo"),
            ("", "demo"),
        ] {
            assert_eq!(KeyVault::name_of(host), expected, "{host}");
        }
    }
}
