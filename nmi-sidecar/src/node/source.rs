//! The agent as the source of the token cache.

use std::sync::Arc;
use std::time::Duration;

use api::IdentitySelector;
use api::node_api::{self, AssignmentState, NodeError, NodeErrorCode, TokenResponse};
use token_cache::{Call, FetchError, Fetched, Source};

use super::client::NodeClient;
use super::failure::Failure;
use crate::gate::Gate;
use crate::imds::{CachedToken, TokenRequest};

/// A request is answered within 25 seconds; this leaves the last attempt a moment.
const PATIENCE: Duration = Duration::from_secs(22);

/// How long a missing binding is waited for. It may appear, but it is more often a mistake that is
/// to be seen soon.
const UNBOUND_PATIENCE: Duration = Duration::from_secs(5);

/// Tokens from the agent.
#[derive(Clone)]
pub struct NodeSource {
    node: Arc<NodeClient>,
    gate: Gate,
}

// === impl NodeSource ===

impl NodeSource {
    /// Asks `node`; is patient with missing identities while `gate` is closed.
    pub fn new(node: Arc<NodeClient>, gate: Gate) -> Self {
        Self { node, gate }
    }

    /// Whether identities of the pod are on their way, after the agent said that one is not there.
    async fn pending(&self) -> bool {
        let assignment = self.node.assignment(Duration::ZERO).await;
        assignment.is_ok_and(|assignment| assignment.state == AssignmentState::Pending)
    }
}

impl Source for NodeSource {
    type Key = TokenRequest;
    type Value = Arc<CachedToken>;
    type Error = Failure;

    async fn fetch(
        &self,
        key: TokenRequest,
        _call: Call<Arc<CachedToken>>,
    ) -> Result<Fetched<Arc<CachedToken>>, FetchError<Failure>> {
        let request = node_api::TokenRequest {
            resource: key.resource.clone(),
            identity: key.identity.as_ref().map(Into::into),
            token_sha256_to_refresh: None,
            assertion: None,
        };
        match self.node.token(&request).await {
            Ok(token) => checked(&key, &token).map_err(Failure::classify),
            Err(Failure::Node { error, .. }) if error.code == NodeErrorCode::NotAssigned => {
                let pending = self.pending().await;
                Err(Failure::Node { error, pending }.classify())
            }
            Err(failure) => Err(failure.classify()),
        }
    }

    fn patience(&self, error: &FetchError<Failure>) -> Duration {
        patience(error, self.gate.is_open())
    }
}

fn patience(error: &FetchError<Failure>, gate_is_open: bool) -> Duration {
    match error {
        FetchError::Transient { .. } => PATIENCE,
        FetchError::Revoked(Failure::Node { error, pending })
            if error.code == NodeErrorCode::NotAssigned =>
        {
            if *pending || !gate_is_open {
                PATIENCE
            } else {
                UNBOUND_PATIENCE
            }
        }
        FetchError::Revoked(_) | FetchError::Refused(_) => Duration::ZERO,
    }
}

/// The token, if it is the one that was asked for.
fn checked(
    key: &TokenRequest,
    token: &TokenResponse,
) -> Result<Fetched<Arc<CachedToken>>, Failure> {
    let wrong = |what: &str| {
        let message = format!("the node's agent answered with a token {what}");
        Err(Failure::from(NodeError::new(NodeErrorCode::Unavailable, message)))
    };
    if token.expires_in == 0 {
        return wrong("that has expired");
    }
    if token.resource != key.resource {
        return wrong("of another resource");
    }
    if let Some(IdentitySelector::ClientId(id)) = &key.identity
        && !id.as_str().eq_ignore_ascii_case(&token.client_id)
    {
        return wrong("of another identity");
    }
    let lifetime = Duration::from_secs(token.expires_in);
    Ok(Fetched { value: Arc::new(CachedToken::new(token)), lifetime })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "aaaaaaaa-1111-2222-3333-444444444444";

    #[test]
    fn only_what_time_can_cure_is_waited_for() {
        let not_assigned = |pending| {
            let error = NodeError::new(NodeErrorCode::NotAssigned, "x");
            FetchError::Revoked(Failure::Node { error, pending })
        };
        let node = |code| Failure::from(NodeError::new(code, "x")).classify();
        let rows = [
            (not_assigned(false), true, 5),
            (not_assigned(false), false, 22),
            (not_assigned(true), true, 22),
            (node(NodeErrorCode::IdentityNotFound), false, 0),
            (node(NodeErrorCode::AmbiguousIdentity), false, 0),
            (node(NodeErrorCode::Refused), false, 0),
            (node(NodeErrorCode::Unavailable), true, 22),
            (Failure::Unreachable(String::new()).classify(), true, 22),
        ];
        for (error, gate_is_open, seconds) in rows {
            let found = patience(&error, gate_is_open).as_secs();
            assert_eq!(found, seconds, "{error:?} {gate_is_open}");
        }
    }

    #[test]
    fn a_token_of_somebody_else_is_no_token() {
        let key = TokenRequest {
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
