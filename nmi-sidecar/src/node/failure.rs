//! Why the agent gave no answer, and what that means for a cached token.

use std::time::Duration;

use api::CorrelationId;
use api::node_api::{NodeError, NodeErrorCode};
use token_cache::FetchError;

/// A call for a token that failed, as the cache remembers it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct FailedCall {
    /// Why.
    pub failure: Failure,
    /// The id that the agent knows the call by.
    pub correlation: CorrelationId,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There was no connection, no answer in time, or none that can be understood.
    #[error("{0}")]
    Unreachable(String),
    /// The agent said no.
    #[error("{}", explain(error))]
    Node {
        /// What it said.
        error: NodeError,
        /// The identity is bound to the pod and on its way.
        pending: bool,
    },
}

fn explain(error: &NodeError) -> String {
    let message = &error.message;
    match error.code {
        NodeErrorCode::Unauthenticated => {
            format!("the node's agent does not accept this pod's service account token: {message}")
        }
        NodeErrorCode::WrongNode => {
            format!("the node's agent does not know this pod as one of its node's: {message}")
        }
        _ => message.clone(),
    }
}

// === impl Failure ===

impl Failure {
    /// As a metric's label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Node { error, .. } => error.code.as_str(),
        }
    }

    /// What the failure of the call `correlation` means for a cached token.
    pub fn classify(self, correlation: CorrelationId) -> FetchError<FailedCall> {
        let (code, retry_after) = match &self {
            Self::Unreachable(_) => (NodeErrorCode::Unavailable, None),
            Self::Node { error, .. } => (error.code, error.retry_after),
        };
        let error = FailedCall { failure: self, correlation };
        match code {
            code if code.revokes() => FetchError::Revoked(error),
            // Asked for a second time, or not to be had: somebody has to change something.
            NodeErrorCode::AssertionRequired
            | NodeErrorCode::Refused
            | NodeErrorCode::BadRequest => FetchError::Refused(error),
            _ => FetchError::Transient { error, retry_after: retry_after.map(Duration::from_secs) },
        }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        Self::Node { error, pending: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_word_on_the_identity_takes_a_cached_token_away() {
        use NodeErrorCode as Code;
        let class = |code| match Failure::from(NodeError::new(code, "x"))
            .classify(CorrelationId::of_bits(7))
        {
            FetchError::Revoked(_) => "revoked",
            FetchError::Refused(_) => "refused",
            FetchError::Transient { .. } => "transient",
        };
        let rows = [
            (Code::IdentityNotFound, "revoked"),
            (Code::AmbiguousIdentity, "revoked"),
            (Code::NotAssigned, "revoked"),
            (Code::Refused, "refused"),
            (Code::BadRequest, "refused"),
            (Code::AssertionRequired, "refused"),
            (Code::Unauthenticated, "transient"),
            (Code::WrongNode, "transient"),
            (Code::Throttled, "transient"),
            (Code::Unavailable, "transient"),
        ];
        for (code, expected) in rows {
            assert_eq!(class(code), expected, "{code:?}");
        }
        let down = Failure::Unreachable(String::new()).classify(CorrelationId::of_bits(7));
        assert!(matches!(down, FetchError::Transient { retry_after: None, .. }));
    }

    #[test]
    fn a_wish_to_be_left_alone_is_kept() {
        let mut error = NodeError::new(NodeErrorCode::Throttled, "x");
        error.retry_after = Some(7);
        let FetchError::Transient { retry_after, .. } =
            Failure::from(error).classify(CorrelationId::of_bits(7))
        else {
            panic!("throttling is transient");
        };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
    }
}
