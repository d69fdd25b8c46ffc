//! The credential of an application that signs with a certificate.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, Secret, TokenCredential, TokenRequestOptions};
use azure_core::error::{Error, ErrorKind};
use azure_identity::{ClientAssertionCredential, ClientAssertionCredentialOptions};
use client_certificate::{Assertion, Certificate};

use super::application::Application;
use super::metrics::{CredentialFile, Reloads};
use super::reload::{Fingerprint, Reloading};
use super::secret::SecretSource;
use super::{AzureError, file};

/// The library's credential, but it says what to do when Entra does not take the certificate.
#[derive(Debug)]
struct Signing {
    credential: Arc<dyn TokenCredential>,
    advice: String,
}

/// Entra's code for a certificate that is not registered, has expired, or did not sign.
const REFUSED: &str = "AADSTS700027";

// === impl Application ===

impl Application {
    /// The credential with the certificate in the file at `path`, as it is now.
    pub(super) fn with_certificate(
        self,
        path: &Path,
        password: &SecretSource,
        reloads: &Reloads,
    ) -> Result<Reloading, AzureError> {
        let (file, source) = (path.to_owned(), password.clone());
        let read = move || {
            let (content, password) = (file::read(&file)?, source.read_password()?);
            let fingerprint = Fingerprint::of(&(&content, password.secret()));
            Ok::<_, AzureError>((content, password, fingerprint))
        };
        let (content, password, mut used) = read()?;
        let first = self.signing(path, &content, &password)?;
        let (file, gauge) = (path.to_owned(), reloads.of(CredentialFile::Certificate));
        Ok(Reloading::new(path, first, gauge, move || {
            let (content, password, now) = read()?;
            if now == used {
                return Ok(None);
            }
            let credential = self.signing(&file, &content, &password)?;
            used = now;
            Ok(Some(credential))
        }))
    }

    fn signing(
        &self,
        path: &Path,
        content: &[u8],
        password: &Secret,
    ) -> Result<Arc<dyn TokenCredential>, AzureError> {
        let certificate = Certificate::from_file(content, password.secret())
            .map_err(|source| AzureError::Certificate { path: path.to_owned(), source })?;
        let authority = self.authority.trim_end_matches('/');
        let audience = format!("{authority}/{}/oauth2/v2.0/token", self.tenant_id);
        let assertion = Assertion::new(Arc::new(certificate), audience, self.client_id.clone());
        let client_options = self.client_options.clone();
        let options = Some(ClientAssertionCredentialOptions { client_options });
        let (tenant, client) = (self.tenant_id.clone(), self.client_id.clone());
        let credential = ClientAssertionCredential::new(tenant, client, assertion, options)
            .map_err(AzureError::Credential)?;
        let advice = format!(
            "Entra does not accept the certificate in {}: register it for the application {}, or \
             put one that is registered and valid into the file",
            path.display(),
            self.client_id
        );
        Ok(Arc::new(Signing { credential, advice }))
    }
}

// === impl Signing ===

#[async_trait]
impl TokenCredential for Signing {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let answer = self.credential.get_token(scopes, options).await;
        answer.map_err(|error| match error.to_string().contains(REFUSED) {
            true => Error::with_error(ErrorKind::Credential, error, self.advice.clone()),
            false => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use api::cloud::{Cloud, CloudName, CustomEndpoints};
    use azure_core::http::RetryOptions;
    use client_certificate::testing;
    use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
    use serde_json::json;

    use super::super::reload::RELOAD_INTERVAL;
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
        let password = SecretSource::Given(Secret::new("p4ss"));
        write(&testing::file(&PKCS_RSA_SHA256, "p4ss").0);
        let script = Script::new(tokens());
        let credential = application(&script)
            .with_certificate(file.path(), &password, &Reloads::default())
            .unwrap();
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

    #[tokio::test(start_paused = true)]
    async fn certificate_and_password_are_renewed_together() {
        let folder = tempfile::tempdir().unwrap();
        let (file, secret) = (folder.path().join("certificate"), folder.path().join("password"));
        std::fs::write(&file, testing::file(&PKCS_RSA_SHA256, "p4ss").0).unwrap();
        std::fs::write(&secret, "p4ss\n").unwrap();
        let script = Script::new(tokens());
        let reloads = Reloads::default();
        let credential = application(&script)
            .with_certificate(&file, &SecretSource::File(secret.clone()), &reloads)
            .unwrap();
        let ask = async || {
            tokio::time::advance(RELOAD_INTERVAL).await;
            credential.get_token(&["https://arm/.default"], None).await.unwrap();
            let failing = reloads.of(CredentialFile::Certificate).get();
            (head(&script.asked().last().unwrap().body), failing)
        };
        let (first, _) = ask().await;
        std::fs::write(&file, testing::file(&PKCS_RSA_SHA256, "0ther").0).unwrap();
        assert_eq!(ask().await, (first.clone(), 1), "its password is not there yet");
        std::fs::write(&secret, "0ther\n").unwrap();
        let (second, failing) = ask().await;
        assert!(second != first && failing == 0, "the file alone has not changed since");
        std::fs::write(&file, pem()).unwrap();
        std::fs::remove_file(&secret).unwrap();
        let (third, failing) = ask().await;
        assert!(third != second && failing == 0, "PEM has no password");
    }

    #[test]
    fn a_file_without_a_usable_key_is_found_at_the_start() {
        let script = Script::new([]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), testing::file(&PKCS_RSA_SHA256, "p4ss").0).unwrap();
        let start = |path: &Path, password: &str| {
            let password = SecretSource::Given(Secret::new(password.to_owned()));
            application(&script).with_certificate(path, &password, &Reloads::default()).unwrap_err()
        };
        let wrong = start(file.path(), "other");
        assert!(wrong.to_string().ends_with("cannot be used"), "{wrong}");
        let reason = std::error::Error::source(&wrong).unwrap().to_string();
        assert!(reason.contains("the password is not its password"), "{reason}");
        assert!(start(Path::new("/nonexistent"), "").to_string().contains("/nonexistent"));
    }

    #[tokio::test]
    async fn whoever_reads_that_a_certificate_is_refused_reads_what_to_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pem()).unwrap();
        let path = file.path().display().to_string();
        for (code, told) in [(700_027, true), (700_016, false)] {
            let body = json!({"error": "invalid_client", "error_codes": [code],
                "error_description": format!("AADSTS{code}: in Entra's words.")});
            let script = Script::new([Answer::json(401, &body)]);
            let password = SecretSource::Given(Secret::new(""));
            let credential = application(&script)
                .with_certificate(file.path(), &password, &Reloads::default())
                .unwrap();
            let error = credential.get_token(&["https://arm/.default"], None).await.unwrap_err();
            let text = error.to_string();
            assert_eq!(text.contains(&path) && text.contains("application client"), told, "{text}");
            let words = format!("AADSTS{code}: in Entra's words.");
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            assert!(text.contains(&words) || cause.is_some_and(|it| it.contains(&words)), "{text}");
        }
    }
}
