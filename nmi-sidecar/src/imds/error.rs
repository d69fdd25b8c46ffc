//! Every way in which a request fails, with the status, code and text that clients understand.
//!
//! Clients branch on the status: they retry 404, 408, 410, 429 and 5xx for up to two minutes, and
//! 400, 401 and 403 never.

use std::borrow::Cow;

/// Why a request gets no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImdsError {
    /// The request is not HTTP as this server speaks it.
    Malformed(&'static str),
    /// Not the token path.
    NotFound,
    /// Not GET.
    MethodNotAllowed,
    /// `Metadata: true` is missing: a probe, or a forged request.
    NoMetadataHeader,
    /// The request came through a proxy.
    Forwarded,
    /// A name that a browser may have been tricked into.
    ForbiddenHost,
    /// The request came from a web page.
    ForbiddenOrigin,
    /// The query cannot be understood.
    Query(&'static str),
    /// `api-version` is missing or unknown.
    ApiVersion,
    /// The pod has no such identity: what was asked for, in the words of the request. Whether it
    /// exists elsewhere is nobody's business here.
    IdentityNotFound(String),
    /// The identity is not bound to the pod, or not attached yet.
    NotAssigned {
        /// What to do about it.
        detail: String,
        /// It is being attached: worth another try.
        pending: bool,
    },
    /// No selector, and several identities.
    Ambiguous,
    /// Azure refused for good.
    Refused(String),
    /// Azure asked to slow down.
    Throttled(String),
    /// No answer from Azure or from the node's agent.
    Unavailable(String),
    /// This sidecar has too much to do.
    Overloaded,
}

/// The kinds of answer, as metrics count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A token.
    Token,
    /// The request has no `Metadata: true`: mostly a client that probes.
    Probe,
    /// The request breaks the contract.
    Rejected,
    /// Another path.
    NotFound,
    /// The pod has no such identity.
    IdentityNotFound,
    /// The identity is not assigned.
    NotAssigned,
    /// Several identities and no selector.
    Ambiguous,
    /// Azure refused.
    Refused,
    /// Throttled.
    Throttled,
    /// No answer in time.
    Unavailable,
}

/// An error as it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorReply {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After` in seconds.
    pub retry_after: Option<u8>,
    /// The JSON body.
    pub body: String,
}

/// What Entra's codes for a refused grant become. The others are an `invalid_request`.
const CODES: [(&str, &[&str]); 2] = [
    ("invalid_resource", &["AADSTS50001", "AADSTS500011"]),
    (
        "unauthorized_client",
        &["AADSTS70021", "AADSTS700213", "AADSTS700016", "AADSTS7000215", "AADSTS7000229"],
    ),
];

const API_VERSION: &str = "Bad request. api-version is invalid or was not specified in the \
                           request. For more information refer to aka.ms/azureimds";

const NEWEST_VERSIONS: &str = r#","newest-versions":["2025-04-07","2024-07-17","2024-03-15"]"#;

// === impl Outcome ===

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Token,
        Self::Probe,
        Self::Rejected,
        Self::NotFound,
        Self::IdentityNotFound,
        Self::NotAssigned,
        Self::Ambiguous,
        Self::Refused,
        Self::Throttled,
        Self::Unavailable,
    ];

    /// As a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Probe => "probe",
            Self::Rejected => "rejected",
            Self::NotFound => "not_found",
            Self::IdentityNotFound => "identity_not_found",
            Self::NotAssigned => "not_assigned",
            Self::Ambiguous => "ambiguous",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }
}

// === impl ImdsError ===

impl ImdsError {
    /// The HTTP status. Never 502 or 504, which some clients take for a missing service.
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_)
            | Self::NoMetadataHeader
            | Self::Forwarded
            | Self::Query(_)
            | Self::ApiVersion
            | Self::IdentityNotFound(_)
            | Self::NotAssigned { pending: false, .. }
            | Self::Ambiguous
            | Self::Refused(_) => 400,
            Self::ForbiddenHost | Self::ForbiddenOrigin => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Throttled(_) | Self::Overloaded => 429,
            Self::NotAssigned { pending: true, .. } | Self::Unavailable(_) => 503,
        }
    }

    /// How it is counted.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Malformed(_)
            | Self::MethodNotAllowed
            | Self::Forwarded
            | Self::ForbiddenHost
            | Self::ForbiddenOrigin
            | Self::Query(_)
            | Self::ApiVersion => Outcome::Rejected,
            Self::NotFound => Outcome::NotFound,
            Self::NoMetadataHeader => Outcome::Probe,
            Self::IdentityNotFound(_) => Outcome::IdentityNotFound,
            Self::NotAssigned { .. } => Outcome::NotAssigned,
            Self::Ambiguous => Outcome::Ambiguous,
            Self::Refused(_) => Outcome::Refused,
            Self::Throttled(_) | Self::Overloaded => Outcome::Throttled,
            Self::Unavailable(_) => Outcome::Unavailable,
        }
    }

    /// The answer. `correlation` ties it to a log line.
    pub fn reply(&self, correlation: Option<&str>) -> ErrorReply {
        let mut description = self.description().into_owned();
        if let Some(id) = correlation {
            description.push_str(". Correlation ID: ");
            description.push_str(id);
        }
        let (code, more) = match self {
            Self::ApiVersion => (API_VERSION, NEWEST_VERSIONS),
            _ => (self.code(), ""),
        };
        let (code, description) = (quoted(code), quoted(&description));
        let body = format!(r#"{{"error":{code},"error_description":{description}{more}}}"#);
        // Short: clients obey it literally, and one replays the error for as long.
        let retry_after = matches!(self.status(), 429 | 503).then_some(1);
        ErrorReply { status: self.status(), retry_after, body }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ForbiddenHost | Self::ForbiddenOrigin => "access_denied",
            Self::Throttled(_) | Self::Overloaded => "too_many_requests",
            Self::Unavailable(_) | Self::NotAssigned { pending: true, .. } => {
                "temporarily_unavailable"
            }
            Self::Refused(text) => refusal_code(text),
            _ => "invalid_request",
        }
    }

    fn description(&self) -> Cow<'static, str> {
        match self {
            Self::Malformed(text) | Self::Query(text) => (*text).into(),
            Self::NotFound => "Only /metadata/identity/oauth2/token is served to pods".into(),
            Self::MethodNotAllowed => "Only GET is allowed".into(),
            // .NET takes a probe for "no managed identity" if this says "Identity not found".
            Self::NoMetadataHeader => "Required metadata header not specified".into(),
            Self::Forwarded => "Requests with an X-Forwarded-For header are not served".into(),
            Self::ForbiddenHost => "The Host header must be 169.254.169.254".into(),
            Self::ForbiddenOrigin => "Requests of web pages are not served".into(),
            Self::ApiVersion => API_VERSION.into(),
            Self::IdentityNotFound(asked) => sentence("Identity not found", asked).into(),
            Self::NotAssigned { detail, .. } => sentence("Identity not found", detail).into(),
            Self::Ambiguous => "Multiple user assigned identities exist, please specify the \
                                clientId / resourceId of the identity in the token request"
                .into(),
            Self::Refused(text) => sentence("The token was refused", text).into(),
            Self::Throttled(text) => {
                sentence("Temporarily throttled, too many requests", text).into()
            }
            Self::Unavailable(text) => sentence("The token cannot be had right now", text).into(),
            Self::Overloaded => "Too many requests at the same time in this pod".into(),
        }
    }
}

/// A text as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `what: why`, or `what` alone, without a final full stop, and of bounded length.
fn sentence(what: &str, why: &str) -> String {
    const LONGEST: usize = 1000;
    let end = (0..=why.len().min(LONGEST)).rev().find(|at| why.is_char_boundary(*at)).unwrap_or(0);
    let why = why[..end].trim().trim_end_matches('.');
    if why.is_empty() { what.to_owned() } else { format!("{what}: {why}") }
}

/// Entra's codes start alike (50001 and 500011), so whole codes are compared.
fn refusal_code(text: &str) -> &'static str {
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let found = words.find_map(|word| CODES.iter().find(|(_, codes)| codes.contains(&word)));
    found.map_or("invalid_request", |(code, _)| code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(error: &ImdsError, correlation: Option<&str>) -> serde_json::Value {
        serde_json::from_str(&error.reply(correlation).body).unwrap()
    }

    #[test]
    fn a_probe_is_told_what_clients_look_for() {
        let reply = ImdsError::NoMetadataHeader.reply(None);
        assert_eq!((reply.status, reply.retry_after), (400, None));
        assert_eq!(
            reply.body,
            r#"{"error":"invalid_request","error_description":"Required metadata header not specified"}"#
        );
    }

    #[test]
    fn errors_that_a_retry_can_cure_ask_for_one_and_the_others_do_not() {
        let text = || "x".to_owned();
        let rows = [
            (ImdsError::IdentityNotFound(text()), 400),
            (ImdsError::NotAssigned { detail: text(), pending: false }, 400),
            (ImdsError::NotAssigned { detail: text(), pending: true }, 503),
            (ImdsError::Ambiguous, 400),
            (ImdsError::Refused(text()), 400),
            (ImdsError::Throttled(text()), 429),
            (ImdsError::Unavailable(text()), 503),
            (ImdsError::Overloaded, 429),
            (ImdsError::NotFound, 404),
            (ImdsError::MethodNotAllowed, 405),
            (ImdsError::ForbiddenHost, 403),
            (ImdsError::ForbiddenOrigin, 403),
        ];
        for (error, status) in rows {
            let reply = error.reply(Some("c"));
            assert_eq!(reply.status, status, "{error:?}");
            assert_eq!(reply.retry_after, matches!(status, 429 | 503).then_some(1), "{error:?}");
            let body = json(&error, Some("c"));
            assert!(body["error"].is_string(), "{error:?}");
            let description = body["error_description"].as_str().unwrap();
            assert!(description.ends_with(". Correlation ID: c"), "{description}");
            // A client of Go takes this word in a 403 for a missing service.
            assert!(!description.contains("unreachable"), "{description}");
        }
    }

    #[test]
    fn a_wrong_version_names_the_newest_ones() {
        let body = json(&ImdsError::ApiVersion, None);
        assert_eq!(body["error"], API_VERSION);
        assert_eq!(body["newest-versions"][0], "2025-04-07");
        assert!(body["error_description"].is_string());
    }

    #[test]
    fn entra_s_codes_become_those_of_oauth() {
        let rows = [
            ("AADSTS500011: no such resource", "invalid_resource"),
            ("AADSTS50001: no such resource", "invalid_resource"),
            ("AADSTS700016: no such application", "unauthorized_client"),
            ("AADSTS5000112: something else", "invalid_request"),
            ("no code", "invalid_request"),
        ];
        for (text, code) in rows {
            assert_eq!(json(&ImdsError::Refused(text.to_owned()), None)["error"], code, "{text}");
        }
    }

    #[test]
    fn a_detail_is_cut_where_a_character_ends() {
        let long = "ä".repeat(800);
        let text = sentence("x", &long);
        assert!(text.len() <= 1003, "{}", text.len());
        assert_eq!(sentence("x", " "), "x");
        assert_eq!(sentence("x", "why."), "x: why");
    }
}
