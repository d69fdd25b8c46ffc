//! What a Secret must hold, and the library's credential for it or for an assertion.

use std::fmt;
use std::sync::Arc;

use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::{RetryOptions, Transport};
use azure_identity::{
    ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions,
};
use client_certificate::{Assertion, Certificate, UnpackError, Unpacker};

use super::entra::EntraError;
use super::secrets::SecretData;
use super::{Proof, Question};
use crate::mint::federation::Shown;

/// An application's credential.
pub(super) enum Credential {
    Secret(Secret),
    Certificate(Arc<Certificate>),
    Assertion(Shown),
}

/// Why a Secret holds no credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadCredential {
    /// Which value is it?
    #[error("it has several keys or none: put the client secret under the key clientSecret")]
    NoClientSecret,
    /// Nothing, or not a text.
    #[error("the client secret in it is empty or no text")]
    NotAText,
    /// No certificate.
    #[error(
        "it has no key certificate: put the PKCS#12 file there, and its password under the key password"
    )]
    NoCertificate,
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] UnpackError),
    /// The library does not take the credential.
    #[error("its credential, spec.tenantID or spec.clientID is malformed")]
    Malformed,
}

const CLIENT_SECRET: &str = "clientSecret";
const CERTIFICATE: &str = "certificate";
const PASSWORD: &str = "password";

// === impl BadCredential ===

impl BadCredential {
    /// Whether it may work in a moment.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::Certificate(UnpackError::NotTried))
    }
}

// === impl Credential ===

impl Credential {
    /// Reads the credential that an identity with this proof has in a Secret.
    pub(super) async fn read(
        proof: &Proof,
        data: &SecretData,
        unpacker: &Unpacker,
    ) -> Result<Self, BadCredential> {
        match proof {
            Proof::Secret(_) => Ok(Self::Secret(Secret::new(client_secret(data)?.to_owned()))),
            Proof::Certificate(_) => {
                let (file, password) = certificate(data)?;
                let certificate = unpacker.unpack(file, password).await?;
                Ok(Self::Certificate(Arc::new(certificate)))
            }
            Proof::Assertion { .. } => Err(BadCredential::Malformed),
        }
    }

    /// The library's credential. It is used once: the token cache is ours, and so are retries.
    pub(super) fn for_library(
        &self,
        question: &Question<'_>,
        transport: &Transport,
    ) -> Result<Arc<dyn TokenCredential>, BadCredential> {
        let Question { principal, tenant, authority, .. } = question;
        let client_options = azure_http::client_options(authority, transport, RetryOptions::none());
        let (tenant, client_id) = (tenant.to_string(), principal.client_id.to_string());
        // The library's words may quote what it was given.
        let malformed = |_: azure_core::Error| BadCredential::Malformed;
        Ok(match self {
            Self::Secret(secret) => {
                let options = Some(ClientSecretCredentialOptions { client_options });
                ClientSecretCredential::new(&tenant, client_id, secret.clone(), options)
                    .map_err(malformed)?
            }
            Self::Certificate(certificate) => {
                let audience = format!("{authority}/{tenant}/oauth2/v2.0/token");
                let assertion = Assertion::new(certificate.clone(), audience, client_id.clone());
                let options = Some(ClientAssertionCredentialOptions { client_options });
                ClientAssertionCredential::new(tenant, client_id, assertion, options)
                    .map_err(malformed)?
            }
            Self::Assertion(shown) => {
                let options = Some(ClientAssertionCredentialOptions { client_options });
                ClientAssertionCredential::new(tenant, client_id, shown.clone(), options)
                    .map_err(malformed)?
            }
        })
    }

    /// The error without client secret and assertion, should an answer ever repeat them.
    pub(super) fn hidden_in(&self, error: EntraError) -> EntraError {
        match self {
            Self::Secret(secret) => error.without(secret.secret()),
            Self::Assertion(shown) => error.without(shown.assertion.secret()),
            Self::Certificate(_) => error,
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret",
            Self::Certificate(_) => "Certificate",
            Self::Assertion(_) => "Assertion",
        })
    }
}

/// The client secret: under its name, or the only value. Aad-pod-identity took any of several.
fn client_secret(data: &SecretData) -> Result<&str, BadCredential> {
    let value = data.get(CLIENT_SECRET).or_else(|| data.only());
    let text = text(value.ok_or(BadCredential::NoClientSecret)?)?;
    if text.is_empty() { Err(BadCredential::NotAText) } else { Ok(text) }
}

/// The PKCS#12 file and its password.
fn certificate(data: &SecretData) -> Result<(&[u8], &str), BadCredential> {
    let file = data.get(CERTIFICATE).ok_or(BadCredential::NoCertificate)?;
    let password = data.get(PASSWORD).map(text).transpose()?.unwrap_or_default();
    Ok((file, password))
}

/// Without the line end that an editor or `echo` leaves.
fn text(value: &[u8]) -> Result<&str, BadCredential> {
    let text = std::str::from_utf8(value).map_err(|_| BadCredential::NotAText)?;
    Ok(text.trim_end_matches(['\r', '\n']))
}

#[cfg(test)]
mod tests {
    use super::super::secrets::testing::data;
    use super::*;

    #[test]
    fn the_client_secret_is_under_its_name_or_the_only_value() {
        use BadCredential::{NoClientSecret, NotAText};
        type Case<'a> = (&'a [(&'a str, &'a [u8])], Result<&'a str, BadCredential>);
        let cases: [Case<'_>; 8] = [
            (&[("clientSecret", b"p4ss")], Ok("p4ss")),
            (&[("clientSecret", b"p4ss"), ("note", b"x")], Ok("p4ss")),
            (&[("anything", b"p4ss\n")], Ok("p4ss")),
            (&[("a", b"p4ss"), ("b", b"x")], Err(NoClientSecret)),
            (&[("clientsecret", b"p4ss"), ("b", b"x")], Err(NoClientSecret)),
            (&[], Err(NoClientSecret)),
            (&[("clientSecret", b"\r\n")], Err(NotAText)),
            (&[("clientSecret", b"\xff")], Err(NotAText)),
        ];
        for (entries, expected) in cases {
            assert_eq!(client_secret(&data(entries)), expected, "{entries:?}");
        }
    }

    #[test]
    fn a_certificate_needs_its_key_and_may_have_no_password() {
        let with = data(&[("certificate", b"file"), ("password", b"p4ss\n")]);
        assert_eq!(certificate(&with), Ok((&b"file"[..], "p4ss")));
        assert_eq!(certificate(&data(&[("certificate", b"file")])), Ok((&b"file"[..], "")));
        let without = data(&[("tls.crt", b"file")]);
        assert_eq!(certificate(&without), Err(BadCredential::NoCertificate));
    }
}
