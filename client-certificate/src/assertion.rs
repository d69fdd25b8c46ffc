//! Client assertions: JWTs that an application signs with its certificate's key.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::{SystemRandom, fill};
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::ClientMethodOptions;
use azure_identity::ClientAssertion;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::pem;
use crate::pkcs12::{SigningKey, UnpackError, Unpacked, unpack};

/// A key that can sign, with its certificates.
pub struct Certificate {
    key: SigningKey,
    chain: Vec<Vec<u8>>,
}

/// Signs assertions of one application for one token endpoint.
pub struct Assertion {
    certificate: Arc<Certificate>,
    audience: String,
    client_id: String,
}

/// Used at once, by clocks that agree within minutes.
const LIFETIME_SECONDS: u64 = 600;

// === impl Certificate ===

impl Certificate {
    /// Takes a file apart in this process, PKCS#12 or PEM: for files of the admin's own. Those of
    /// others belong into an [`Unpacker`](crate::Unpacker).
    ///
    /// # Errors
    /// If it holds no key that Entra takes, or no certificate of it.
    pub fn from_file(file: &[u8], password: &str) -> Result<Self, UnpackError> {
        let pem = pem::is_pem(file);
        Self::new(if pem { pem::unpack(file) } else { unpack(file, password) }?)
    }

    /// Reads the key.
    pub(crate) fn new(unpacked: Unpacked) -> Result<Self, UnpackError> {
        let key = SigningKey::read(&unpacked.key)?;
        if unpacked.chain.is_empty() {
            return Err(UnpackError::NoCertificate);
        }
        Ok(Self { key, chain: unpacked.chain })
    }

    /// Thumbprints for what is registered in Entra, the chain for trust by subject and issuer.
    fn header(&self) -> Value {
        let thumbprint = |algorithm: &'static Algorithm| {
            let leaf = self.chain.first().map(Vec::as_slice).unwrap_or_default();
            URL_SAFE_NO_PAD.encode(digest(algorithm, leaf))
        };
        let chain: Vec<String> = self.chain.iter().map(|der| STANDARD.encode(der)).collect();
        json!({
            "alg": match self.key {
                SigningKey::Rsa(_) => "RS256",
                SigningKey::Ec(_) => "ES256",
            },
            "typ": "JWT",
            "x5t": thumbprint(&SHA1_FOR_LEGACY_USE_ONLY),
            "x5t#S256": thumbprint(&SHA256),
            "x5c": chain,
        })
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let random = SystemRandom::new();
        match &self.key {
            SigningKey::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                Ok(signature)
            }
            SigningKey::Ec(key) => Ok(key.sign(&random, message)?.as_ref().to_vec()),
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

// === impl Assertion ===

impl Assertion {
    /// For the application `client_id` at the token endpoint `audience`.
    #[must_use]
    pub fn new(certificate: Arc<Certificate>, audience: String, client_id: String) -> Self {
        Self { certificate, audience, client_id }
    }

    fn signed(&self, now: u64) -> Result<String, Unspecified> {
        let mut id = [0; 16];
        fill(&mut id)?;
        let claims = json!({
            "aud": self.audience,
            "iss": self.client_id,
            "sub": self.client_id,
            "jti": URL_SAFE_NO_PAD.encode(id),
            "iat": now,
            "nbf": now,
            "exp": now + LIFETIME_SECONDS,
        });
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", part(&self.certificate.header()), part(&claims));
        let signature = self.certificate.sign(message.as_bytes())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assertion").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

#[async_trait]
impl ClientAssertion for Assertion {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.signed(now)
            .map_err(|_| Error::with_message(ErrorKind::Credential, "the private key cannot sign"))
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
        VerificationAlgorithm,
    };
    use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
    use x509_parser::parse_x509_certificate;

    use super::*;
    use crate::testing;

    #[test]
    fn an_assertion_is_signed_by_the_certificates_key_and_names_it() {
        type Case<'a> =
            (&'static rcgen::SignatureAlgorithm, &'a str, &'static dyn VerificationAlgorithm);
        let cases: [Case<'_>; 2] = [
            (&PKCS_RSA_SHA256, "RS256", &RSA_PKCS1_2048_8192_SHA256),
            (&PKCS_ECDSA_P256_SHA256, "ES256", &ECDSA_P256_SHA256_FIXED),
        ];
        for (algorithm, name, verification) in cases {
            let (file, der) = testing::file(algorithm, "p4ss");
            let certificate = Certificate::new(unpack(&file, "p4ss").ok().unwrap()).unwrap();
            let assertion =
                Assertion::new(Arc::new(certificate), "https://x/t".to_owned(), "app".to_owned());
            let jwt = assertion.signed(1000).unwrap();
            let (message, signature) = jwt.rsplit_once('.').unwrap();
            let (header, claims) = message.split_once('.').unwrap();
            let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
            let header: Value = serde_json::from_slice(&decode(header)).unwrap();
            let claims: Value = serde_json::from_slice(&decode(claims)).unwrap();
            assert_eq!((&header["alg"], &header["typ"]), (&json!(name), &json!("JWT")));
            assert_eq!(header["x5c"], json!([STANDARD.encode(&der)]));
            let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, &der);
            assert_eq!(header["x5t"], URL_SAFE_NO_PAD.encode(sha1));
            assert_eq!(header["x5t#S256"], URL_SAFE_NO_PAD.encode(digest(&SHA256, &der)));
            assert_eq!((&claims["iss"], &claims["sub"]), (&json!("app"), &json!("app")));
            assert_eq!((&claims["aud"], &claims["exp"]), (&json!("https://x/t"), &json!(1600)));
            let (_, parsed) = parse_x509_certificate(&der).unwrap();
            let public = &parsed.public_key().subject_public_key.data;
            UnparsedPublicKey::new(verification, public)
                .verify(message.as_bytes(), &decode(signature))
                .unwrap();
            assert_ne!(jwt, assertion.signed(1000).unwrap(), "an id of its own");
            assert_eq!(format!("{assertion:?}"), r#"Assertion { client_id: "app", .. }"#);
        }
    }
}
