//! What the library's error says about Entra's answer. Pure.

use std::time::Duration;

use azure_core::error::{Error, ErrorKind};
use azure_core::http::RawResponse;
use azure_core::http::headers::{HeaderName, Headers};
use serde::Deserialize;

use crate::mint::answer::clean;

/// What came instead of a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntraError {
    /// Refused for good; Entra's words.
    #[error("Entra refused: {text}")]
    Refused {
        /// The line with the AADSTS code.
        text: String,
        /// Whether it is the application's credential that was refused.
        credential: bool,
    },
    /// Too many calls.
    #[error("Entra asks to slow down")]
    Throttled(Option<Duration>),
    /// Failing, silent, or not making sense.
    #[error("Entra cannot answer: {0}")]
    Unavailable(String),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    error: String,
    error_description: String,
}

const RETRY_AFTER: HeaderName = HeaderName::from_static("retry-after");

// === impl EntraError ===

impl EntraError {
    /// Reads the library's error.
    pub(crate) fn of(error: &Error) -> Self {
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut innermost = String::new();
        while let Some(current) = next {
            if let Some(error) = current.downcast_ref::<Error>()
                && let ErrorKind::HttpResponse { status, raw_response, .. } = error.kind()
            {
                return Self::answered(u16::from(*status), raw_response.as_deref());
            }
            innermost = current.to_string();
            next = current.source();
        }
        Self::Unavailable(clean(&innermost))
    }

    fn answered(status: u16, answer: Option<&RawResponse>) -> Self {
        let body: Body = answer
            .and_then(|answer| serde_json::from_slice(answer.body().as_ref()).ok())
            .unwrap_or_default();
        match (status, body.error.as_str()) {
            (429, _) => Self::Throttled(answer.and_then(|answer| retry_after(answer.headers()))),
            (_, "temporarily_unavailable" | "server_error") | (408 | 500..=599, _) => {
                Self::Unavailable(format!("HTTP {status}"))
            }
            (400..=499, error) => {
                let line = body.error_description.lines().next().unwrap_or_default();
                let said = [line, error].map(clean).into_iter().find(|text| !text.is_empty());
                let text = said.unwrap_or_else(|| format!("HTTP {status}"));
                Self::Refused { text, credential: status == 401 || error == "invalid_client" }
            }
            (300..=399, _) => Self::Unavailable(format!("it redirects (HTTP {status})")),
            _ => Self::Unavailable(format!("HTTP {status}")),
        }
    }

    /// Whether it is the application's credential that was refused.
    pub(crate) fn is_about_the_credential(&self) -> bool {
        matches!(self, Self::Refused { credential: true, .. })
    }

    /// The words of a refusal.
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Refused { text, .. } => text,
            Self::Throttled(_) | Self::Unavailable(_) => "",
        }
    }

    /// The same without what must not be repeated, should Entra ever repeat it.
    pub(crate) fn without(self, secret: &str) -> Self {
        match self {
            Self::Refused { text, credential } if !secret.is_empty() => {
                Self::Refused { text: text.replace(secret, "(removed)"), credential }
            }
            other => other,
        }
    }
}

fn retry_after(headers: &Headers) -> Option<Duration> {
    let seconds = headers.get_optional_str(&RETRY_AFTER)?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use azure_core::http::StatusCode;
    use serde_json::{Value, json};

    use super::*;

    /// As `azure_identity` wraps it.
    fn wrapped(status: u16, headers: Headers, body: &str) -> EntraError {
        let status = StatusCode::from(status);
        let raw = RawResponse::from_bytes(status, headers, body.to_owned());
        let kind =
            ErrorKind::HttpResponse { status, error_code: None, raw_response: Some(Box::new(raw)) };
        let inner = Error::with_message(kind, "description");
        EntraError::of(&Error::with_error(ErrorKind::Credential, inner, "failed\nTo troubleshoot"))
    }

    fn answered(status: u16, body: &Value) -> EntraError {
        wrapped(status, Headers::default(), &body.to_string())
    }

    #[test]
    fn answers_are_told_apart() {
        let described = |error: &str, code: u32| json!({"error": error, "error_description": format!("AADSTS{code}: Words.\r\nTrace ID: 1")});
        let refused =
            |text: &str, credential| EntraError::Refused { text: text.to_owned(), credential };
        let unavailable = |text: &str| EntraError::Unavailable(text.to_owned());
        let cases = [
            (401, described("invalid_client", 7_000_215), refused("AADSTS7000215: Words.", true)),
            (401, described("invalid_client", 7_000_222), refused("AADSTS7000222: Words.", true)),
            (400, described("invalid_client", 700_027), refused("AADSTS700027: Words.", true)),
            (
                400,
                described("unauthorized_client", 700_016),
                refused("AADSTS700016: Words.", false),
            ),
            (400, described("invalid_request", 90_002), refused("AADSTS90002: Words.", false)),
            (400, described("invalid_resource", 500_011), refused("AADSTS500011: Words.", false)),
            (400, described("temporarily_unavailable", 90_033), unavailable("HTTP 400")),
            (429, described("temporarily_unavailable", 90_055), EntraError::Throttled(None)),
            (503, described("temporarily_unavailable", 90_033), unavailable("HTTP 503")),
            (502, json!({}), unavailable("HTTP 502")),
            (408, json!({}), unavailable("HTTP 408")),
            (302, json!({}), unavailable("it redirects (HTTP 302)")),
            (403, json!({}), refused("HTTP 403", false)),
            (400, json!({"error": "invalid_scope"}), refused("invalid_scope", false)),
        ];
        for (status, body, expected) in cases {
            assert_eq!(answered(status, &body), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_time_to_come_back_is_read() {
        let mut headers = Headers::new();
        headers.insert(RETRY_AFTER, "7");
        let expected = EntraError::Throttled(Some(Duration::from_secs(7)));
        assert_eq!(wrapped(429, headers, "{}"), expected);
    }

    #[test]
    fn no_answer_is_an_outage() {
        let inner = Error::with_message(ErrorKind::Connection, "connection refused");
        let error = Error::with_error(ErrorKind::Credential, inner, "failed");
        assert_eq!(
            EntraError::of(&error),
            EntraError::Unavailable("connection refused".to_owned())
        );
    }

    #[test]
    fn what_was_sent_is_not_repeated() {
        let token = crate::jwt::testing::unsigned(&json!({"iss": "a"}));
        let body = json!({"error_description": format!("bad {token} p4ss\u{7}w0rd")});
        let error = answered(401, &body).without("p4ssw0rd");
        assert_eq!(error.to_string(), "Entra refused: bad (removed) (removed)");
    }
}
