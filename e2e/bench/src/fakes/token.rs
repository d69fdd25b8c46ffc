//! Tokens of the usual size. Nobody here checks signatures, so they have none.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A day, as managed identities' tokens have.
pub(crate) const LIFE_SECONDS: u64 = 86_400;

/// So long are managed identities' tokens; the answer around it then has 1.6 kB.
const LENGTH: usize = 1350;

/// Whose token, and what for.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    pub(crate) resource: String,
    pub(crate) client_id: String,
    pub(crate) resource_id: String,
}

/// A token as the services here answer it.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    claims: Claims,
    expires_on: u64,
    text: String,
}

// === impl Claims ===

impl Default for Claims {
    fn default() -> Self {
        Self {
            resource: "https://vault.azure.net".to_owned(),
            client_id: client_id(0),
            resource_id: resource_id(0),
        }
    }
}

// === impl Token ===

impl Token {
    /// A token that lives a day.
    pub(crate) fn new(claims: &Claims) -> Self {
        let expires_on = now() + LIFE_SECONDS;
        let payload = json!({
            "aud": claims.resource,
            "iss": "https://sts.windows.net/10000000-0000-0000-0000-000000000001/",
            "iat": expires_on - LIFE_SECONDS,
            "nbf": expires_on - LIFE_SECONDS,
            "exp": expires_on,
            "appid": claims.client_id,
            "oid": claims.client_id.replacen('2', "3", 1),
            "tid": "10000000-0000-0000-0000-000000000001",
            "ver": "1.0",
            "xms_mirid": claims.resource_id,
        });
        Self { claims: claims.clone(), expires_on, text: jwt(&payload, LENGTH) }
    }

    /// What IMDS answers.
    pub(crate) fn imds_body(&self) -> String {
        json!({
            "access_token": self.text,
            "client_id": self.claims.client_id,
            "expires_in": LIFE_SECONDS.to_string(),
            "expires_on": self.expires_on.to_string(),
            "ext_expires_in": LIFE_SECONDS.to_string(),
            "not_before": (self.expires_on - LIFE_SECONDS).to_string(),
            "resource": self.claims.resource,
            "token_type": "Bearer",
        })
        .to_string()
    }

    /// What the node agent answers.
    pub(crate) fn agent_body(&self) -> String {
        json!({
            "accessToken": self.text,
            "tokenType": "Bearer",
            "resource": self.claims.resource,
            "clientID": self.claims.client_id,
            "expiresOn": self.expires_on,
            "notBefore": self.expires_on - LIFE_SECONDS,
            "expiresIn": LIFE_SECONDS,
        })
        .to_string()
    }
}

/// Client id of an identity.
pub(crate) fn client_id(identity: usize) -> String {
    format!("20000000-0000-0000-0000-{identity:012}")
}

/// ARM id of an identity.
pub(crate) fn resource_id(identity: usize) -> String {
    format!(
        "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/identities/providers/\
         Microsoft.ManagedIdentity/userAssignedIdentities/identity-{identity}"
    )
}

/// A JWT with these claims, made so long by its signature.
pub(crate) fn jwt(claims: &Value, length: usize) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let header = json!({"alg": "RS256", "typ": "JWT", "kid": "bench"});
    let mut text = format!("{}.{}.", part(&header), part(claims));
    let missing = length.saturating_sub(text.len()).max(4);
    text.extend(std::iter::repeat_n('A', missing));
    text
}

/// The claims of such a JWT.
pub(crate) fn claims(jwt: &str) -> Option<Value> {
    let payload = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// Unix time in seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_usual_size_and_says_whose_it_is() {
        let token = Token::new(&Claims::default());
        assert_eq!(token.text.len(), LENGTH);
        assert_eq!(claims(&token.text).unwrap()["appid"], client_id(0));
        let body = token.imds_body();
        assert!((1550..1700).contains(&body.len()), "{}", body.len());
        assert_eq!(claims("x.y"), None);
    }
}
