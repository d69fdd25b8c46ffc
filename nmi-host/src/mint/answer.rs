//! What the metadata service's answer to a token request means.
//!
//! Pure: takes status, headers and body, returns a token or the kind of failure.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Deserializer};

/// A token as IMDS answers it.
#[derive(Clone, Deserialize)]
pub(crate) struct ImdsToken {
    /// The token itself. Not part of this type's `Debug`.
    pub(crate) access_token: String,
    /// The identity's client id, if the service says it.
    #[serde(default)]
    pub(crate) client_id: Option<String>,
    /// Seconds until it expires.
    #[serde(default, deserialize_with = "number")]
    pub(crate) expires_in: Option<u64>,
    /// Unix seconds at which it expires.
    #[serde(default, deserialize_with = "number")]
    pub(crate) expires_on: Option<u64>,
    /// Unix seconds from which on it is valid.
    #[serde(default, deserialize_with = "number")]
    pub(crate) not_before: Option<u64>,
}

/// What came instead of a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImdsError {
    /// The VM does not have the identity, or the service has not heard of it yet: an attachment
    /// takes seconds to get there.
    #[error(
        "Azure's metadata service does not know the identity on this VM yet; it was attached a moment ago, or was detached by someone else"
    )]
    UnknownIdentity,
    /// Refused for good; Azure's words.
    #[error("Azure refused: {0}")]
    Refused(String),
    /// Too many calls.
    #[error("Azure's metadata service asks to slow down")]
    Throttled(Option<Duration>),
    /// Updating, failing, silent, or not making sense.
    #[error("Azure's metadata service cannot answer: {0}")]
    Unavailable(String),
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

const MAX_TEXT: usize = 400;

/// Reads an answer.
pub(crate) fn read(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<ImdsToken, ImdsError> {
    match status.as_u16() {
        200 => serde_json::from_slice::<ImdsToken>(body)
            .ok()
            .filter(|token| !token.access_token.is_empty())
            .ok_or_else(|| ImdsError::Unavailable("its answer holds no token".to_owned())),
        429 => Err(ImdsError::Throttled(retry_after(headers))),
        404 | 408 | 410 | 500..=599 => Err(ImdsError::Unavailable(format!("HTTP {status}"))),
        400..=499 => Err(refusal(status, body)),
        // Never followed: a token request goes to the metadata service or nowhere.
        300..=399 => {
            Err(ImdsError::Unavailable(format!("it answered with a redirect (HTTP {status})")))
        }
        _ => Err(ImdsError::Unavailable(format!("it answered with HTTP {status}"))),
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> ImdsError {
    let Ok(body) = serde_json::from_slice::<ErrorBody>(body) else {
        return ImdsError::Refused(format!("HTTP {status}"));
    };
    if body.error_description.to_ascii_lowercase().contains("identity not found") {
        return ImdsError::UnknownIdentity;
    }
    let words = [clean(&body.error), clean(&body.error_description)];
    let text = words.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>();
    if text.is_empty() {
        ImdsError::Refused(format!("HTTP {status}"))
    } else {
        ImdsError::Refused(text.join(": "))
    }
}

/// Azure's words in one bounded line. Error texts hold no tokens; should one ever, it stays here.
pub(super) fn clean(text: &str) -> String {
    let word = |word: &str| {
        if crate::jwt::claims::<serde_json::Value>(word).is_some() {
            "(removed)".to_owned()
        } else {
            word.chars().filter(|c| !c.is_control()).collect()
        }
    };
    let line = text.split_whitespace().map(word).collect::<Vec<String>>().join(" ");
    line.chars().take(MAX_TEXT).collect()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// IMDS writes numbers as strings; its imitations do not always. What is neither counts as absent.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => number.as_u64(),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    })
}

// === impl ImdsToken ===

impl ImdsToken {
    /// How long the token lives: the shortest that any of its own statements allows.
    pub(crate) fn lifetime(&self, claimed_expiry: Option<u64>, now: u64) -> Duration {
        let left = |expiry: u64| expiry.saturating_sub(now);
        let statements = [self.expires_in, self.expires_on.map(left), claimed_expiry.map(left)];
        Duration::from_secs(statements.into_iter().flatten().min().unwrap_or(0))
    }
}

impl fmt::Debug for ImdsToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImdsToken")
            .field("client_id", &self.client_id)
            .field("expires_on", &self.expires_on)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn outcome(status: u16, body: &Value) -> Result<ImdsToken, ImdsError> {
        let status = StatusCode::from_u16(status).unwrap();
        read(status, &HeaderMap::new(), body.to_string().as_bytes())
    }

    #[test]
    fn numbers_may_be_strings_or_numbers() {
        for body in [
            json!({"access_token": "t", "expires_in": "60", "expires_on": "1060", "not_before": "1"}),
            json!({"access_token": "t", "expires_in": 60, "expires_on": 1060, "not_before": 1}),
        ] {
            let token = outcome(200, &body).unwrap();
            let numbers = (token.expires_in, token.expires_on, token.not_before);
            assert_eq!(numbers, (Some(60), Some(1060), Some(1)));
        }
    }

    #[test]
    fn the_shortest_statement_about_the_lifetime_counts() {
        let token = |expires_in: Option<u64>, expires_on: Option<u64>| ImdsToken {
            access_token: "t".to_owned(),
            client_id: None,
            expires_in,
            expires_on,
            not_before: None,
        };
        let cases = [
            (Some(60), Some(1100), Some(1200), 60),
            (Some(600), Some(1100), Some(1200), 100),
            (Some(600), Some(1100), Some(1050), 50),
            (None, Some(900), None, 0),
            (None, None, Some(1010), 10),
            (None, None, None, 0),
        ];
        for (expires_in, expires_on, claimed, expected) in cases {
            let life = token(expires_in, expires_on).lifetime(claimed, 1000);
            assert_eq!(life.as_secs(), expected, "{expires_in:?} {expires_on:?} {claimed:?}");
        }
    }

    #[test]
    fn failures_are_told_apart() {
        let described = |text: &str| json!({"error": "invalid_request", "error_description": text});
        let unavailable = |text: &str| ImdsError::Unavailable(text.to_owned());
        let refused = |text: &str| ImdsError::Refused(text.to_owned());
        let cases = [
            (400, described("Identity not found"), ImdsError::UnknownIdentity),
            (400, described("bad\n \u{7}resource"), refused("invalid_request: bad resource")),
            (400, json!("?"), refused("HTTP 400 Bad Request")),
            (403, json!({}), refused("HTTP 403 Forbidden")),
            (404, described("updating"), unavailable("HTTP 404 Not Found")),
            (410, json!({}), unavailable("HTTP 410 Gone")),
            (429, json!({}), ImdsError::Throttled(None)),
            (503, json!({}), unavailable("HTTP 503 Service Unavailable")),
            (302, json!({}), unavailable("it answered with a redirect (HTTP 302 Found)")),
            (204, json!({}), unavailable("it answered with HTTP 204 No Content")),
            (200, json!({"access_token": ""}), unavailable("its answer holds no token")),
            (200, json!({}), unavailable("its answer holds no token")),
        ];
        for (status, body, expected) in cases {
            assert_eq!(outcome(status, &body).unwrap_err(), expected, "{status} {body}");
        }
    }

    #[test]
    fn retry_after_is_read() {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "7".parse().unwrap())]);
        let error = read(StatusCode::TOO_MANY_REQUESTS, &headers, b"").unwrap_err();
        assert_eq!(error, ImdsError::Throttled(Some(Duration::from_secs(7))));
    }

    #[test]
    fn azures_words_are_bounded_and_free_of_tokens() {
        let token = crate::jwt::testing::unsigned(&json!({"aud": "r"}));
        let text = format!("assertion {token} is bad {}", "x".repeat(1000));
        let ImdsError::Refused(text) =
            outcome(400, &json!({"error": "e", "error_description": text})).unwrap_err()
        else {
            panic!("a refusal was expected")
        };
        assert!(text.starts_with("e: assertion (removed) is bad xxx"), "{text}");
        assert!(text.len() <= MAX_TEXT + 3);
        let token = ImdsToken {
            access_token: "very-secret".to_owned(),
            client_id: None,
            expires_in: None,
            expires_on: None,
            not_before: None,
        };
        assert!(!format!("{token:?}").contains("very-secret"));
    }
}
