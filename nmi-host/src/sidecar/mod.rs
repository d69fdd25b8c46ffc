//! The endpoint for sidecars: `api::node_api` over TLS. Every request is authenticated by its
//! bearer token before anything else of it is looked at.

#[cfg(test)]
mod tests;

use std::time::Duration;

use api::node_api::{
    ASSIGNMENT_PATH, Assignment, MAX_WAIT_SECONDS, NodeError, NodeErrorCode, TOKEN_PATH,
    TokenRequest, TokenResponse,
};
use api::{CorrelationId, IdentitySelector, TokenHash};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::time::Instant;

use crate::authn::Authenticator;
use crate::broker::{Ask, Broker};
use crate::caller::Caller;
use crate::correlation::correlation_id;
use crate::metrics::{HostMetrics, Operation};
use crate::mint::Resource;
use crate::serve::Peer;

/// What the endpoint works with.
#[derive(Clone)]
pub(crate) struct SidecarApi {
    /// Who calls.
    pub(crate) authenticator: Authenticator,
    /// What they get.
    pub(crate) broker: Broker,
    /// What is counted.
    pub(crate) metrics: HostMetrics,
}

/// Resource ids and resources are a few hundred bytes each.
const MAX_BODY_BYTES: usize = 8 * 1024;

/// For an identity that is being attached. A sidecar gives one call ten seconds and then asks
/// again; an answer in time tells it why it has to wait.
const PATIENCE: Duration = Duration::from_secs(8);

/// For a whole call. What a sidecar does not wait for goes on, and its next call finds the result.
const DEADLINE: Duration = Duration::from_secs(28);

// === impl SidecarApi ===

impl SidecarApi {
    /// The routes.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route(TOKEN_PATH, post(token))
            .route(ASSIGNMENT_PATH, get(assignment))
            .fallback(no_such_route)
            .method_not_allowed_fallback(no_such_route)
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(self)
    }

    async fn token(
        &self,
        caller: &Caller,
        correlation: CorrelationId,
        body: &[u8],
    ) -> Result<TokenResponse, NodeError> {
        let bad = |text: String| NodeError::new(NodeErrorCode::BadRequest, text);
        let request: TokenRequest = serde_json::from_slice(body)
            .map_err(|error| bad(format!("the body is not a token request: {error}")))?;
        let selector = request
            .identity
            .as_ref()
            .map(IdentitySelector::try_from)
            .transpose()
            .map_err(|error| bad(format!("the identity cannot be read: {error}")))?;
        let resource: Resource =
            request.resource.parse().map_err(|error| bad(format!("{error}")))?;
        let rejected = request
            .token_sha256_to_refresh
            .map(|text| text.parse::<TokenHash>())
            .transpose()
            .map_err(|error| bad(format!("tokenSha256ToRefresh: {error}")))?;
        let assertion = request.assertion;
        let ask = Ask { resource, selector, patience: PATIENCE, assertion, rejected, correlation };
        self.broker.token(caller, &ask).await
    }

    fn answer<T: Serialize>(
        &self,
        (operation, begun): (Operation, Instant),
        outcome: Result<T, NodeError>,
    ) -> Response {
        let error = outcome.as_ref().err().map(|error| error.code);
        self.metrics.sidecar_answered(operation, error, begun.elapsed());
        let mut response = match outcome {
            Ok(value) => Json(value).into_response(),
            Err(error) => error_response(&error),
        };
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

async fn token(
    State(api): State<SidecarApi>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let begun = Instant::now();
    let answer = within_deadline(async {
        let caller = api.authenticator.caller(&headers, peer.ip()).await?;
        let body = body.map_err(|_| {
            NodeError::new(NodeErrorCode::BadRequest, "the body cannot be read or is too long")
        })?;
        api.token(&caller, correlation_id(&headers), &body).await
    });
    let answer = answer.await;
    api.answer((Operation::Token, begun), answer)
}

async fn assignment(
    State(api): State<SidecarApi>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let begun = Instant::now();
    let answer = async {
        let caller = api.authenticator.caller(&headers, peer.ip()).await?;
        let wait = wait(query.as_deref().unwrap_or_default())?;
        let assignment: Assignment = api.broker.assignment(&caller.pod, wait).await?;
        Ok(assignment)
    };
    let answer = answer.await;
    api.answer((Operation::Assignment, begun), answer)
}

/// `wait=<seconds>`, at most what is granted; nothing is no wait.
fn wait(query: &str) -> Result<Duration, NodeError> {
    let bad = || NodeError::new(NodeErrorCode::BadRequest, "expected ?wait=<seconds>");
    let mut seconds = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "wait" || seconds.is_some() {
            return Err(bad());
        }
        seconds = Some(value.parse::<u64>().map_err(|_| bad())?);
    }
    Ok(Duration::from_secs(seconds.unwrap_or(0).min(MAX_WAIT_SECONDS)))
}

async fn within_deadline<T>(
    answer: impl Future<Output = Result<T, NodeError>>,
) -> Result<T, NodeError> {
    tokio::time::timeout(DEADLINE, answer).await.unwrap_or_else(|_| {
        Err(NodeError {
            code: NodeErrorCode::Unavailable,
            message: "the token could not be had in time; try again".to_owned(),
            retry_after: Some(1),
        })
    })
}

async fn no_such_route() -> Response {
    let text = format!("there is only POST {TOKEN_PATH} and GET {ASSIGNMENT_PATH}");
    let error = NodeError::new(NodeErrorCode::BadRequest, text);
    (StatusCode::NOT_FOUND, Json(error)).into_response()
}

fn error_response(error: &NodeError) -> Response {
    let status =
        StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(error)).into_response();
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
