//! A token, made of an answer that was found to be the right identity's.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::node_api::AuxiliaryToken;
use api::{Guid, Tenant};
use azure_core::credentials::AccessToken;
use token_cache::Fetched;

use super::MintError;
use super::answer::{ImdsError, ImdsToken};
use super::principal::{EntraError, PrincipalError};
use super::verify::{Expected, verify, verify_principal};

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// The token itself. Not part of this type's `Debug`.
    pub(crate) secret: String,
    /// The client id of its identity.
    pub(crate) client_id: Guid,
    /// Unix seconds.
    pub(crate) expires_on: u64,
    /// Unix seconds.
    pub(crate) not_before: u64,
    /// Those of further tenants; `expires_on` is the earliest of all.
    pub(crate) auxiliary: Vec<AuxiliaryToken>,
}

// === impl Token ===

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("client_id", &self.client_id)
            .field("expires_on", &self.expires_on)
            .finish_non_exhaustive()
    }
}

/// Turns an answer into a token, if it is the expected identity's.
pub(super) fn checked(
    answer: ImdsToken,
    expected: &Expected,
    now: SystemTime,
) -> Result<Fetched<Token>, MintError> {
    let verified = verify(&answer.access_token, answer.client_id.as_deref(), expected)?;
    let now = unix(now);
    let lifetime = answer.lifetime(verified.expires_on, now);
    if lifetime.is_zero() {
        let text = "its token has expired already, or the node's clock is wrong".to_owned();
        return Err(ImdsError::Unavailable(text).into());
    }
    let token = Token {
        client_id: verified.client_id,
        expires_on: now + lifetime.as_secs(),
        not_before: answer.not_before.unwrap_or(now),
        auxiliary: Vec::new(),
        secret: answer.access_token,
    };
    Ok(Fetched { value: token, lifetime })
}

/// The same for an application's token.
pub(super) fn checked_principal(
    answer: &AccessToken,
    (client_id, tenant): (&Guid, &Tenant),
    now: SystemTime,
) -> Result<Fetched<Token>, MintError> {
    let secret = answer.token.secret();
    if secret.is_empty() {
        let error = EntraError::Unavailable("its answer holds no token".to_owned());
        return Err(PrincipalError::from(error).into());
    }
    let verified = verify_principal(secret, client_id, tenant)?;
    let now = unix(now);
    let answered = u64::try_from(answer.expires_on.unix_timestamp()).unwrap_or_default();
    let expires_on = verified.expires_on.map_or(answered, |claimed| claimed.min(answered));
    let lifetime = Duration::from_secs(expires_on.saturating_sub(now));
    if lifetime.is_zero() {
        let text = "its token has expired already, or the node's clock is wrong".to_owned();
        return Err(PrincipalError::from(EntraError::Unavailable(text)).into());
    }
    let token = Token {
        client_id: verified.client_id,
        expires_on,
        not_before: verified.not_before.unwrap_or(now),
        auxiliary: Vec::new(),
        secret: secret.to_owned(),
    };
    Ok(Fetched { value: token, lifetime })
}

/// A token together with that of a further tenant. The whole lives as long as the part that ends
/// first.
pub(super) fn with_auxiliary(mut whole: Fetched<Token>, part: Fetched<Token>) -> Fetched<Token> {
    let Token { secret, expires_on, not_before, .. } = part.value;
    whole.lifetime = whole.lifetime.min(part.lifetime);
    whole.value.expires_on = whole.value.expires_on.min(expires_on);
    let auxiliary = AuxiliaryToken { access_token: secret, expires_on, not_before };
    whole.value.auxiliary.push(auxiliary);
    whole
}

pub(super) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
