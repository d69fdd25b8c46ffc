//! Tokens for identities: who issues them is decided by the identity's type.

mod answer;
mod gate;
mod imds;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::node_api::{NodeError, NodeErrorCode};
use api::{Guid, IdentityType};
use token_cache::{FetchError, Fetched, Source};

use answer::{ImdsError, ImdsToken};
pub(crate) use imds::{Imds, is_endpoint};
use verify::{Expected, WrongToken, verify};

use crate::assigned::AssignedView;
use crate::metrics::{HostMetrics, ImdsResult};

/// What a token depends on; pods with the same identity share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MintKey {
    issuer: Issuer,
    resource: Resource,
}

/// Who issues an identity's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Issuer {
    /// The VM's metadata service, for a user-assigned identity.
    Imds(Expected),
}

/// A resource (audience) that may be put into a request to Azure.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resource(String);

/// The text cannot be a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the resource must be an App ID URI or application id such as https://vault.azure.net, at most 512 characters"
)]
pub(crate) struct BadResource;

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
    metrics: HostMetrics,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MintError {
    /// The metadata service gave none.
    #[error(transparent)]
    Imds(#[from] ImdsError),
    /// What it gave was not the identity's.
    #[error(transparent)]
    WrongToken(#[from] WrongToken),
}

/// How long a caller waits for an identity that the metadata service has not heard of: an
/// attachment gets there within seconds.
const PROPAGATION: Duration = Duration::from_secs(12);

/// How long a caller waits for a service that is updating, throttling or failing.
const OUTAGE: Duration = Duration::from_secs(8);

// === impl MintKey ===

impl MintKey {
    /// The key for an identity that was selected for a request.
    pub(crate) fn new(view: &AssignedView, resource: Resource) -> Result<Self, NodeError> {
        let refused = |text: String| NodeError::new(NodeErrorCode::Refused, text);
        let name = &view.identity;
        if let Some(problem) = &view.problem {
            return Err(refused(format!("AzureIdentity {name} cannot be used: {problem}")));
        }
        if view.contradicts_itself() {
            return Err(refused(format!(
                "AzureIdentity {name} cannot be used: spec.clientID is not the client id of spec.resourceID; correct it or leave it out"
            )));
        }
        let issuer = match (view.kind, &view.resource_id) {
            (IdentityType::UserAssigned, Some(resource_id)) => Issuer::Imds(Expected {
                resource_id: resource_id.clone(),
                client_id: view.client_id().cloned(),
            }),
            (kind, _) => {
                return Err(refused(format!(
                    "AzureIdentity {name} is of type {}: this version serves tokens of type 0 (user-assigned managed identity) only",
                    i64::from(kind)
                )));
            }
        };
        Ok(Self { issuer, resource })
    }
}

// === impl Resource ===

impl Resource {
    /// The text as the caller wrote it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Resource {
    type Err = BadResource;

    fn from_str(text: &str) -> Result<Self, BadResource> {
        let plain = |b: u8| b.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&b);
        if (1..=512).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadResource)
        }
    }
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

// === impl Minter ===

impl Minter {
    /// A source of tokens that asks `imds`.
    pub(crate) fn new(imds: Imds, metrics: HostMetrics) -> Self {
        Self { imds, metrics }
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
}

/// Turns an answer into a token, if it is the expected identity's.
fn checked(
    answer: ImdsToken,
    expected: &Expected,
    now: SystemTime,
) -> Result<Fetched<Token>, MintError> {
    let verified = verify(&answer.access_token, answer.client_id.as_deref(), expected)?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
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

fn result_label(outcome: &Result<Fetched<Token>, MintError>) -> ImdsResult {
    match outcome {
        Ok(_) => ImdsResult::Token,
        Err(MintError::WrongToken(_)) => ImdsResult::WrongToken,
        Err(MintError::Imds(error)) => match error {
            ImdsError::UnknownIdentity => ImdsResult::UnknownIdentity,
            ImdsError::Refused(_) => ImdsResult::Refused,
            ImdsError::Throttled(_) => ImdsResult::Throttled,
            ImdsError::Unavailable(_) => ImdsResult::Unavailable,
        },
    }
}

impl Source for Minter {
    type Key = MintKey;
    type Value = Token;
    type Error = MintError;

    async fn fetch(&self, key: MintKey) -> Result<Fetched<Token>, FetchError<MintError>> {
        let Issuer::Imds(expected) = &key.issuer;
        self.ask_imds(expected, &key.resource).await.map_err(|error| match error {
            MintError::WrongToken(_) | MintError::Imds(ImdsError::Refused(_)) => {
                FetchError::Refused(error)
            }
            MintError::Imds(ImdsError::Throttled(retry_after)) => {
                FetchError::Transient { error, retry_after }
            }
            MintError::Imds(ImdsError::UnknownIdentity | ImdsError::Unavailable(_)) => {
                FetchError::transient(error)
            }
        })
    }

    fn patience(&self, error: &FetchError<MintError>) -> Duration {
        match error.error() {
            MintError::Imds(ImdsError::UnknownIdentity) => PROPAGATION,
            MintError::Imds(ImdsError::Throttled(_) | ImdsError::Unavailable(_)) => OUTAGE,
            MintError::Imds(ImdsError::Refused(_)) | MintError::WrongToken(_) => Duration::ZERO,
        }
    }
}

// === impl NodeError ===

impl From<MintError> for NodeError {
    fn from(error: MintError) -> Self {
        let (code, retry_after) = match &error {
            MintError::WrongToken(_) | MintError::Imds(ImdsError::Refused(_)) => {
                (NodeErrorCode::Refused, None)
            }
            MintError::Imds(ImdsError::Throttled(after)) => {
                (NodeErrorCode::Throttled, Some(after.map_or(1, |after| after.as_secs().max(1))))
            }
            MintError::Imds(ImdsError::UnknownIdentity | ImdsError::Unavailable(_)) => {
                (NodeErrorCode::Unavailable, None)
            }
        };
        Self { code, message: error.to_string(), retry_after }
    }
}
