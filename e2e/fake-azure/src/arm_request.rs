//! What an ARM request is about: path, version and caller. Pure.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::arm_error::ArmError;
use crate::arm_id::{ArmId, ResourceKind};
use crate::guid::Guid;
use crate::tokens::{Claims, decode_claims};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Host(ArmId),
    Identity(ArmId),
    Operation(Guid),
}

impl Target {
    pub(crate) fn parse(path: &str) -> Result<Self, ArmError> {
        if let Ok(id) = path.parse::<ArmId>() {
            return match id.kind() {
                ResourceKind::VirtualMachine | ResourceKind::ScaleSet => Ok(Self::Host(id)),
                ResourceKind::UserAssignedIdentity => Ok(Self::Identity(id)),
                ResourceKind::Other => Err(ArmError::not_found(&id)),
            };
        }
        let lower = path.to_ascii_lowercase();
        let segments: Vec<&str> = lower.split('/').collect();
        match segments.as_slice() {
            [
                "",
                "subscriptions",
                _,
                "providers",
                "microsoft.compute",
                "locations",
                _,
                "operations",
                id,
            ] => id.parse().map(Self::Operation).map_err(|_| operation_not_found(id)),
            _ => Err(ArmError::new(
                StatusCode::NOT_FOUND,
                "InvalidResourceType",
                format!("'{path}' is nothing that this resource manager knows."),
            )),
        }
    }
}

pub(crate) fn operation_not_found(id: &str) -> ArmError {
    let message = format!("The entity name '{id}' was not found.");
    ArmError::new(StatusCode::NOT_FOUND, "NotFound", message)
}

/// Every request needs `api-version=YYYY-MM-DD`, perhaps with a suffix.
pub(crate) fn check_version(query: &str) -> Result<(), ArmError> {
    let version = form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name.eq_ignore_ascii_case("api-version"))
        .map(|(_, value)| value.into_owned())
        .filter(|version| !version.is_empty());
    let Some(version) = version else {
        return Err(ArmError::bad(
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        ));
    };
    let date = version.split_once("-preview").map_or(version.as_str(), |(date, _)| date);
    let is_date = date.len() == 10
        && date.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if is_date {
        Ok(())
    } else {
        let message = format!("The api-version '{version}' is invalid.");
        Err(ArmError::bad("InvalidApiVersionParameter", message))
    }
}

/// The claims of the caller's token.
pub(crate) fn authenticate(
    headers: &HeaderMap,
    jwks: &Value,
    audiences: &[String],
    now: u64,
) -> Result<Claims, ArmError> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(header) = header else {
        return Err(ArmError::unauthorized(
            "AuthenticationFailed",
            "Authentication failed. The 'Authorization' header is missing.",
        ));
    };
    let token = header.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, token)) = token else {
        return Err(ArmError::unauthorized(
            "AuthenticationFailedInvalidHeader",
            "Authentication failed. The 'Authorization' header is provided in an invalid format.",
        ));
    };
    let claims = decode_claims(token.trim(), jwks).map_err(|_| {
        ArmError::unauthorized("InvalidAuthenticationToken", "The access token is invalid.")
    })?;
    if claims.exp <= now {
        let message = "The access token expiry UTC time is earlier than current UTC time.";
        return Err(ArmError::unauthorized("ExpiredAuthenticationToken", message));
    }
    let audience = claims.aud.trim_end_matches('/');
    if !audiences.iter().any(|known| known.trim_end_matches('/').eq_ignore_ascii_case(audience)) {
        let message = "The access token has been obtained for wrong audience or resource.";
        return Err(ArmError::unauthorized("InvalidAuthenticationTokenAudience", message));
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::{Target, check_version};
    use crate::guid::Guid;
    use crate::seed;

    #[test]
    fn paths_are_read_without_case() {
        let path = seed::scale_set_id().as_str().to_ascii_uppercase();
        assert_eq!(Target::parse(&path), Ok(Target::Host(seed::scale_set_id())));
        let id = seed::identity_id("demo-identity");
        assert_eq!(Target::parse(id.as_str()), Ok(Target::Identity(id)));
        let guid = Guid::random();
        let path = format!(
            "/Subscriptions/s/providers/Microsoft.Compute/locations/westeurope/operations/{guid}"
        );
        assert_eq!(Target::parse(&path), Ok(Target::Operation(guid)));
        for path in ["/", "/subscriptions/s", "/subscriptions/s/resourceGroups/g/providers/A/b/c"] {
            assert!(Target::parse(path).is_err(), "{path}");
        }
    }

    #[test]
    fn the_version_is_required_and_a_date() {
        for (query, expected) in [
            ("", Some("MissingApiVersionParameter")),
            ("api-version=", Some("MissingApiVersionParameter")),
            ("api-version=latest", Some("InvalidApiVersionParameter")),
            ("api-version=2024-07-01", None),
            ("x=1&API-Version=2024-07-01-preview", None),
        ] {
            let code = check_version(query).err().map(|error| error.code);
            assert_eq!(code.as_deref(), expected, "{query}");
        }
    }
}
