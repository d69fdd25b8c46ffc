//! Turns a request into its answer: the pure contract on one side, the cache on the other.

use std::time::Duration;

use api::node_api::NodeErrorCode;
use token_cache::{GetError, TokenCache};
use tokio::time::{Instant, timeout};

use crate::imds::{Hosts, ImdsError, Outcome, Reply, TokenRequest};
use crate::metrics::RequestMetrics;
use crate::node::{Failure, NodeSource};
use crate::server::Dates;

/// No client is kept waiting longer, whatever happens upstream.
const LONGEST_WAIT: Duration = Duration::from_secs(25);

/// What answers the requests of the pod.
pub struct Service {
    cache: TokenCache<NodeSource>,
    hosts: Hosts,
    metrics: RequestMetrics,
    dates: Dates,
}

// === impl Service ===

impl Service {
    /// A service that is called under `hosts`.
    pub fn new(cache: TokenCache<NodeSource>, hosts: Hosts, metrics: RequestMetrics) -> Self {
        Self { cache, hosts, metrics, dates: Dates::default() }
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    pub(crate) fn dates(&self) -> &Dates {
        &self.dates
    }

    /// The answer to what was asked at `begun`.
    pub(crate) async fn answer(
        &self,
        request: Result<TokenRequest, ImdsError>,
        begun: Instant,
    ) -> Reply {
        let (reply, outcome) = match request {
            Ok(request) => self.token(&request).await,
            Err(error) => (Reply::Error(error.reply(None)), error.outcome()),
        };
        let elapsed = begun.elapsed();
        self.metrics.observe(outcome, elapsed);
        tracing::debug!(outcome = outcome.as_str(), ?elapsed, "Answered");
        reply
    }

    async fn token(&self, request: &TokenRequest) -> (Reply, Outcome) {
        let error = match timeout(LONGEST_WAIT, self.cache.get(request)).await {
            Ok(Ok(hit)) => return (Reply::Token(hit.value, hit.remaining), Outcome::Token),
            Ok(Err(GetError::Source(failure))) => imds_error(&failure),
            Ok(Err(GetError::Overloaded)) => ImdsError::Overloaded,
            Ok(Err(error @ GetError::Lost)) => ImdsError::Unavailable(error.to_string()),
            Err(_) => ImdsError::Unavailable(format!("no answer within {LONGEST_WAIT:?}")),
        };
        let correlation = correlation_id();
        tracing::warn!(
            correlation_id = correlation,
            identity = request.identity.as_ref().map(tracing::field::display),
            resource = request.resource,
            outcome = error.outcome().as_str(),
            ?error,
            "Cannot answer with a token"
        );
        (Reply::Error(error.reply(Some(&correlation))), error.outcome())
    }
}

/// How a failure of the node's agent looks to an application.
fn imds_error(failure: &Failure) -> ImdsError {
    let text = failure.to_string();
    let Failure::Node { error, pending } = failure else { return ImdsError::Unavailable(text) };
    match error.code {
        NodeErrorCode::IdentityNotFound => ImdsError::IdentityNotFound,
        NodeErrorCode::NotAssigned => ImdsError::NotAssigned { detail: text, pending: *pending },
        NodeErrorCode::AmbiguousIdentity => ImdsError::Ambiguous,
        NodeErrorCode::Refused | NodeErrorCode::BadRequest | NodeErrorCode::AssertionRequired => {
            ImdsError::Refused(text)
        }
        NodeErrorCode::Throttled => ImdsError::Throttled(text),
        NodeErrorCode::Unauthenticated | NodeErrorCode::WrongNode | NodeErrorCode::Unavailable => {
            ImdsError::Unavailable(text)
        }
    }
}

/// A random id in the form of a GUID, as support people of Azure expect it.
fn correlation_id() -> String {
    let hex = format!("{:032x}", rand::random::<u128>());
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    format!("{a}-{b}-{c}-{d}-{e}")
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Guid;
    use api::node_api::NodeError;

    #[test]
    fn each_failure_of_the_agent_has_its_status_and_code() {
        use NodeErrorCode as Code;
        let rows = [
            (Code::IdentityNotFound, false, 400, "invalid_request"),
            (Code::NotAssigned, false, 400, "invalid_request"),
            (Code::NotAssigned, true, 503, "temporarily_unavailable"),
            (Code::AmbiguousIdentity, false, 400, "invalid_request"),
            (Code::Refused, false, 400, "invalid_request"),
            (Code::BadRequest, false, 400, "invalid_request"),
            (Code::Throttled, false, 429, "too_many_requests"),
            (Code::Unauthenticated, false, 503, "temporarily_unavailable"),
            (Code::WrongNode, false, 503, "temporarily_unavailable"),
            (Code::Unavailable, false, 503, "temporarily_unavailable"),
        ];
        for (code, pending, status, error) in rows {
            let failure = Failure::Node { error: NodeError::new(code, "why"), pending };
            let reply = imds_error(&failure).reply(None);
            assert_eq!(reply.status, status, "{code:?}");
            assert!(reply.body.contains(&format!(r#""error":"{error}""#)), "{code:?}");
        }
        let down = imds_error(&Failure::Unreachable("connection refused".to_owned())).reply(None);
        assert_eq!(down.status, 503);
        assert!(down.body.contains("connection refused"));
    }

    #[test]
    fn an_unknown_identity_is_told_nothing_about_others() {
        let error = NodeError::new(NodeErrorCode::IdentityNotFound, "the pod has identity other");
        let reply = imds_error(&Failure::Node { error, pending: false }).reply(Some("c"));
        let expected = r#"{"error":"invalid_request","error_description":"Identity not found. Correlation ID: c"}"#;
        assert_eq!(reply.body, expected);
    }

    #[test]
    fn correlation_ids_are_guids_and_differ() {
        let (one, two) = (correlation_id(), correlation_id());
        assert!(one.parse::<Guid>().is_ok(), "{one}");
        assert_ne!(one, two);
    }
}
