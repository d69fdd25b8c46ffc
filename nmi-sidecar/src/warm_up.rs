//! Tokens that are to be in the cache before the application starts, so that it does not notice an
//! outage that begins right then.

use api::node_api::NodeErrorCode;
use token_cache::{GetError, TokenCache};
use tokio::task::JoinSet;

use crate::imds::TokenKey;
use crate::node::{FailedCall, Failure, NodeSource};

/// The tokens of the default identity for some resources.
#[derive(Clone, Debug)]
pub struct WarmUp {
    cache: TokenCache<NodeSource>,
    resources: Vec<String>,
}

/// Not all tokens are there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cold {
    /// The pod has several identities, so that none is the default one.
    #[error("the pod has several identities, so that none is its default")]
    NoDefault,
    /// What is missing and why.
    #[error("{0}")]
    Missing(String),
}

// === impl WarmUp ===

impl WarmUp {
    /// The tokens of `resources`.
    pub fn new(cache: TokenCache<NodeSource>, resources: Vec<String>) -> Self {
        Self { cache, resources }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// Asks for all of them, at the same time and as long as a request of the application would.
    pub async fn get(&self) -> Result<(), Cold> {
        let mut questions = JoinSet::new();
        for resource in self.resources.iter().cloned() {
            let cache = self.cache.clone();
            questions.spawn(async move {
                let key = TokenKey { resource, identity: None };
                let outcome = cache.get(&key).await;
                (key.resource, outcome.map(drop))
            });
        }
        let mut outcomes = questions.join_all().await;
        outcomes.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        judge(&outcomes)
    }
}

fn judge(outcomes: &[(String, Result<(), GetError<FailedCall>>)]) -> Result<(), Cold> {
    let failures = outcomes.iter().filter_map(|(resource, outcome)| {
        let error = outcome.as_ref().err()?;
        Some((resource, error))
    });
    let mut missing = Vec::new();
    for (resource, error) in failures {
        if let GetError::Source(FailedCall { failure: Failure::Node { error, .. }, .. }) = error
            && error.code == NodeErrorCode::AmbiguousIdentity
        {
            return Err(Cold::NoDefault);
        }
        missing.push(format!("no token for {resource}: {error}"));
    }
    if missing.is_empty() { Ok(()) } else { Err(Cold::Missing(missing.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::CorrelationId;
    use api::node_api::NodeError;

    fn failed(resource: &str, code: NodeErrorCode) -> (String, Result<(), GetError<FailedCall>>) {
        let failure = Failure::from(NodeError::new(code, "why"));
        let call = FailedCall { failure, correlation: CorrelationId::of_bits(7) };
        (resource.to_owned(), Err(GetError::Source(call)))
    }

    #[test]
    fn what_is_missing_is_named_with_the_reason() {
        let warm = ("warm".to_owned(), Ok(()));
        assert_eq!(judge(std::slice::from_ref(&warm)), Ok(()));
        let outcomes = [
            failed("a", NodeErrorCode::Refused),
            warm.clone(),
            ("b".to_owned(), Err(GetError::Overloaded)),
        ];
        let Err(Cold::Missing(text)) = judge(&outcomes) else { panic!("two are missing") };
        assert!(text.starts_with("no token for a: why; no token for b: too many"), "{text}");
        let ambiguous = [warm, failed("a", NodeErrorCode::AmbiguousIdentity)];
        assert_eq!(judge(&ambiguous), Err(Cold::NoDefault));
    }
}
