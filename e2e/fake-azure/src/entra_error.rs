//! Entra's error answers: AADSTS codes in the JSON that clients parse.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::json;

use crate::assertion::AssertionError;
use crate::clock::{now_ms, timestamp};
use crate::guid::Guid;
use crate::reply;

/// What Entra answers instead of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntraError {
    pub(crate) status: StatusCode,
    pub(crate) error: &'static str,
    pub(crate) code: u32,
    message: String,
    retry_after: Option<u64>,
}

impl EntraError {
    fn new(status: StatusCode, error: &'static str, code: u32, message: String) -> Self {
        Self { status, error, code, message, retry_after: None }
    }

    fn bad(error: &'static str, code: u32, message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, code, message)
    }

    fn client(code: u32, message: String) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_client", code, message)
    }

    pub(crate) fn unknown_tenant(tenant: &str) -> Self {
        let message = format!(
            "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are \
             signing into the correct cloud. Check with your subscription administrator, this may \
             happen if there are no active subscriptions for the tenant."
        );
        Self::bad("invalid_request", 90_002, message)
    }

    pub(crate) fn unknown_app(client: &str, tenant: &Guid) -> Self {
        let message = format!(
            "Application with identifier '{client}' was not found in the directory '{tenant}'. This \
             can happen if the application has not been installed by the administrator of the \
             tenant or consented to by any user in the tenant. You may have sent your \
             authentication request to the wrong tenant."
        );
        Self::bad("unauthorized_client", 700_016, message)
    }

    pub(crate) fn wrong_secret(client: &str) -> Self {
        let message = format!(
            "Invalid client secret provided. Ensure the secret being sent in the request is the \
             client secret value, not the client secret ID, for a secret added to app '{client}'."
        );
        Self::client(7_000_215, message)
    }

    pub(crate) fn unknown_resource(resource: &str, tenant: &Guid) -> Self {
        let message = format!(
            "The resource principal named {resource} was not found in the tenant named {tenant}. \
             This can happen if the application has not been installed by the administrator of the \
             tenant or consented to by any user in the tenant."
        );
        Self::bad("invalid_resource", 500_011, message)
    }

    pub(crate) fn scope(scope: &str) -> Self {
        let message = format!(
            "The provided value for scope {scope} is not valid. Client credential flows must have a \
             scope value with /.default suffixed to the resource identifier (application ID URI)."
        );
        Self::bad("invalid_scope", 1_002_012, message)
    }

    pub(crate) fn missing(parameter: &str) -> Self {
        let message =
            format!("The request body must contain the following parameter: '{parameter}'.");
        Self::bad("invalid_request", 900_144, message)
    }

    pub(crate) fn grant(grant: &str) -> Self {
        let message = format!("The app requested an unsupported grant type '{grant}'.");
        Self::bad("unsupported_grant_type", 70_003, message)
    }

    pub(crate) fn no_credential() -> Self {
        let message = "'client_assertion', 'client_secret' or 'request' is required for the \
                       'client_credentials' grant type.";
        Self::client(7_000_216, message.to_owned())
    }

    pub(crate) fn method() -> Self {
        let message = "Endpoint only accepts POST requests. Received a GET request.".to_owned();
        Self::bad("invalid_request", 900_561, message)
    }

    pub(crate) fn unknown_authority(host: &str) -> Self {
        let message = format!(
            "Unknown or invalid instance: '{host}' is no authority that this directory knows."
        );
        Self::bad("invalid_instance", 50_049, message)
    }

    pub(crate) fn body() -> Self {
        Self::bad("invalid_request", 90_014, "The request body could not be read.".to_owned())
    }

    pub(crate) fn fault(status: u16, retry_after: Option<u64>) -> Self {
        let (error, code, message) = match status {
            429 => ("temporarily_unavailable", 90_055, "The server is busy: too many requests."),
            400..=499 => ("invalid_request", 90_019, "The request was refused."),
            _ => (
                "temporarily_unavailable",
                90_033,
                "A transient error has occurred. Please try again.",
            ),
        };
        let status = reply::fault_status(status);
        Self { retry_after, ..Self::new(status, error, code, message.to_owned()) }
    }

    /// `correlation` is what the caller said, if it said something.
    pub(crate) fn response(&self, correlation: Option<String>) -> Response<Body> {
        let trace = Guid::random();
        let correlation = correlation.unwrap_or_else(|| Guid::random().to_string());
        let stamp = moment(now_ms());
        let description = format!(
            "AADSTS{}: {} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {stamp}",
            self.code, self.message
        );
        let body = json!({
            "error": self.error,
            "error_description": description,
            "error_codes": [self.code],
            "timestamp": stamp,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": format!("https://login.microsoftonline.com/error?code={}", self.code),
        });
        let mut response = reply::json(self.status, &body);
        reply::retry_after(&mut response, self.retry_after);
        response
    }
}

impl From<AssertionError> for EntraError {
    fn from(error: AssertionError) -> Self {
        const CHECK: &str = "Check your federated identity credential Subject, Audience and Issuer \
                             against the presented assertion. \
                             https://learn.microsoft.com/entra/workload-id/workload-identity-federation";
        match error {
            AssertionError::Malformed => {
                Self::client(50_027, "JWT token is invalid or malformed.".to_owned())
            }
            AssertionError::Signature => {
                Self::client(700_027, "Client assertion failed signature validation.".to_owned())
            }
            AssertionError::UnknownCertificate { thumbprint } => Self::client(
                700_027,
                format!(
                    "The certificate with identifier used to sign the client assertion is not \
                     registered on application. [Reason - The key was not found., Thumbprint of \
                     key used by client: '{thumbprint}']"
                ),
            ),
            AssertionError::CertificateExpired => Self::client(
                700_027,
                "Client assertion failed signature validation. [Reason - The key used is expired.]"
                    .to_owned(),
            ),
            AssertionError::Audience => Self::client(
                700_023,
                "Client assertion audience claim does not match Realm issuer.".to_owned(),
            ),
            AssertionError::Expired { from, until } => Self::client(
                700_024,
                format!(
                    "Client assertion is not within its valid time range. Assertion valid from \
                     {}, expiry time of assertion {}.",
                    moment(from.saturating_mul(1000)),
                    moment(until.saturating_mul(1000))
                ),
            ),
            AssertionError::NoCredential { issuer, subject, audience } => Self::bad(
                "invalid_request",
                70_021,
                format!(
                    "No matching federated identity record found for presented assertion. \
                     Assertion Issuer: '{issuer}'. Assertion Subject: '{subject}'. Assertion \
                     Audience: '{audience}'. \
                     https://learn.microsoft.com/entra/workload-id/workload-identity-federation"
                ),
            ),
            AssertionError::Issuer { issuer } => Self::unmatched(700_211, "issuer", &issuer, CHECK),
            AssertionError::Audiences { audience } => {
                Self::unmatched(700_212, "audience", &audience, CHECK)
            }
            AssertionError::Subject { subject } => {
                Self::unmatched(700_213, "subject", &subject, CHECK)
            }
        }
    }
}

impl EntraError {
    fn unmatched(code: u32, what: &str, value: &str, advice: &str) -> Self {
        Self::client(
            code,
            format!(
                "No matching federated identity record found for presented assertion {what} \
                 '{value}'. {advice}"
            ),
        )
    }
}

/// Entra's way of writing a time: `2026-01-31 23:59:59Z`.
fn moment(ms: u64) -> String {
    let text = timestamp(ms).replace('T', " ");
    format!("{}Z", text.get(..19).unwrap_or(&text))
}
