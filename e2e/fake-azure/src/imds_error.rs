//! IMDS's error answers, word for word where the words are known.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::reply;

/// What IMDS answers instead of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImdsError {
    NotFound,
    Method,
    NoMetadataHeader,
    Forwarded,
    DuplicateParameter,
    ApiVersion,
    NoResource,
    SeveralSelectors,
    IdentityNotFound,
    SeveralIdentities,
    UnknownResource(String),
    Throttled,
    Fault { status: u16, retry_after: Option<u64> },
    Internal,
}

impl ImdsError {
    /// The `error` field.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::ApiVersion => "bad_api_version",
            Self::UnknownResource(_) => "invalid_resource",
            Self::Throttled => "too_many_requests",
            Self::Fault { .. } => "fault",
            Self::Internal => "unknown",
            _ => "invalid_request",
        }
    }

    pub(crate) fn response(&self) -> Response<Body> {
        let status = match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Throttled => StatusCode::TOO_MANY_REQUESTS,
            Self::Fault { status, .. } => reply::fault_status(*status),
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        let mut response = reply::json(status, &self.body());
        match self {
            Self::Method => reply::set_header(&mut response, "allow", "GET"),
            Self::Fault { retry_after, .. } => reply::retry_after(&mut response, *retry_after),
            _ => {}
        }
        response
    }

    fn body(&self) -> Value {
        let described =
            |description: &str| json!({"error": self.code(), "error_description": description});
        match self {
            Self::NotFound => json!({"error": "Not found"}),
            Self::Method => json!({"error": "Method not allowed"}),
            Self::NoMetadataHeader => described("Required metadata header not specified"),
            Self::Forwarded => {
                described("Request contains the X-Forwarded-For header, which is not allowed")
            }
            Self::DuplicateParameter => described("Duplicate query parameters are not allowed"),
            Self::ApiVersion => json!({
                "error": "Bad request. api-version is invalid or was not specified in the request. \
                          For more information refer to aka.ms/azureimds",
                "newest-versions": ["2025-04-07", "2024-07-17", "2024-03-15"],
            }),
            Self::NoResource => described("Required query variable 'resource' is missing"),
            Self::SeveralSelectors => {
                described("Only one of client_id, object_id and msi_res_id can be specified")
            }
            Self::IdentityNotFound => described("Identity not found"),
            Self::SeveralIdentities => described(
                "Multiple user assigned identities exist, please specify the clientId / \
                 resourceId of the identity in the token request",
            ),
            Self::UnknownResource(resource) => described(&format!(
                "AADSTS500011: The resource principal named {resource} was not found in the tenant."
            )),
            Self::Throttled | Self::Fault { status: 429, .. } => json!({
                "error": "invalid_request",
                "error_description": "Temporarily throttled, too many requests",
            }),
            Self::Fault { status: 404, .. } => described("IMDS endpoint is updating"),
            Self::Fault { status: 410, .. } => described("Gone"),
            Self::Fault { .. } | Self::Internal => json!({
                "error": "unknown",
                "error_description": "Failed to retrieve token from the Active directory",
            }),
        }
    }
}
