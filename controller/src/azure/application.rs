//! An application of Entra, and its credential with a secret. With a certificate: `certificate`.

use std::sync::Arc;

use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::ClientOptions;
use azure_identity::{ClientSecretCredential, ClientSecretCredentialOptions};

use super::AzureError;
use super::metrics::{CredentialFile, Reloads};
use super::reload::Reloading;
use super::secret::SecretSource;

/// As whom to sign in, and where.
#[derive(Clone)]
pub(super) struct Application {
    pub(super) tenant_id: String,
    pub(super) client_id: String,
    pub(super) authority: String,
    pub(super) client_options: ClientOptions,
}

// === impl Application ===

impl Application {
    /// The credential with the secret, as it is now if it is in a file.
    pub(super) fn with_secret(
        self,
        source: &SecretSource,
        reloads: &Reloads,
    ) -> Result<Arc<dyn TokenCredential>, AzureError> {
        let mut used = source.read()?;
        let first = self.showing(&used)?;
        let SecretSource::File(path) = source else { return Ok(first) };
        let (source, gauge) = (source.clone(), reloads.of(CredentialFile::Secret));
        Ok(Arc::new(Reloading::new(path, first, gauge, move || {
            let secret = source.read()?;
            if secret == used {
                return Ok(None);
            }
            let credential = self.showing(&secret)?;
            used = secret;
            Ok(Some(credential))
        })))
    }

    fn showing(&self, secret: &Secret) -> Result<Arc<dyn TokenCredential>, AzureError> {
        let client_options = self.client_options.clone();
        let options = Some(ClientSecretCredentialOptions { client_options });
        let client = self.client_id.clone();
        let credential =
            ClientSecretCredential::new(&self.tenant_id, client, secret.clone(), options);
        Ok(credential.map_err(AzureError::Credential)?)
    }
}

#[cfg(test)]
mod tests {
    use api::cloud::{Cloud, CloudName, CustomEndpoints};
    use azure_core::http::RetryOptions;
    use serde_json::json;

    use super::super::reload::RELOAD_INTERVAL;
    use super::*;
    use crate::compute::scripted::{Answer, Script};

    fn application(script: &Arc<Script>) -> Application {
        let cloud = Cloud::new(CloudName::AzurePublicCloud, CustomEndpoints::default()).unwrap();
        let (authority, transport) = (cloud.authority_host, script.transport());
        let client_options =
            azure_http::client_options(&authority, &transport, RetryOptions::none());
        Application {
            tenant_id: "contoso".to_owned(),
            client_id: "client".to_owned(),
            authority,
            client_options,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotated_secret_is_used_and_an_empty_file_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |content: &str| std::fs::write(file.path(), content).unwrap();
        write("old\n");
        let token = json!({"token_type": "Bearer", "expires_in": 3600, "access_token": "t0ken"});
        let script = Script::new(vec![Answer::json(200, &token); 2]);
        let source = SecretSource::File(file.path().to_owned());
        let reloads = Reloads::default();
        let credential = application(&script).with_secret(&source, &reloads).unwrap();
        let ask = async || {
            credential.get_token(&["https://arm/.default"], None).await.unwrap();
            let asked = script.asked();
            (asked.len(), asked.last().unwrap().body.clone())
        };
        let (_, body) = ask().await;
        assert!(body.contains("client_secret=old&"), "{body}");
        for (content, calls, failing) in
            [("old", 1, 0), ("new\r\n", 2, 0), ("\n", 2, 1), ("new", 2, 0)]
        {
            write(content);
            tokio::time::advance(RELOAD_INTERVAL).await;
            let (asked, body) = ask().await;
            assert_eq!(asked, calls, "{content:?}");
            let secret = if calls == 1 { "client_secret=old&" } else { "client_secret=new&" };
            assert!(body.contains(secret), "{content:?}: {body}");
            assert_eq!(reloads.of(CredentialFile::Secret).get(), failing, "{content:?}");
        }
        assert!(!format!("{credential:?}").contains("new"));
    }
}
