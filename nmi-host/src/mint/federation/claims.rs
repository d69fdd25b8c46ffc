//! Whether a service-account token can be shown to Entra, by what it says of itself. Pure. The
//! signature is Entra's business: whoever shows a forged one gets nothing for it.

use serde::Deserialize;

use crate::caller::ServiceAccount;
use crate::jwt;

/// What a token that can be shown says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    /// The cluster.
    pub(crate) issuer: String,
    /// The service account.
    pub(crate) subject: ServiceAccount,
    /// Unix seconds.
    pub(crate) expires_on: u64,
}

/// Why a token cannot be shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// Something else.
    #[error("it is not the token of a service account")]
    NotAToken,
    /// Entra would take it for somebody else.
    #[error("it is the token of another service account than the pod's")]
    OtherAccount,
    /// Entra would not take it.
    #[error(
        "its audience is not {0:?}: after a change of azure.federationAudience, have the pod created anew"
    )]
    OtherAudience(String),
    /// Too old.
    #[error("it has expired, or the node's clock is wrong")]
    Expired,
}

#[derive(Deserialize)]
struct Said {
    iss: String,
    sub: String,
    aud: Audience,
    exp: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

// === impl Claims ===

impl Claims {
    /// Reads a token that is for `audience` and lives at `now`, in Unix seconds.
    pub(super) fn read(token: &str, audience: &str, now: u64) -> Result<Self, Unfit> {
        let said: Said = jwt::claims(token).ok_or(Unfit::NotAToken)?;
        let subject = ServiceAccount::from_subject(&said.sub).ok_or(Unfit::NotAToken)?;
        if !said.aud.names(audience) {
            return Err(Unfit::OtherAudience(audience.to_owned()));
        }
        if said.exp <= now {
            return Err(Unfit::Expired);
        }
        Ok(Self { issuer: said.iss, subject, expires_on: said.exp })
    }
}

// === impl Audience ===

impl Audience {
    fn names(&self, audience: &str) -> bool {
        match self {
            Self::One(name) => name == audience,
            Self::Many(names) => names.iter().any(|name| name == audience),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{AUDIENCE, ISSUER};
    use super::*;
    use crate::jwt::testing::unsigned;

    #[test]
    fn a_token_is_shown_if_it_is_a_service_accounts_for_entra_and_lives() {
        let good = json!({
            "iss": ISSUER, "sub": "system:serviceaccount:team:web", "aud": [AUDIENCE], "exp": 100
        });
        let claims = Claims::read(&unsigned(&good), AUDIENCE, 99).unwrap();
        assert_eq!((claims.issuer.as_str(), claims.expires_on), (ISSUER, 100));
        assert_eq!(claims.subject.to_string(), "system:serviceaccount:team:web");
        let other = || Unfit::OtherAudience(AUDIENCE.to_owned());
        let cases: [(&str, Value, Unfit); 9] = [
            ("/aud", json!("api://other"), other()),
            ("/aud", json!([]), other()),
            ("/aud", json!(["https://kubernetes.default.svc"]), other()),
            ("/aud", Value::Null, Unfit::NotAToken),
            ("/sub", json!("system:node:node-1"), Unfit::NotAToken),
            ("/sub", json!("system:serviceaccount:team:web:x"), Unfit::NotAToken),
            ("/iss", Value::Null, Unfit::NotAToken),
            ("/exp", json!(99), Unfit::Expired),
            ("/exp", json!(-1), Unfit::NotAToken),
        ];
        for (path, value, expected) in cases {
            let mut claims = good.clone();
            *claims.pointer_mut(path).unwrap() = value.clone();
            let read = Claims::read(&unsigned(&claims), AUDIENCE, 99);
            assert_eq!(read, Err(expected), "{path} = {value}");
        }
        for text in ["", "opaque", "a.b.c"] {
            assert_eq!(Claims::read(text, AUDIENCE, 0), Err(Unfit::NotAToken), "{text}");
        }
    }

    #[test]
    fn one_audience_may_be_written_without_a_list() {
        let claims = json!({
            "iss": ISSUER, "sub": "system:serviceaccount:team:web", "aud": AUDIENCE, "exp": 100
        });
        assert!(Claims::read(&unsigned(&claims), AUDIENCE, 0).is_ok());
    }
}
