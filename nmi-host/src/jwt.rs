//! Reads what a JWT says of itself. Nothing here verifies a signature: it is for what the API
//! server or Azure has vouched for already, and for bounds that only ever shorten a life.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;

/// The claims of a signed JWT, as far as `T` names them; `None` for anything else, such as an
/// encrypted or opaque token.
pub(crate) fn claims<T: DeserializeOwned>(token: &str) -> Option<T> {
    let mut parts = token.split('.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let json = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A JWT with these claims and a signature that nobody could verify.
    pub(crate) fn unsigned(claims: &serde_json::Value) -> String {
        let part = |json: &serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
        format!("{}.{}.sig", part(&serde_json::json!({"alg": "none"})), part(claims))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Expiry {
        exp: u64,
    }

    #[test]
    fn only_a_signed_jwt_has_claims() {
        let token = testing::unsigned(&serde_json::json!({"exp": 7, "sub": "x"}));
        assert_eq!(claims(&token), Some(Expiry { exp: 7 }));
        let encrypted = format!("{token}.four.five");
        for other in ["", "opaque", "a.b.c", "a.b", &encrypted] {
            assert_eq!(claims::<Expiry>(other), None, "{other}");
        }
    }
}
