//! What a sidecar and the agent of its node say to each other over TLS.
//!
//! Every request carries `Authorization: Bearer <projected token>`, which alone says which pod
//! asks. `POST /v1/token` takes a [`TokenRequest`] and answers [`TokenResponse`];
//! `GET /v1/assignment?wait=<seconds>` answers [`Assignment`] as soon as all identities of the pod
//! are assigned or the wait is over. Errors are [`NodeError`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::selector::IdentitySelector;

/// Path of the token call.
pub const TOKEN_PATH: &str = "/v1/token";

/// Path of the assignment call.
pub const ASSIGNMENT_PATH: &str = "/v1/assignment";

/// The header that carries the correlation id of a call, a GUID: both sides log it, the agent sends
/// it on to Azure, and the error that the application sees names it.
pub const CORRELATION_HEADER: &str = "x-ms-client-request-id";

/// The longest wait, in seconds, that [`ASSIGNMENT_PATH`] grants.
pub const MAX_WAIT_SECONDS: u64 = 30;

/// Asks for a token of one of the pod's identities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenRequest {
    /// The resource (audience) exactly as the application asked for it.
    pub resource: String,
    /// Which of the pod's identities; the only one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<WireSelector>,
    /// Lower-case hex SHA-256 of a token that does not serve any more, for example after a claims
    /// challenge: if it is the one that would be answered, a new one is asked of Azure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_sha256_to_refresh: Option<String>,
    /// The pod's own service-account token for Entra. Sent only after the agent asked for it by
    /// [`NodeErrorCode::AssertionRequired`] or [`TokenResponse::assertion_wanted`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion: Option<Assertion>,
}

/// A service-account token that Entra takes as proof of who the pod is. Not printed by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Assertion(String);

/// An [`IdentitySelector`] on the wire: exactly one of the three names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WireSelector {
    /// See [`IdentitySelector::ClientId`].
    #[serde(rename = "clientID")]
    ClientId(String),
    /// See [`IdentitySelector::ObjectId`].
    #[serde(rename = "objectID")]
    ObjectId(String),
    /// See [`IdentitySelector::ResourceId`].
    #[serde(rename = "resourceID")]
    ResourceId(String),
}

/// A token and what is known of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenResponse {
    /// The token itself. Not part of this type's `Debug`.
    pub access_token: String,
    /// `Bearer`.
    pub token_type: String,
    /// The resource as it was asked for.
    pub resource: String,
    /// Client id of the identity whose token this is.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// Unix time, in seconds, at which the token expires.
    pub expires_on: u64,
    /// Unix time, in seconds, before which the token is not valid.
    pub not_before: u64,
    /// Seconds that the token is still valid for, at the time of the answer: what a cache counts
    /// from, so that the two clocks need not agree.
    pub expires_in: u64,
    /// The agent will soon need the pod's assertion to renew this token: the next request is to
    /// bring it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub assertion_wanted: bool,
    /// The tokens of the identity's `auxiliaryTenantIDs`, in their order; usually none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auxiliary: Vec<AuxiliaryToken>,
}

/// The token of a further tenant of a multi-tenant application.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuxiliaryToken {
    /// The token itself. Not part of this type's `Debug`.
    pub access_token: String,
    /// Unix time, in seconds, at which the token expires.
    pub expires_on: u64,
    /// Unix time, in seconds, before which the token is not valid.
    pub not_before: u64,
}

/// The identities of the asking pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// How far they are.
    pub state: AssignmentState,
    /// Those that are bound to the pod, assigned or not.
    pub identities: Vec<AssignedIdentitySummary>,
}

/// Whether a token can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AssignmentState {
    /// All identities of the pod are assigned.
    Assigned,
    /// Identities are bound, but not all are attached yet.
    Pending,
    /// No binding selects the pod (yet).
    None,
}

/// One identity of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignedIdentitySummary {
    /// Namespace of the `AzureIdentity`.
    pub namespace: String,
    /// Name of the `AzureIdentity`.
    pub name: String,
    /// Whether tokens can be had.
    pub assigned: bool,
    /// Why not, if they cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// An error, as JSON with the status of [`NodeErrorCode::status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct NodeError {
    /// What went wrong.
    #[serde(rename = "error")]
    pub code: NodeErrorCode,
    /// For people; never a token or secret.
    pub message: String,
    /// When to come back, if the other side said so.
    #[serde(rename = "retryAfter", default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

/// The kinds of failure of a token or assignment call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeErrorCode {
    /// The request is not of the documented form.
    BadRequest,
    /// The bearer token is missing, expired, for another audience or refused.
    Unauthenticated,
    /// The pod is not on this node.
    WrongNode,
    /// The pod has no such identity.
    IdentityNotFound,
    /// No selector was given, and the pod has several identities.
    AmbiguousIdentity,
    /// The identity is bound but not attached yet, or no binding selects the pod.
    NotAssigned,
    /// A token of this identity takes the pod's own service-account token, which was not sent.
    AssertionRequired,
    /// Azure refused for good: unknown resource, wrong credential, identity of another type.
    Refused,
    /// Azure asked to slow down.
    Throttled,
    /// Azure or the API server could not be asked, or failed.
    Unavailable,
}

// === impl NodeErrorCode ===

impl NodeErrorCode {
    /// The HTTP status that goes with the code.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthenticated => 401,
            Self::WrongNode => 403,
            Self::IdentityNotFound | Self::NotAssigned => 404,
            Self::AmbiguousIdentity => 409,
            Self::Refused => 422,
            Self::AssertionRequired => 428,
            Self::Throttled => 429,
            Self::Unavailable => 503,
        }
    }

    /// The code as metrics and JSON spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthenticated => "unauthenticated",
            Self::WrongNode => "wrong_node",
            Self::IdentityNotFound => "identity_not_found",
            Self::AmbiguousIdentity => "ambiguous_identity",
            Self::NotAssigned => "not_assigned",
            Self::AssertionRequired => "assertion_required",
            Self::Refused => "refused",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }

    /// Whether the identity is known to be gone or refused, so that a cached token must not be
    /// served any longer. The other codes say nothing about the identity.
    pub fn revokes(self) -> bool {
        match self {
            Self::IdentityNotFound | Self::AmbiguousIdentity | Self::NotAssigned => true,
            Self::BadRequest
            | Self::Unauthenticated
            | Self::WrongNode
            | Self::AssertionRequired
            | Self::Refused
            | Self::Throttled
            | Self::Unavailable => false,
        }
    }
}

// === impl NodeError ===

impl NodeError {
    /// An error without a time to come back.
    pub fn new(code: NodeErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }
}

// === impl Assertion ===

impl Assertion {
    /// Takes the token as it was read.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The token. Whoever calls this must not log it.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Assertion(…)")
    }
}

// === impl AuxiliaryToken ===

impl fmt::Debug for AuxiliaryToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuxiliaryToken")
            .field("expires_on", &self.expires_on)
            .finish_non_exhaustive()
    }
}

// === impl WireSelector ===

impl From<&IdentitySelector> for WireSelector {
    fn from(selector: &IdentitySelector) -> Self {
        match selector {
            IdentitySelector::ClientId(id) => Self::ClientId(id.to_string()),
            IdentitySelector::ObjectId(id) => Self::ObjectId(id.to_string()),
            IdentitySelector::ResourceId(id) => Self::ResourceId(id.to_string()),
        }
    }
}

impl TryFrom<&WireSelector> for IdentitySelector {
    type Error = String;

    fn try_from(wire: &WireSelector) -> Result<Self, String> {
        Ok(match wire {
            WireSelector::ClientId(id) => Self::ClientId(id.parse().map_err(text)?),
            WireSelector::ObjectId(id) => Self::ObjectId(id.parse().map_err(text)?),
            WireSelector::ResourceId(id) => Self::ResourceId(id.parse().map_err(text)?),
        })
    }
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

// === impl TokenResponse ===

impl fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenResponse")
            .field("resource", &self.resource)
            .field("client_id", &self.client_id)
            .field("expires_on", &self.expires_on)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_one_identity_or_none() {
        let parse = |text: &str| serde_json::from_str::<TokenRequest>(text);
        assert_eq!(parse(r#"{"resource":"r"}"#).unwrap().identity, None);
        assert_eq!(
            parse(r#"{"resource":"r","identity":{"clientID":"x"}}"#).unwrap().identity,
            Some(WireSelector::ClientId("x".to_owned()))
        );
        for bad in [
            r#"{"resource":"r","identity":{"clientID":"x","objectID":"y"}}"#,
            r#"{"resource":"r","identity":{"name":"x"}}"#,
            r#"{"resource":"r","client_id":"x"}"#,
            "{}",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_response_does_not_print_its_token() {
        let response = TokenResponse {
            access_token: "very-secret".to_owned(),
            token_type: "Bearer".to_owned(),
            resource: "r".to_owned(),
            client_id: "c".to_owned(),
            expires_on: 1,
            not_before: 0,
            expires_in: 1,
            assertion_wanted: false,
            auxiliary: vec![AuxiliaryToken {
                access_token: "very-secret".to_owned(),
                expires_on: 1,
                not_before: 0,
            }],
        };
        assert!(!format!("{response:?} {:?}", response.auxiliary).contains("very-secret"));
        let request = TokenRequest {
            resource: "r".to_owned(),
            identity: None,
            token_sha256_to_refresh: None,
            assertion: Some(Assertion::new("very-secret")),
        };
        assert!(!format!("{request:?}").contains("very-secret"));
    }
}
