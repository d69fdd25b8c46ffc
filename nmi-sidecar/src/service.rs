//! Turns a request into its answer: the pure contract on one side, the cache on the other.

use std::sync::Arc;
use std::time::Duration;

use api::node_api::NodeErrorCode;
use api::{CorrelationId, IdentitySelector};
use token_cache::{GetError, Request, TokenCache};
use tokio::time::{Instant, timeout};

use crate::imds::{CachedToken, Hosts, ImdsError, Outcome, Reply, TokenRequest};
use crate::metrics::RequestMetrics;
use crate::node::{FailedCall, Failure, NodeSource};
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
        if request.refused.is_none()
            && let Some(hit) = self.cache.get_now(&request.key)
        {
            return (Reply::Token(hit.value, hit.remaining), Outcome::Token);
        }
        let own = match &request.correlation {
            Some(id) => id.into(),
            None => CorrelationId::of_bits(rand::random()),
        };
        let (error, correlation) = match timeout(LONGEST_WAIT, self.wait(request, &own)).await {
            Ok(Ok(reply)) => return (reply, Outcome::Token),
            Ok(Err(GetError::Source(FailedCall { failure, correlation }))) => {
                (imds_error(&failure, request.key.identity.as_ref()), correlation)
            }
            Ok(Err(GetError::Overloaded)) => (ImdsError::Overloaded, own.clone()),
            Ok(Err(error @ GetError::Lost)) => {
                (ImdsError::Unavailable(error.to_string()), own.clone())
            }
            Err(_) => {
                let text = format!("no answer within {LONGEST_WAIT:?}");
                (ImdsError::Unavailable(text), own.clone())
            }
        };
        log(request, &error, &correlation, &own);
        (Reply::Error(error.reply(Some(correlation.as_str()))), error.outcome())
    }

    /// The token, which somebody has to be asked for.
    async fn wait(
        &self,
        request: &TokenRequest,
        own: &CorrelationId,
    ) -> Result<Reply, GetError<FailedCall>> {
        let refused =
            |token: &Arc<CachedToken>| request.refused.is_some_and(|hash| token.has(hash));
        let more = Request::default().traced(own.shared()).rejecting(&refused);
        let hit = self.cache.get_with(&request.key, &more).await?;
        Ok(Reply::Token(hit.value, hit.remaining))
    }
}

/// Under the id of the call that failed, which may have been another request's that wanted the same.
fn log(
    request: &TokenRequest,
    error: &ImdsError,
    correlation: &CorrelationId,
    own: &CorrelationId,
) {
    tracing::warn!(
        correlation_id = %correlation,
        client_request_id = (own != correlation).then(|| tracing::field::display(own)),
        identity = request.key.identity.as_ref().map(tracing::field::display),
        resource = request.key.resource,
        outcome = error.outcome().as_str(),
        ?error,
        "Cannot answer with a token"
    );
}

/// How a failure of the node's agent looks to an application that asked for this identity.
fn imds_error(failure: &Failure, asked: Option<&IdentitySelector>) -> ImdsError {
    let text = failure.to_string();
    let Failure::Node { error, pending } = failure else { return ImdsError::Unavailable(text) };
    match error.code {
        NodeErrorCode::IdentityNotFound => ImdsError::IdentityNotFound(match asked {
            Some(selector) => format!("{selector} is not assigned to this pod"),
            None => String::new(),
        }),
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

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            (Code::AssertionRequired, false, 400, "invalid_request"),
            (Code::Throttled, false, 429, "too_many_requests"),
            (Code::Unauthenticated, false, 503, "temporarily_unavailable"),
            (Code::WrongNode, false, 503, "temporarily_unavailable"),
            (Code::Unavailable, false, 503, "temporarily_unavailable"),
        ];
        for (code, pending, status, error) in rows {
            let failure = Failure::Node { error: NodeError::new(code, "why"), pending };
            let reply = imds_error(&failure, None).reply(None);
            assert_eq!(reply.status, status, "{code:?}");
            assert!(reply.body.contains(&format!(r#""error":"{error}""#)), "{code:?}");
        }
        let down = Failure::Unreachable("connection refused".to_owned());
        let down = imds_error(&down, None).reply(None);
        assert_eq!(down.status, 503);
        assert!(down.body.contains("connection refused"));
    }

    #[test]
    fn an_unknown_identity_is_named_as_it_was_asked_for_and_no_other_is() {
        let id = "aaaaaaaa-1111-2222-3333-444444444444";
        let selector = IdentitySelector::ClientId(id.parse().unwrap());
        let error = NodeError::new(NodeErrorCode::IdentityNotFound, "the pod has identity other");
        let failure = Failure::Node { error, pending: false };
        let body = |asked| imds_error(&failure, asked).reply(Some("c")).body;
        let named = r#"{"error":"invalid_request","error_description":"Identity not found: client id aaaaaaaa-1111-2222-3333-444444444444 is not assigned to this pod. Correlation ID: c"}"#;
        assert_eq!(body(Some(&selector)), named);
        let default = r#"{"error":"invalid_request","error_description":"Identity not found. Correlation ID: c"}"#;
        assert_eq!(body(None), default);
    }
}
