//! Tokens for identities: who issues them is decided by the identity's type.

mod answer;
mod circuit;
mod federation;
mod gate;
mod imds;
mod key;
mod principal;
#[cfg(test)]
mod storms;
#[cfg(test)]
mod tests;
mod token;
mod upstream;
mod verify;

use std::time::{Duration, Instant, SystemTime};

use api::node_api::{NodeError, NodeErrorCode};
use api::{Tenant, TokenHash};
use futures::future::try_join_all;
use token_cache::{Call, FetchError, Fetched, Source};

use answer::ImdsError;
#[cfg(test)]
pub(crate) use federation::testing;
pub(crate) use federation::{FederationSettings, PodAssertions};
use imds::Question;
pub(crate) use imds::{Imds, is_endpoint};
use key::Issuer;
pub(crate) use key::{BadResource, MintKey, Resource};
pub(crate) use principal::{Authorities, Host, NotAHost, Principals, unpack_for_parent};
use principal::{EntraError, Principal, PrincipalError};
pub(crate) use token::Token;
use token::{checked, checked_principal, unix, with_auxiliary};
use upstream::NotCalled;
use verify::{Expected, WrongToken};

use crate::metrics::{EntraResult, HostMetrics, ImdsResult};

/// Where the node's tokens come from.
#[derive(Debug)]
pub(crate) struct Minter {
    imds: Imds,
    principals: Principals,
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
    /// Nobody was asked.
    #[error(transparent)]
    NotCalled(#[from] NotCalled),
    /// The token of a further tenant could not be had.
    #[error("spec.auxiliaryTenantIDs, tenant {tenant}: {error}")]
    Auxiliary {
        /// The tenant.
        tenant: Tenant,
        /// Why.
        error: Box<MintError>,
    },
}

/// What a failure means to callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Not known yet.
    Spreading,
    /// For good.
    Refused,
    /// When the caller has sent what it takes.
    AssertionRequired,
    /// Slow down.
    Throttled(Option<Duration>),
    /// May work in a moment.
    Unavailable,
}

/// How long a caller waits for an identity that the metadata service has not heard of: an
/// attachment gets there within seconds.
const PROPAGATION: Duration = Duration::from_secs(12);

/// How long a caller waits for a service that is updating, throttling or failing. A sidecar asks
/// again for 22 s, and each time joins the fetch that goes on here.
const OUTAGE: Duration = Duration::from_secs(20);

// === impl Minter ===

impl Minter {
    /// A source of tokens that asks `imds`, or Entra for applications.
    pub(crate) fn new(imds: Imds, principals: Principals, metrics: HostMetrics) -> Self {
        Self { imds, principals, metrics }
    }

    /// The same where there is no Entra.
    #[cfg(test)]
    pub(crate) fn of_imds(imds: Imds, metrics: HostMetrics) -> Self {
        Self::new(imds, Principals::nowhere(), metrics)
    }

    /// What pods have shown of themselves.
    pub(crate) fn assertions(&self) -> &PodAssertions {
        &self.principals.federation().pods
    }

    async fn ask_imds(
        &self,
        expected: &Expected,
        resource: &Resource,
        call: &Call<Token>,
    ) -> Result<Fetched<Token>, MintError> {
        let question = Question {
            identity: &expected.resource_id,
            resource: resource.as_str(),
            rejected: call.rejected.as_ref().map(|token| TokenHash::of(&token.secret)),
            trace: call.trace.as_deref(),
            urgent: call.urgent,
        };
        let (answer, took) = self.imds.token(question).await?;
        let outcome = answer
            .map_err(MintError::from)
            .and_then(|answer| checked(answer, expected, SystemTime::now()));
        self.metrics.imds_called(result_label(&outcome), took);
        let (identity, resource) = (expected.resource_id.as_str(), resource.as_str());
        let correlation_id = call.trace.as_deref();
        match &outcome {
            Ok(_) => {}
            // Usual for a few seconds after every attachment.
            Err(MintError::Imds(error @ ImdsError::UnknownIdentity)) => {
                tracing::debug!(correlation_id, identity, resource, %error, "No token from IMDS");
            }
            Err(error) => {
                tracing::warn!(correlation_id, identity, resource, %error, "No token from IMDS");
            }
        }
        outcome
    }

    /// An application's token, with those of its further tenants: all of them or none.
    async fn ask_entra(
        &self,
        principal: &Principal,
        resource: &Resource,
        call: &Call<Token>,
    ) -> Result<Fetched<Token>, MintError> {
        let first = self.ask_tenant(principal, &principal.tenant, resource, call).await?;
        // Only now: the credential has been read, and has proved good.
        let more = principal.auxiliary.iter().map(async |tenant| {
            let of_tenant = |error| MintError::Auxiliary { tenant: tenant.clone(), error };
            let answer = self.ask_tenant(principal, tenant, resource, call).await;
            answer.map_err(|error| of_tenant(Box::new(error)))
        });
        Ok(try_join_all(more).await?.into_iter().fold(first, with_auxiliary))
    }

    async fn ask_tenant(
        &self,
        principal: &Principal,
        tenant: &Tenant,
        resource: &Resource,
        call: &Call<Token>,
    ) -> Result<Fetched<Token>, MintError> {
        let begun = Instant::now();
        let answer = self.principals.token(principal, tenant, resource.as_str(), call).await;
        if let Err(PrincipalError::NotCalled(error)) = answer {
            return Err(error.into());
        }
        let of = (&principal.client_id, tenant);
        let outcome = answer
            .map_err(MintError::from)
            .and_then(|answer| checked_principal(&answer, of, SystemTime::now()));
        self.metrics.entra_called(entra_label(&outcome), begun.elapsed());
        if let Err(error) = &outcome {
            let (identity, resource) = (&principal.identity, resource.as_str());
            let correlation_id = call.trace.as_deref();
            if error.meaning() == Meaning::AssertionRequired {
                // Usual when no pod asks any more.
                tracing::debug!(correlation_id, %identity, resource, %error, "No token from Entra");
            } else {
                tracing::warn!(correlation_id, %identity, resource, %error, "No token from Entra");
            }
        }
        outcome
    }
}

fn result_label(outcome: &Result<Fetched<Token>, MintError>) -> ImdsResult {
    match outcome.as_ref().map_err(MintError::meaning) {
        Ok(_) => ImdsResult::Token,
        Err(_) if matches!(outcome, Err(MintError::WrongToken(_))) => ImdsResult::WrongToken,
        Err(Meaning::Spreading) => ImdsResult::UnknownIdentity,
        Err(Meaning::Refused) => ImdsResult::Refused,
        Err(Meaning::Throttled(_)) => ImdsResult::Throttled,
        Err(Meaning::Unavailable | Meaning::AssertionRequired) => ImdsResult::Unavailable,
    }
}

fn entra_label(outcome: &Result<Fetched<Token>, MintError>) -> EntraResult {
    match outcome {
        Ok(_) => EntraResult::Token,
        Err(MintError::WrongToken(_)) => EntraResult::WrongToken,
        Err(MintError::Principal(error)) if !error.is_of_entra() => EntraResult::NoCredential,
        Err(error) => match error.meaning() {
            Meaning::Refused => EntraResult::Refused,
            Meaning::Throttled(_) => EntraResult::Throttled,
            Meaning::Spreading | Meaning::Unavailable | Meaning::AssertionRequired => {
                EntraResult::Unavailable
            }
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
        call: Call<Token>,
    ) -> Result<Fetched<Token>, FetchError<MintError>> {
        let outcome = match &key.issuer {
            Issuer::Imds(expected) => self.ask_imds(expected, &key.resource, &call).await,
            // A large future, and rare.
            Issuer::Entra(principal) => {
                Box::pin(self.ask_entra(principal, &key.resource, &call)).await
            }
        };
        outcome.map_err(|error| match error.meaning() {
            Meaning::Refused => FetchError::Refused(error),
            Meaning::Throttled(retry_after) => FetchError::Transient { error, retry_after },
            Meaning::Spreading | Meaning::Unavailable | Meaning::AssertionRequired => {
                FetchError::transient(error)
            }
        })
    }

    fn patience(&self, error: &FetchError<MintError>) -> Duration {
        match error.error().meaning() {
            Meaning::Spreading => PROPAGATION,
            Meaning::Throttled(_) | Meaning::Unavailable => OUTAGE,
            Meaning::Refused | Meaning::AssertionRequired => Duration::ZERO,
        }
    }
}

// === impl MintError ===

impl MintError {
    /// The pod is to send its assertion.
    pub(crate) fn assertion_required() -> Self {
        PrincipalError::AssertionRequired.into()
    }

    fn meaning(&self) -> Meaning {
        match self {
            Self::WrongToken(_) => Meaning::Refused,
            Self::NotCalled(_) => Meaning::Unavailable,
            Self::Auxiliary { error, .. } => error.meaning(),
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
                PrincipalError::Agent(error) if error.passes() => Meaning::Unavailable,
                PrincipalError::AssertionRequired => Meaning::AssertionRequired,
                PrincipalError::Entra(EntraError::Throttled(after)) => Meaning::Throttled(*after),
                PrincipalError::Entra(EntraError::Unavailable(_))
                | PrincipalError::NotCalled(_) => Meaning::Unavailable,
                PrincipalError::NotAllowed
                | PrincipalError::Authority(_)
                | PrincipalError::Secret(_)
                | PrincipalError::Credential { .. }
                | PrincipalError::Agent(_)
                | PrincipalError::Unmatched { .. }
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
            Meaning::AssertionRequired => (NodeErrorCode::AssertionRequired, None),
            Meaning::Throttled(after) => {
                (NodeErrorCode::Throttled, Some(after.map_or(1, |after| after.as_secs().max(1))))
            }
            Meaning::Spreading | Meaning::Unavailable => (NodeErrorCode::Unavailable, None),
        };
        Self { code, message: error.to_string(), retry_after }
    }
}
