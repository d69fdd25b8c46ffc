//! Key Vault's error answers, with the challenge that its clients take apart.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::faults::Failure;
use crate::guid::Guid;
use crate::key_vault::AUDIENCE;
use crate::reply;

/// What a vault answers instead of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VaultError {
    NoToken,
    InvalidToken,
    ExpiredToken,
    Audience(String),
    Tenant,
    NoVersion,
    Method,
    NotFound,
    SecretNotFound(String),
    Forbidden { client_id: Guid, object_id: Guid, issuer: String, vault: String, location: String },
    Fault(Failure),
}

impl VaultError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoToken
            | Self::InvalidToken
            | Self::ExpiredToken
            | Self::Audience(_)
            | Self::Tenant => StatusCode::UNAUTHORIZED,
            Self::NoVersion => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotFound | Self::SecretNotFound(_) => StatusCode::NOT_FOUND,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::Fault(failure) => reply::fault_status(failure.status),
        }
    }

    /// `error.code`.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::NoVersion => "BadParameter",
            Self::Method => "MethodNotAllowed",
            Self::NotFound => "ResourceNotFound",
            Self::SecretNotFound(_) => "SecretNotFound",
            Self::Forbidden { .. } => "Forbidden",
            Self::Fault(Failure { status: 429, .. }) => "Throttled",
            Self::Fault(_) => "ServiceUnavailable",
            _ => "Unauthorized",
        }
    }

    fn message(&self) -> String {
        let fixed = match self {
            Self::NoToken => "AKV10000: Request is missing a Bearer or PoP token.",
            Self::InvalidToken => {
                "[BearerReadAccessTokenFailed] Error validating token: 'S2S12005'."
            }
            Self::ExpiredToken => "[TokenExpired] Error validating token: 'S2S12086'.",
            Self::Tenant => "AKV10032: Invalid issuer. The token is of another tenant.",
            Self::NoVersion => "api-version must be specified",
            Self::Method => "The method is not supported.",
            Self::NotFound => "There is no such vault, or nothing at this path.",
            Self::Fault(_) => "The request was not processed. Please retry.",
            Self::Audience(found) => {
                return format!("AKV10022: Invalid audience. Expected {AUDIENCE}, found: {found}.");
            }
            Self::SecretNotFound(name) => {
                return format!(
                    "A secret with (name/id) {name} was not found in this key vault. If you \
                     recently deleted this secret you may be able to recover it using the correct \
                     recovery command. For help resolving this issue, please see \
                     https://go.microsoft.com/fwlink/?linkid=2125182"
                );
            }
            Self::Forbidden { client_id, object_id, issuer, vault, location } => {
                return format!(
                    "The user, group or application 'appid={client_id};oid={object_id};\
                     iss={issuer}' does not have secrets get permission on key vault \
                     '{vault};location={location}'. For help resolving this issue, please see \
                     https://go.microsoft.com/fwlink/?linkid=2125287"
                );
            }
        };
        fixed.to_owned()
    }

    /// `authority` is where the vault's tenant signs in.
    pub(crate) fn response(&self, authority: &str) -> Response<Body> {
        let mut error = json!({"code": self.code(), "message": self.message()});
        if let Self::Forbidden { .. } = self {
            error["innererror"] = json!({"code": "AccessDenied"});
        }
        let body: Value = json!({"error": error});
        let status = self.status();
        let mut response = reply::json(status, &body);
        if status == StatusCode::UNAUTHORIZED {
            let challenge =
                format!("Bearer authorization=\"{authority}\", resource=\"{AUDIENCE}\"");
            reply::set_header(&mut response, "www-authenticate", &challenge);
        }
        if let Self::Fault(failure) = self {
            reply::retry_after(&mut response, failure.retry_after);
        }
        response
    }
}
