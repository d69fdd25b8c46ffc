//! Tokens for identities: who issues them is decided by the identity's type.

mod answer;
mod gate;
mod imds;
mod key;
mod principal;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::Guid;
use api::node_api::{NodeError, NodeErrorCode};
use azure_core::credentials::AccessToken;
use token_cache::{Call, FetchError, Fetched, Source};

use answer::{ImdsError, ImdsToken};
pub(crate) use imds::{Imds, is_endpoint};
use key::Issuer;
pub(crate) use key::{BadResource, MintKey, Resource};
pub(crate) use principal::{Authorities, Host, NotAHost, Principals, unpack_for_parent};
use principal::{EntraError, Principal, PrincipalError};
use verify::{Expected, WrongToken, verify, verify_principal};

use crate::metrics::{EntraResult, HostMetrics, ImdsResult};

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
}

/// Where the node's tokens come from.
#[derive(Debug)]
pub(crate) struct Minter {
    imds: Imds,
    principals: Option<Principals>,
    metrics: HostMetrics,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MintError {
    /// The metadata service gave none.
    #[error(transparent)]
    Imds(#[from] ImdsError),
    /// The application's credential could not be had, or Entra gave none for it.
    #[error(transparent)]
    Principal(#[from] PrincipalError),
    /// What came was not the identity's.
    #[error(transparent)]
    WrongToken(#[from] WrongToken),
}

/// What a failure means to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Not known yet.
    Spreading,
    /// For good.
    Refused,
    /// Slow down.
    Throttled(Option<Duration>),
    /// May work in a moment.
    Unavailable,
}

/// How long a caller waits for an identity that the metadata service has not heard of: an
/// attachment gets there within seconds.
const PROPAGATION: Duration = Duration::from_secs(12);

/// How long a caller waits for a service that is updating, throttling or failing.
const OUTAGE: Duration = Duration::from_secs(8);

// === impl Token ===

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("client_id", &self.client_id)
            .field("expires_on", &self.expires_on)
            .finish_non_exhaustive()
    }
}

// === impl Minter ===

impl Minter {
    /// A source of tokens that asks `imds`, and knows no applications.
    pub(crate) fn new(imds: Imds, metrics: HostMetrics) -> Self {
        Self { imds, principals: None, metrics }
    }

    /// The same with applications.
    pub(crate) fn with_principals(self, principals: Principals) -> Self {
        Self { principals: Some(principals), ..self }
    }

    async fn ask_imds(
        &self,
        expected: &Expected,
        resource: &Resource,
    ) -> Result<Fetched<Token>, MintError> {
        let (answer, took) = self.imds.token(&expected.resource_id, resource.as_str()).await;
        let outcome = answer
            .map_err(MintError::from)
            .and_then(|answer| checked(answer, expected, SystemTime::now()));
        self.metrics.imds_called(result_label(&outcome), took);
        let (identity, resource) = (expected.resource_id.as_str(), resource.as_str());
        match &outcome {
            Ok(_) => {}
            // Usual for a few seconds after every attachment.
            Err(MintError::Imds(error @ ImdsError::UnknownIdentity)) => {
                tracing::debug!(identity, resource, %error, "No token from IMDS");
            }
            Err(error) => tracing::warn!(identity, resource, %error, "No token from IMDS"),
        }
        outcome
    }

    async fn ask_entra(
        &self,
        principal: &Principal,
        resource: &Resource,
    ) -> Result<Fetched<Token>, MintError> {
        let principals = self.principals.as_ref().ok_or(PrincipalError::NotAllowed)?;
        let begun = Instant::now();
        let answer = principals.token(principal, resource.as_str()).await;
        let outcome = answer
            .map_err(MintError::from)
            .and_then(|answer| checked_principal(&answer, principal, SystemTime::now()));
        self.metrics.entra_called(entra_label(&outcome), begun.elapsed());
        if let Err(error) = &outcome {
            let (identity, resource) = (&principal.identity, resource.as_str());
            tracing::warn!(%identity, resource, %error, "No token from Entra");
        }
        outcome
    }
}

/// Turns an answer into a token, if it is the expected identity's.
fn checked(
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
        secret: answer.access_token,
    };
    Ok(Fetched { value: token, lifetime })
}

/// The same for an application's token.
fn checked_principal(
    answer: &AccessToken,
    principal: &Principal,
    now: SystemTime,
) -> Result<Fetched<Token>, MintError> {
    let secret = answer.token.secret();
    if secret.is_empty() {
        let error = EntraError::Unavailable("its answer holds no token".to_owned());
        return Err(PrincipalError::from(error).into());
    }
    let verified = verify_principal(secret, &principal.client_id, &principal.tenant)?;
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
        secret: secret.to_owned(),
    };
    Ok(Fetched { value: token, lifetime })
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn result_label(outcome: &Result<Fetched<Token>, MintError>) -> ImdsResult {
    match outcome.as_ref().map_err(MintError::meaning) {
        Ok(_) => ImdsResult::Token,
        Err(_) if matches!(outcome, Err(MintError::WrongToken(_))) => ImdsResult::WrongToken,
        Err(Meaning::Spreading) => ImdsResult::UnknownIdentity,
        Err(Meaning::Refused) => ImdsResult::Refused,
        Err(Meaning::Throttled(_)) => ImdsResult::Throttled,
        Err(Meaning::Unavailable) => ImdsResult::Unavailable,
    }
}

fn entra_label(outcome: &Result<Fetched<Token>, MintError>) -> EntraResult {
    match outcome {
        Ok(_) => EntraResult::Token,
        Err(MintError::WrongToken(_)) => EntraResult::WrongToken,
        Err(MintError::Principal(error)) if !matches!(error, PrincipalError::Entra(_)) => {
            EntraResult::NoCredential
        }
        Err(error) => match error.meaning() {
            Meaning::Refused => EntraResult::Refused,
            Meaning::Throttled(_) => EntraResult::Throttled,
            Meaning::Spreading | Meaning::Unavailable => EntraResult::Unavailable,
        },
    }
}

impl Source for Minter {
    type Key = MintKey;
    type Value = Token;
    type Error = MintError;

    async fn fetch(
        &self,
        key: MintKey,
        _call: Call<Token>,
    ) -> Result<Fetched<Token>, FetchError<MintError>> {
        let outcome = match &key.issuer {
            Issuer::Imds(expected) => self.ask_imds(expected, &key.resource).await,
            // A large future, and rare.
            Issuer::Entra(principal) => Box::pin(self.ask_entra(principal, &key.resource)).await,
        };
        outcome.map_err(|error| match error.meaning() {
            Meaning::Refused => FetchError::Refused(error),
            Meaning::Throttled(retry_after) => FetchError::Transient { error, retry_after },
            Meaning::Spreading | Meaning::Unavailable => FetchError::transient(error),
        })
    }

    fn patience(&self, error: &FetchError<MintError>) -> Duration {
        match error.error().meaning() {
            Meaning::Spreading => PROPAGATION,
            Meaning::Throttled(_) | Meaning::Unavailable => OUTAGE,
            Meaning::Refused => Duration::ZERO,
        }
    }
}

// === impl MintError ===

impl MintError {
    fn meaning(&self) -> Meaning {
        match self {
            Self::WrongToken(_) => Meaning::Refused,
            Self::Imds(error) => match error {
                ImdsError::UnknownIdentity => Meaning::Spreading,
                ImdsError::Refused(_) => Meaning::Refused,
                ImdsError::Throttled(after) => Meaning::Throttled(*after),
                ImdsError::Unavailable(_) => Meaning::Unavailable,
            },
            Self::Principal(error) => match error {
                PrincipalError::Secret(error) if error.passes() => Meaning::Unavailable,
                PrincipalError::Credential { reason, .. } if reason.passes() => {
                    Meaning::Unavailable
                }
                PrincipalError::Entra(EntraError::Throttled(after)) => Meaning::Throttled(*after),
                PrincipalError::Entra(EntraError::Unavailable(_)) => Meaning::Unavailable,
                PrincipalError::NotAllowed
                | PrincipalError::Authority(_)
                | PrincipalError::Secret(_)
                | PrincipalError::Credential { .. }
                | PrincipalError::Entra(EntraError::Refused { .. }) => Meaning::Refused,
            },
        }
    }
}

// === impl NodeError ===

impl From<MintError> for NodeError {
    fn from(error: MintError) -> Self {
        let (code, retry_after) = match error.meaning() {
            Meaning::Refused => (NodeErrorCode::Refused, None),
            Meaning::Throttled(after) => {
                (NodeErrorCode::Throttled, Some(after.map_or(1, |after| after.as_secs().max(1))))
            }
            Meaning::Spreading | Meaning::Unavailable => (NodeErrorCode::Unavailable, None),
        };
        Self { code, message: error.to_string(), retry_after }
    }
}
