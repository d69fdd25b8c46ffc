//! JSON web tokens: taking them apart, and checking signatures against public keys.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// A token taken apart. Nothing of it is trusted before its signature was checked.
pub(crate) struct Jwt {
    pub(crate) header: Value,
    pub(crate) claims: Value,
    signed: String,
    signature: Vec<u8>,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three base64url parts of JSON.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// None of the keys has the token's `kid`.
    #[error("no key has the id that the token names")]
    UnknownKey,
    /// An algorithm or key that is not supported.
    #[error("the token's algorithm does not fit the key")]
    Algorithm,
    /// The signature is not this key's.
    #[error("the signature does not verify")]
    Signature,
    /// A claim is absent or of the wrong type.
    #[error("the claims are not those of an access token")]
    Claims,
}

impl Jwt {
    pub(crate) fn parse(token: &str) -> Result<Self, JwtError> {
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtError::Malformed);
        };
        let json = |part: &str| {
            serde_json::from_slice::<Value>(&decode(part)?).map_err(|_| JwtError::Malformed)
        };
        Ok(Self {
            header: json(header)?,
            claims: json(claims)?,
            signed: format!("{header}.{claims}"),
            signature: decode(signature)?,
        })
    }

    pub(crate) fn claim(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str()
    }

    /// Each audience: the claim is a text or a list of texts.
    pub(crate) fn audiences(&self) -> Vec<&str> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Checks the signature with a key of `jwks`.
    pub(crate) fn verify(&self, jwks: &Value) -> Result<(), JwtError> {
        let kid = self.header.get("kid");
        let keys = jwks.get("keys").and_then(Value::as_array).ok_or(JwtError::UnknownKey)?;
        let key = match kid {
            Some(kid) => keys.iter().find(|key| key.get("kid") == Some(kid)),
            None if keys.len() == 1 => keys.first(),
            None => None,
        };
        self.verify_with_jwk(key.ok_or(JwtError::UnknownKey)?)
    }

    /// Checks the signature with a certificate's RSA key (PKCS#1 DER).
    pub(crate) fn verify_with_rsa(&self, public_key: &[u8]) -> Result<(), JwtError> {
        let algorithm = match self.header.get("alg").and_then(Value::as_str) {
            Some("RS256") => &RSA_PKCS1_2048_8192_SHA256,
            Some("PS256") => &RSA_PSS_2048_8192_SHA256,
            _ => return Err(JwtError::Algorithm),
        };
        UnparsedPublicKey::new(algorithm, public_key)
            .verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_| JwtError::Signature)
    }

    fn verify_with_jwk(&self, key: &Value) -> Result<(), JwtError> {
        let part = |name: &str| match key.get(name).and_then(Value::as_str) {
            Some(text) => decode(text).map_err(|_| JwtError::Algorithm),
            None => Err(JwtError::Algorithm),
        };
        let message = self.signed.as_bytes();
        let verified = match self.header.get("alg").and_then(Value::as_str) {
            Some("RS256") => RsaPublicKeyComponents { n: part("n")?, e: part("e")? }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                message,
                &self.signature,
            ),
            Some("ES256") => {
                let point = [vec![4], part("x")?, part("y")?].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                    .verify(message, &self.signature)
            }
            _ => return Err(JwtError::Algorithm),
        };
        verified.map_err(|_| JwtError::Signature)
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jwt(…)")
    }
}

pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(text: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| JwtError::Malformed)
}
