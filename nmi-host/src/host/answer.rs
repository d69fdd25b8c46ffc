//! Answers of the host endpoint: the fields of aad-pod-identity for a token, JSON for every error.

use api::node_api::{NodeError, NodeErrorCode, TokenResponse};
use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

/// Why a process on the node gets no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Not a request that a process of this node would make.
    #[error("{0}")]
    Forbidden(&'static str),
    /// No such path.
    #[error("there is only /host/token/")]
    NotFound,
    /// Another method than GET.
    #[error("only GET is allowed")]
    Method,
    /// Headers or parameters are missing or malformed.
    #[error("{0}")]
    Bad(String),
    /// Too many at a time.
    #[error("too many requests at a time; try again in a second")]
    Busy,
    /// What the broker says.
    #[error("{0}")]
    Broker(#[from] NodeError),
}

/// A token as aad-pod-identity answered it: seven strings.
#[derive(Serialize)]
struct HostToken<'a> {
    access_token: &'a str,
    refresh_token: &'a str,
    expires_in: String,
    expires_on: String,
    not_before: String,
    resource: &'a str,
    token_type: &'a str,
}

#[derive(Serialize)]
struct HostAnswer<'a> {
    token: HostToken<'a>,
    clientid: &'a str,
}

#[derive(Serialize)]
struct HostError<'a> {
    error: &'a str,
    error_description: String,
}

/// The answer with a token.
pub(super) fn token(response: &TokenResponse) -> Response {
    let token = HostToken {
        access_token: &response.access_token,
        refresh_token: "",
        expires_in: response.expires_in.to_string(),
        expires_on: response.expires_on.to_string(),
        not_before: response.not_before.to_string(),
        resource: &response.resource,
        token_type: &response.token_type,
    };
    Json(HostAnswer { token, clientid: &response.client_id }).into_response()
}

// === impl Refusal ===

impl Refusal {
    /// A request whose headers or parameters are not as documented.
    pub(super) fn bad(text: &str) -> Self {
        Self::Bad(text.to_owned())
    }

    /// The outcome as metrics spell it.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Forbidden(_) => "forbidden",
            Self::NotFound | Self::Method | Self::Bad(_) => NodeErrorCode::BadRequest.as_str(),
            Self::Busy => "busy",
            Self::Broker(error) => error.code.as_str(),
        }
    }

    /// The answer: the statuses are aad-pod-identity's where it had one.
    pub(super) fn response(&self) -> Response {
        let (status, error) = match self {
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "access_denied"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Bad(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            Self::Broker(error) => broker_status(error.code),
        };
        let body = HostError { error, error_description: self.to_string() };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            let seconds = match self {
                Self::Broker(error) => error.retry_after.unwrap_or(1),
                _ => 1,
            };
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn broker_status(code: NodeErrorCode) -> (StatusCode, &'static str) {
    match code {
        NodeErrorCode::BadRequest | NodeErrorCode::AmbiguousIdentity => {
            (StatusCode::BAD_REQUEST, "invalid_request")
        }
        NodeErrorCode::IdentityNotFound | NodeErrorCode::NotAssigned => {
            (StatusCode::NOT_FOUND, "identity_not_found")
        }
        NodeErrorCode::Unauthenticated
        | NodeErrorCode::WrongNode
        | NodeErrorCode::AssertionRequired
        | NodeErrorCode::Refused => (StatusCode::FORBIDDEN, "refused"),
        NodeErrorCode::Throttled | NodeErrorCode::Unavailable => {
            (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable")
        }
    }
}
