//! The agent as the source of the token cache.

use std::sync::Arc;
use std::time::Duration;

use api::node_api::{self, AssignmentState, NodeError, NodeErrorCode, TokenResponse};
use api::{CorrelationId, IdentitySelector};
use parking_lot::Mutex;
use token_cache::{Call, FetchError, Fetched, Source};
use tokio::time::Instant;

use super::assertion::AssertionFile;
use super::client::NodeClient;
use super::failure::{FailedCall, Failure};
use crate::gate::Gate;
use crate::imds::{CachedToken, TokenKey};

/// A request is answered within 25 seconds; this leaves the last attempt a moment.
const PATIENCE: Duration = Duration::from_secs(22);

/// How long a missing binding is waited for, once. It may appear, but it is more often a mistake
/// that is to be seen soon. One that appears later is seen by the next request all the same.
const UNBOUND_PATIENCE: Duration = Duration::from_secs(5);

/// Tokens from the agent.
#[derive(Debug)]
pub struct NodeSource {
    node: Arc<NodeClient>,
    assertion: AssertionFile,
    gate: Gate,
    /// Since when the agent says that there is no binding.
    unbound: Mutex<Option<Instant>>,
}

// === impl NodeSource ===

impl NodeSource {
    /// Asks `node`, which may ask for the `assertion`; is patient with missing identities while
    /// `gate` is closed.
    pub fn new(node: Arc<NodeClient>, assertion: AssertionFile, gate: Gate) -> Self {
        Self { node, assertion, gate, unbound: Mutex::default() }
    }

    /// One question to the agent, or two if it has to see the pod's own token.
    async fn ask(
        &self,
        mut request: node_api::TokenRequest,
        correlation: &CorrelationId,
    ) -> Result<TokenResponse, Failure> {
        request.assertion = self.assertion.if_wanted();
        let answer = match self.node.token(&request, correlation).await {
            Err(Failure::Node { error, .. })
                if error.code == NodeErrorCode::AssertionRequired
                    && request.assertion.is_none() =>
            {
                request.assertion = Some(self.assertion.read()?);
                self.node.token(&request, correlation).await
            }
            answer => answer,
        };
        match answer {
            Ok(token) => {
                if token.assertion_wanted {
                    self.assertion.want();
                } else if request.assertion.is_some() {
                    self.assertion.was_taken();
                }
                Ok(token)
            }
            Err(Failure::Node { error, .. }) if error.code == NodeErrorCode::NotAssigned => {
                let pending = self.pending().await;
                Err(Failure::Node { error, pending })
            }
            Err(failure) => Err(failure),
        }
    }

    fn take_note(&self, answer: &Result<TokenResponse, Failure>) {
        let mut unbound = self.unbound.lock();
        match answer {
            // It says nothing about bindings.
            Err(Failure::Unreachable(_)) => {}
            Err(Failure::Node { error, pending: false })
                if error.code == NodeErrorCode::NotAssigned =>
            {
                unbound.get_or_insert_with(Instant::now);
            }
            Ok(_) | Err(Failure::Node { .. }) => *unbound = None,
        }
    }

    /// Whether identities of the pod are on their way, after the agent said that one is not there.
    async fn pending(&self) -> bool {
        let assignment = self.node.assignment(Duration::ZERO).await;
        assignment.is_ok_and(|assignment| assignment.state == AssignmentState::Pending)
    }
}

impl Source for NodeSource {
    type Key = TokenKey;
    type Value = Arc<CachedToken>;
    type Error = FailedCall;

    async fn fetch(
        &self,
        key: TokenKey,
        call: Call<Arc<CachedToken>>,
    ) -> Result<Fetched<Arc<CachedToken>>, FetchError<FailedCall>> {
        let correlation =
            call.trace.map_or_else(|| CorrelationId::of_bits(rand::random()), CorrelationId::from);
        let refused = call.rejected.and_then(|token| token.hash());
        let request = node_api::TokenRequest {
            resource: key.resource.clone(),
            identity: key.identity.as_ref().map(Into::into),
            token_sha256_to_refresh: refused.map(|hash| hash.to_string()),
            assertion: None,
        };
        let answer = self.ask(request, &correlation).await;
        self.take_note(&answer);
        let token = answer.and_then(|token| checked(&key, &token));
        token.map_err(|failure| failure.classify(correlation))
    }

    fn patience(&self, error: &FetchError<FailedCall>) -> Duration {
        let unbound_for = self.unbound.lock().map(|since| since.elapsed()).unwrap_or_default();
        patience(error, self.gate.is_open(), unbound_for)
    }
}

fn patience(error: &FetchError<FailedCall>, gate_is_open: bool, unbound_for: Duration) -> Duration {
    match (error, &error.error().failure) {
        (FetchError::Transient { .. }, _) => PATIENCE,
        (FetchError::Revoked(_), Failure::Node { error, pending })
            if error.code == NodeErrorCode::NotAssigned =>
        {
            if *pending || !gate_is_open {
                PATIENCE
            } else {
                UNBOUND_PATIENCE.saturating_sub(unbound_for)
            }
        }
        (FetchError::Revoked(_) | FetchError::Refused(_), _) => Duration::ZERO,
    }
}

/// The token, if it is the one that was asked for.
fn checked(key: &TokenKey, token: &TokenResponse) -> Result<Fetched<Arc<CachedToken>>, Failure> {
    let wrong = |what: &str| {
        let message = format!("the node's agent answered with a token {what}");
        Err(Failure::from(NodeError::new(NodeErrorCode::Unavailable, message)))
    };
    if token.resource != key.resource {
        return wrong("of another resource");
    }
    if let Some(IdentitySelector::ClientId(id)) = &key.identity
        && !id.as_str().eq_ignore_ascii_case(&token.client_id)
    {
        return wrong("of another identity");
    }
    let value = Arc::new(CachedToken::new(token));
    let lifetime = value.lifetime();
    if lifetime.is_zero() {
        return wrong("that has expired");
    }
    Ok(Fetched { value, lifetime })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "aaaaaaaa-1111-2222-3333-444444444444";

    #[test]
    fn only_what_time_can_cure_is_waited_for() {
        let not_assigned = |pending| {
            let error = NodeError::new(NodeErrorCode::NotAssigned, "x");
            Failure::Node { error, pending }.classify(CorrelationId::of_bits(7))
        };
        let classified = |failure: Failure| failure.classify(CorrelationId::of_bits(7));
        let node = |code| classified(Failure::from(NodeError::new(code, "x")));
        let rows = [
            (not_assigned(false), true, 5),
            (not_assigned(false), false, 22),
            (not_assigned(true), true, 22),
            (node(NodeErrorCode::IdentityNotFound), false, 0),
            (node(NodeErrorCode::AmbiguousIdentity), false, 0),
            (node(NodeErrorCode::Refused), false, 0),
            (node(NodeErrorCode::AssertionRequired), false, 0),
            (node(NodeErrorCode::Unavailable), true, 22),
            (classified(Failure::Unreachable(String::new())), true, 22),
        ];
        for (error, gate_is_open, seconds) in rows {
            let found = patience(&error, gate_is_open, Duration::ZERO).as_secs();
            assert_eq!(found, seconds, "{error:?} {gate_is_open}");
        }
        let waited = Duration::from_secs(60);
        assert_eq!(patience(&not_assigned(false), true, waited), Duration::ZERO);
        assert_eq!(patience(&not_assigned(true), true, waited), PATIENCE);
    }

    #[test]
    fn a_token_of_somebody_else_is_no_token() {
        let key = TokenKey {
            resource: "r".to_owned(),
            identity: Some(IdentitySelector::ClientId(ID.parse().unwrap())),
        };
        let good = TokenResponse {
            access_token: "t".to_owned(),
            token_type: "Bearer".to_owned(),
            resource: "r".to_owned(),
            client_id: ID.to_uppercase(),
            expires_on: 9,
            not_before: 0,
            expires_in: 9,
            assertion_wanted: false,
            auxiliary: Vec::new(),
        };
        assert_eq!(checked(&key, &good).unwrap().lifetime, Duration::from_secs(9));
        let other_id = ID.replace('a', "b");
        for bad in [
            TokenResponse { expires_in: 0, ..good.clone() },
            TokenResponse { resource: "R".to_owned(), ..good.clone() },
            TokenResponse { client_id: other_id, ..good.clone() },
            TokenResponse { client_id: String::new(), ..good },
        ] {
            assert!(checked(&key, &bad).is_err(), "{bad:?}");
        }
    }
}
