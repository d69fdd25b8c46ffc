//! The credential of an application that signs with a certificate. The file is looked at again now
//! and then: whoever renews the certificate needs no restart.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions};
use azure_core::http::ClientOptions;
use azure_identity::{ClientAssertionCredential, ClientAssertionCredentialOptions};
use client_certificate::{Assertion, Certificate};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{AzureError, file};

/// How often the file is compared with what is in use, at most.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Whose certificate it is, and where it is shown.
#[derive(Clone)]
pub(super) struct Application {
    pub(super) tenant_id: String,
    pub(super) client_id: String,
    pub(super) authority: String,
    pub(super) client_options: ClientOptions,
}

/// The credential. A file that is broken or gone leaves the last good one in use.
pub(super) struct CertificateCredential {
    application: Application,
    path: PathBuf,
    password: Secret,
    state: Mutex<State>,
}

struct State {
    content: Vec<u8>,
    checked: Instant,
    credential: Arc<dyn TokenCredential>,
}

// === impl Application ===

impl Application {
    fn credential(&self, certificate: Certificate) -> Result<Arc<dyn TokenCredential>, AzureError> {
        let authority = self.authority.trim_end_matches('/');
        let audience = format!("{authority}/{}/oauth2/v2.0/token", self.tenant_id);
        let assertion = Assertion::new(Arc::new(certificate), audience, self.client_id.clone());
        let client_options = self.client_options.clone();
        let options = Some(ClientAssertionCredentialOptions { client_options });
        let (tenant, client) = (self.tenant_id.clone(), self.client_id.clone());
        let credential = ClientAssertionCredential::new(tenant, client, assertion, options);
        Ok(credential.map_err(AzureError::Credential)?)
    }
}

// === impl CertificateCredential ===

impl CertificateCredential {
    /// Begins with what the file at `path` holds.
    pub(super) fn new(
        application: Application,
        path: &Path,
        password: &Secret,
    ) -> Result<Self, AzureError> {
        let content = file::read(path)?;
        let credential = application.credential(read(path, &content, password)?)?;
        let state = Mutex::new(State { content, checked: Instant::now(), credential });
        Ok(Self { application, path: path.to_owned(), password: password.clone(), state })
    }

    fn current(&self) -> Arc<dyn TokenCredential> {
        let mut state = self.state.lock();
        if state.checked.elapsed() >= RELOAD_INTERVAL {
            state.checked = Instant::now();
            if let Err(error) = self.reload(&mut state) {
                let reason = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, reason, "Certificate was not reloaded");
            }
        }
        Arc::clone(&state.credential)
    }

    fn reload(&self, state: &mut State) -> Result<(), AzureError> {
        let content = file::read(&self.path)?;
        if content != state.content {
            let certificate = read(&self.path, &content, &self.password)?;
            state.credential = self.application.credential(certificate)?;
            state.content = content;
            tracing::info!("Certificate reloaded");
        }
        Ok(())
    }
}

fn read(path: &Path, content: &[u8], password: &Secret) -> Result<Certificate, AzureError> {
    Certificate::from_file(content, password.secret())
        .map_err(|source| AzureError::Certificate { path: path.to_owned(), source })
}

impl fmt::Debug for CertificateCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateCredential").finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenCredential for CertificateCredential {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let credential = self.current();
        credential.get_token(scopes, options).await
    }
}

#[cfg(test)]
mod tests {
    use api::cloud::{Cloud, CloudName, CustomEndpoints};
    use azure_core::http::RetryOptions;
    use client_certificate::testing;
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
    use serde_json::json;

    use super::*;
    use crate::compute::scripted::{Answer, Script};

    fn application(script: &Arc<Script>) -> Application {
        let cloud = Cloud::new(CloudName::AzurePublicCloud, CustomEndpoints::default()).unwrap();
        let transport = script.transport();
        let authority = &cloud.authority_host;
        Application {
            tenant_id: "contoso".to_owned(),
            client_id: "client".to_owned(),
            authority: authority.clone(),
            client_options: azure_http::client_options(authority, &transport, RetryOptions::none()),
        }
    }

    fn pem() -> String {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        format!("{}{}", key.serialize_pem(), certificate.pem())
    }

    fn tokens() -> Vec<Answer> {
        let token = json!({"token_type": "Bearer", "expires_in": 3600, "access_token": "t0ken"});
        vec![Answer::json(200, &token); 4]
    }

    /// The head of the assertion that was sent, which names the certificate.
    fn head(body: &str) -> String {
        let sent = body.split('&').find_map(|part| part.strip_prefix("client_assertion="));
        sent.unwrap().split('.').next().unwrap().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_certificate_is_used_and_a_broken_file_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |content: &[u8]| std::fs::write(file.path(), content).unwrap();
        let password = Secret::new("p4ss");
        write(&testing::file(&PKCS_RSA_SHA256, "p4ss").0);
        let script = Script::new(tokens());
        let credential =
            CertificateCredential::new(application(&script), file.path(), &password).unwrap();
        let ask = async || {
            credential.get_token(&["https://arm/.default"], None).await.unwrap();
            head(&script.asked().last().unwrap().body)
        };
        let first = ask().await;
        assert!(!first.is_empty());
        write(pem().as_bytes());
        assert_eq!(ask().await, first, "the file is not read for every request");
        tokio::time::advance(RELOAD_INTERVAL).await;
        let second = ask().await;
        assert_ne!(second, first);
        for broken in [&b""[..], b"-----BEGIN nonsense", &[0x30, 0x82]] {
            write(broken);
            tokio::time::advance(RELOAD_INTERVAL).await;
            assert_eq!(ask().await, second);
        }
        assert!(!format!("{credential:?}").contains("p4ss"));
    }

    #[test]
    fn a_file_without_a_usable_key_is_found_at_the_start() {
        let script = Script::new([]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), testing::file(&PKCS_RSA_SHA256, "p4ss").0).unwrap();
        let start = |path: &Path, password: &str| {
            CertificateCredential::new(
                application(&script),
                path,
                &Secret::new(password.to_owned()),
            )
            .unwrap_err()
        };
        let wrong = start(file.path(), "other");
        assert!(wrong.to_string().ends_with("cannot be used"), "{wrong}");
        let reason = std::error::Error::source(&wrong).unwrap().to_string();
        assert!(reason.contains("the password is not its password"), "{reason}");
        assert!(start(Path::new("/nonexistent"), "").to_string().contains("/nonexistent"));
    }
}
