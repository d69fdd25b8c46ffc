//! Access tokens: issuing them, and reading them back with the signature checked.

use std::fmt;
use std::io;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::now_seconds;
use crate::files::{self, Access};
use crate::guid::Guid;
use crate::jwt::{Jwt, JwtError, encode};

/// The claims of an access token, as Entra's version 1.0 tokens carry them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The resource that the token is for.
    pub aud: String,
    /// The issuer: the tenant's security token service.
    pub iss: String,
    /// Issued at, seconds.
    pub iat: u64,
    /// Not before, seconds.
    pub nbf: u64,
    /// Expires at, seconds.
    pub exp: u64,
    /// The application (client) id.
    pub appid: Guid,
    /// How the client proved itself: "0" not at all, "1" secret, "2" assertion.
    pub appidacr: String,
    /// Always `app`.
    pub idtyp: String,
    /// The object id.
    pub oid: Guid,
    /// The object id again: there is no user.
    pub sub: Guid,
    /// The tenant.
    pub tid: Guid,
    /// Unique for each token.
    pub uti: String,
    /// Always `1.0`.
    pub ver: String,
    /// The ARM id of the managed identity, or of the host whose own identity it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xms_mirid: Option<String>,
}

/// What a token is issued for.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) audience: String,
    pub(crate) client_id: Guid,
    pub(crate) principal_id: Guid,
    pub(crate) tenant_id: Guid,
    pub(crate) resource_id: Option<String>,
    pub(crate) proof: Proof,
    pub(crate) lifetime_seconds: u64,
}

/// How the client proved itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Secret,
    Assertion,
}

/// The issuer's signing key.
pub(crate) struct Signer {
    key: KeyPair,
    kid: String,
    jwks: Value,
}

/// Why there is no signing key.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The state directory cannot be used.
    #[error("signing.key of the state directory cannot be read or written")]
    File(#[source] io::Error),
    /// The file is not a key.
    #[error("signing.key is not an RSA key: remove it to have a new one made")]
    Key,
    /// The library refuses.
    #[error("the signing key cannot be used")]
    Crypto,
}

/// The claims of `token` after its signature was checked against `jwks`. Does not look at times.
///
/// # Errors
/// If the token is not an access token signed by one of these keys.
pub fn decode_claims(token: &str, jwks: &Value) -> Result<Claims, JwtError> {
    let jwt = Jwt::parse(token)?;
    jwt.verify(jwks)?;
    serde_json::from_value(jwt.claims).map_err(|_| JwtError::Claims)
}

impl Signer {
    /// The key in `dir`, or a new one written there: tokens outlive a restart, as in reality.
    pub(crate) fn open(dir: &Path) -> Result<Self, SignerError> {
        let path = dir.join("signing.key");
        if let Some(der) = files::read(&path).map_err(SignerError::File)? {
            let key = KeyPair::from_pkcs8(&der).map_err(|_| SignerError::Key)?;
            return Ok(Self::new(key));
        }
        let key = KeyPair::generate(KeySize::Rsa2048).map_err(|_| SignerError::Crypto)?;
        let der = key.as_der().map_err(|_| SignerError::Crypto)?;
        files::replace(&path, der.as_ref(), Access::Owner).map_err(SignerError::File)?;
        Ok(Self::new(key))
    }

    fn new(key: KeyPair) -> Self {
        let public = key.public_key();
        let modulus = public.modulus().big_endian_without_leading_zero().to_vec();
        let exponent = public.exponent().big_endian_without_leading_zero().to_vec();
        let kid = encode(&digest(&SHA256, &modulus).as_ref()[..20]);
        let jwks = json!({"keys": [{
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "x5t": kid,
            "n": encode(&modulus), "e": encode(&exponent),
        }]});
        Self { key, kid, jwks }
    }

    /// The public key.
    pub(crate) fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// A new token, with its claims.
    pub(crate) fn issue(&self, grant: &Grant) -> Result<(String, Claims), SignerError> {
        let now = now_seconds();
        let claims = Claims {
            aud: grant.audience.clone(),
            iss: format!("https://sts.windows.net/{}/", grant.tenant_id),
            iat: now,
            nbf: now,
            exp: now + grant.lifetime_seconds,
            appid: grant.client_id.clone(),
            appidacr: if grant.proof == Proof::Secret { "1" } else { "2" }.to_owned(),
            idtyp: "app".to_owned(),
            oid: grant.principal_id.clone(),
            sub: grant.principal_id.clone(),
            tid: grant.tenant_id.clone(),
            uti: encode(&rand::random::<[u8; 16]>()),
            ver: "1.0".to_owned(),
            xms_mirid: grant.resource_id.clone(),
        };
        let header = json!({"typ": "JWT", "alg": "RS256", "x5t": self.kid, "kid": self.kid});
        let signed = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(json!(claims).to_string().as_bytes())
        );
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| SignerError::Crypto)?;
        Ok((format!("{signed}.{}", encode(&signature)), claims))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Grant, Proof, Signer, decode_claims};
    use crate::jwt::JwtError;
    use crate::seed;

    fn grant() -> Grant {
        let world = seed::world();
        let identity = &world.identities[&seed::identity_id("demo-identity")];
        Grant {
            audience: "https://vault.azure.net".to_owned(),
            client_id: identity.client_id.clone(),
            principal_id: identity.principal_id.clone(),
            tenant_id: identity.tenant_id.clone(),
            resource_id: Some(identity.id.to_string()),
            proof: Proof::Assertion,
            lifetime_seconds: 60,
        }
    }

    #[test]
    fn a_token_verifies_against_its_own_key_only_and_survives_a_restart() {
        let (mine, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let signer = Signer::open(mine.path()).unwrap();
        let (token, claims) = signer.issue(&grant()).unwrap();
        assert_eq!(decode_claims(&token, signer.jwks()), Ok(claims.clone()));
        assert_eq!(claims.exp, claims.iat + 60);

        let reopened = Signer::open(mine.path()).unwrap();
        assert!(decode_claims(&token, reopened.jwks()).is_ok());
        let stranger = Signer::open(other.path()).unwrap();
        assert_eq!(decode_claims(&token, stranger.jwks()), Err(JwtError::UnknownKey));
    }

    #[test]
    fn a_changed_token_does_not_verify() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::open(dir.path()).unwrap();
        let (token, _) = signer.issue(&grant()).unwrap();
        let (other, _) = signer.issue(&grant()).unwrap();
        let signature = other.rsplit('.').next().unwrap();
        let (body, _) = token.rsplit_once('.').unwrap();
        let forged = format!("{body}.{signature}");
        assert_eq!(decode_claims(&forged, signer.jwks()), Err(JwtError::Signature));
        assert_eq!(decode_claims("a.b", signer.jwks()), Err(JwtError::Malformed));
    }
}
