//! ARM's error answers, shaped as clients have to take them apart.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::arm_id::ArmId;
use crate::faults::Failure;
use crate::reply;
use crate::tokens::Claims;

/// What ARM answers instead of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArmError {
    pub(crate) status: StatusCode,
    pub(crate) code: String,
    message: String,
    retry_after: Option<u64>,
}

impl ArmError {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), retry_after: None }
    }

    pub(crate) fn bad(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(crate) fn unauthorized(code: &str, message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
    }

    pub(crate) fn not_found(id: &ArmId) -> Self {
        let message = format!(
            "The Resource '{}/{}' under resource group '{}' was not found. For more details please \
             go to https://aka.ms/ARMResourceNotFoundFix",
            id.type_name(),
            id.name(),
            id.resource_group()
        );
        Self::new(StatusCode::NOT_FOUND, "ResourceNotFound", message)
    }

    pub(crate) fn group_not_found(id: &ArmId) -> Self {
        let message = format!("Resource group '{}' could not be found.", id.resource_group());
        Self::new(StatusCode::NOT_FOUND, "ResourceGroupNotFound", message)
    }

    pub(crate) fn subscription_not_found(subscription: &str) -> Self {
        let message = format!("The subscription '{subscription}' could not be found.");
        Self::new(StatusCode::NOT_FOUND, "SubscriptionNotFound", message)
    }

    pub(crate) fn deleting(id: &ArmId) -> Self {
        let message = format!(
            "Operation 'PATCH' is not allowed on '{}' since it is marked for deletion. You can \
             only retry the Delete operation (or wait for an ongoing one to complete).",
            id.name()
        );
        Self::new(StatusCode::CONFLICT, "OperationNotAllowed", message)
    }

    pub(crate) fn precondition(header: &str, wanted: &str, verb: &str, etag: &str) -> Self {
        let message =
            format!("Etag provided in {header} header {wanted} {verb} etag {etag} of resource.");
        Self::new(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", message)
    }

    pub(crate) fn busy() -> Self {
        let message = "The request failed due to conflict with a concurrent request. To resolve \
                       it, please refer to https://aka.ms/activitylog to get more details on the \
                       conflicting requests.";
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    /// `ids` as the caller spelled them: all of them in one pair of quotes, joined by commas.
    pub(crate) fn forbidden(caller: &Claims, host: &ArmId, ids: &[ArmId]) -> Self {
        let ids: Vec<&str> = ids.iter().map(ArmId::as_str).collect();
        let message = format!(
            "The client '{}' with object id '{}' has permission to perform action '{}/write' on \
             scope '{host}'; however, it does not have permission to perform action \
             'Microsoft.ManagedIdentity/userAssignedIdentities/assign/action' on the linked \
             scope(s) '{}' or the linked scope(s) are invalid.",
            caller.appid,
            caller.oid,
            host.type_name(),
            ids.join(",")
        );
        Self::new(StatusCode::FORBIDDEN, "LinkedAuthorizationFailed", message)
    }

    pub(crate) fn missing_identity(host: &ArmId, id: &ArmId) -> Self {
        let message = format!(
            "Identity operation for resource '{host}' failed with error 'Failed to perform resource \
             identity operation. Status: 'BadRequest'. Response: \
             '{{\"error\":{{\"code\":\"BadRequest\",\"message\":\"Resource '{id}' was not \
             found.\"}}}}'.'."
        );
        Self::bad("FailedIdentityOperation", message)
    }

    pub(crate) fn operation_failed() -> Self {
        let message = "An internal execution error occurred. Please retry later.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalExecutionError", message)
    }

    pub(crate) fn fault(failure: &Failure) -> Self {
        let (code, message) = match failure.status {
            429 => {
                ("TooManyRequests", "The request is being throttled as the limit has been reached.")
            }
            403 => {
                ("AuthorizationFailed", "The client does not have authorization to perform action.")
            }
            400..=499 => ("BadRequest", "The request was refused."),
            503 => ("ServerTimeout", "The request timed out. Please retry after some time."),
            _ => ("InternalServerError", "Encountered internal server error."),
        };
        Self {
            status: reply::fault_status(failure.status),
            code: failure.code.clone().unwrap_or_else(|| code.to_owned()),
            message: message.to_owned(),
            retry_after: failure.retry_after,
        }
    }

    /// The `error` object.
    pub(crate) fn body(&self) -> Value {
        json!({"code": self.code, "message": self.message})
    }

    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = reply::json(self.status, &json!({"error": self.body()}));
        reply::retry_after(&mut response, self.retry_after);
        if self.status == StatusCode::UNAUTHORIZED {
            reply::set_header(
                &mut response,
                "www-authenticate",
                "Bearer authorization_uri=\"https://login.microsoftonline.com\", \
                 error=\"invalid_token\"",
            );
        }
        response
    }
}
