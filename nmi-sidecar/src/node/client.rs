//! The two calls that the agent answers.

use std::error::Error;
use std::time::Duration;

use api::CorrelationId;
use api::node_api::{
    ASSIGNMENT_PATH, Assignment, CORRELATION_HEADER, NodeError, TOKEN_PATH, TokenRequest,
    TokenResponse,
};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::failure::Failure;
use super::pool::Pool;
use crate::args::NodeConfig;
use crate::metrics::{Call, UpstreamMetrics};

/// One attempt. The agent itself may have to wait for Azure; when it answers later than this, the
/// next attempt finds the token in its cache.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What an assignment call may take on top of the wait it asks for.
const ASSIGNMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Token calls at a time.
const TOKEN_CALLS: usize = 4;

/// A client of the agent.
pub struct NodeClient {
    node: NodeConfig,
    pool: Pool,
    token_calls: Semaphore,
    metrics: UpstreamMetrics,
}

// === impl NodeClient ===

impl NodeClient {
    /// A client; it connects when it is used.
    pub fn new(node: NodeConfig, metrics: UpstreamMetrics) -> Self {
        let pool = Pool::new(node.clone());
        Self { node, pool, token_calls: Semaphore::new(TOKEN_CALLS), metrics }
    }

    /// Asks for a token, under an id that both sides and Azure write down.
    pub async fn token(
        &self,
        request: &TokenRequest,
        correlation: &CorrelationId,
    ) -> Result<TokenResponse, Failure> {
        // Never closed, so that there is always a permit in the end.
        let _permit = self.token_calls.acquire().await.ok();
        let begun = Instant::now();
        let body = serde_json::to_vec(request).map_err(|error| {
            Failure::Unreachable(format!("cannot write a request to the node's agent: {error}"))
        })?;
        let request = Request::post(TOKEN_PATH)
            .header(header::CONTENT_TYPE, "application/json")
            .header(CORRELATION_HEADER, correlation.as_str());
        let answer = self.call(request, body, TOKEN_TIMEOUT).await;
        self.metrics.count(Call::Token, answer.as_ref().err(), begun.elapsed());
        answer
    }

    /// Asks which identities the pod has, and waits so long for an assigned one.
    pub async fn assignment(&self, wait: Duration) -> Result<Assignment, Failure> {
        let begun = Instant::now();
        let target = format!("{ASSIGNMENT_PATH}?wait={}", wait.as_secs());
        let request = Request::get(target)
            .header(CORRELATION_HEADER, CorrelationId::of_bits(rand::random()).as_str());
        let answer = self.call(request, Vec::new(), wait + ASSIGNMENT_TIMEOUT).await;
        self.metrics.count(Call::Assignment, answer.as_ref().err(), begun.elapsed());
        answer
    }

    /// Closes connections that are not used.
    pub fn tidy(&self) {
        self.pool.tidy();
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        request: http::request::Builder,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<T, Failure> {
        let address = self.node.address;
        let failed = |why: &dyn std::fmt::Display| {
            Failure::Unreachable(format!("cannot ask the node's agent at {address}: {why}"))
        };
        let request = request
            .header(header::HOST, self.node.server_name.to_str().as_ref())
            .header(header::AUTHORIZATION, self.bearer()?)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| failed(&error))?;
        let response = match timeout(limit, self.pool.send(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(failed(&chain(&error))),
            Err(_) => return Err(failed(&format!("no answer within {limit:?}"))),
        };
        let status = response.status();
        let unread = |_| failed(&format!("its answer with status {status} is not understood"));
        if status == StatusCode::OK {
            return serde_json::from_slice(response.body()).map_err(unread);
        }
        let error = serde_json::from_slice::<NodeError>(response.body()).map_err(unread)?;
        Err(error.into())
    }

    /// The pod's token as it is now: the kubelet replaces it every hour.
    fn bearer(&self) -> Result<HeaderValue, Failure> {
        let file = self.node.token_file.display();
        let token = std::fs::read_to_string(&self.node.token_file).map_err(|error| {
            Failure::Unreachable(format!("cannot read the service account token {file}: {error}"))
        })?;
        let bad = || Failure::Unreachable(format!("the service account token {file} is malformed"));
        let token = token.trim();
        if token.is_empty() {
            return Err(bad());
        }
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| bad())?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl std::fmt::Debug for NodeClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeClient").field("node", &self.node).finish_non_exhaustive()
    }
}

/// An error and its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
