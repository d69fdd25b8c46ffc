//! What a token says. Nothing here checks a signature: these are for showing and for asserting.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// The claims that say whose token it is and for what.
const TELLING: [&str; 5] = ["aud", "appid", "xms_mirid", "tid", "exp"];

/// All claims of a JWT.
pub fn decode(token: &str) -> Result<Value> {
    let payload = token.split('.').nth(1).context("the token is no JWT")?;
    let json = URL_SAFE_NO_PAD.decode(payload).context("the token's payload is not base64url")?;
    serde_json::from_slice(&json).context("the token's payload is not JSON")
}

/// The claims worth showing, a line each.
#[must_use]
pub fn summary(claims: &Value) -> String {
    let line = |name: &str| {
        let value = &claims[name];
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name:>9}: {text}")
    };
    TELLING.into_iter().map(line).collect::<Vec<_>>().join("\n")
}
