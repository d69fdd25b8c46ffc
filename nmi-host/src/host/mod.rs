//! The endpoint for processes on the node, such as CSI drivers: a pod's token by namespace and
//! name, on loopback. Whoever is on the node's network may ask for any pod of the node, as in
//! aad-pod-identity; what the endpoint can tell apart from that, it refuses.

mod answer;
mod request;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::node_api::{NodeError, NodeErrorCode, TokenResponse};
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderValue, header};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::caller::Caller;
use crate::crowd::Crowd;
use crate::metrics::HostMetrics;
use crate::watched::ObjectKey;
use answer::Refusal;

/// What the endpoint works with.
#[derive(Clone)]
pub(crate) struct HostApi {
    broker: Broker,
    metrics: HostMetrics,
    own: SocketAddr,
    places: Arc<Semaphore>,
    places_of_pods: Crowd<ObjectKey>,
}

/// Requests at a time; they may wait for an identity.
const AT_A_TIME: usize = 64;

/// Those among them for one pod: one whose identity is not there yet must not take all places.
const AT_A_TIME_FOR_A_POD: usize = 16;

/// aad-pod-identity held callers for up to 100 s; those that we know give up after 30.
const DEADLINE: Duration = Duration::from_secs(28);

// === impl HostApi ===

impl HostApi {
    /// The endpoint that listens on `own`.
    pub(crate) fn new(broker: Broker, metrics: HostMetrics, own: SocketAddr) -> Self {
        let places = Arc::new(Semaphore::new(AT_A_TIME));
        let places_of_pods = Crowd::new(AT_A_TIME_FOR_A_POD);
        Self { broker, metrics, own, places, places_of_pods }
    }

    /// One handler for every path: what is not documented is refused in one place.
    pub(crate) fn router(self) -> Router {
        Router::new().fallback(serve).with_state(self)
    }

    async fn token(&self, head: &Parts) -> Result<TokenResponse, Refusal> {
        let request = request::read(head, self.own)?;
        let _place = self.places.try_acquire().map_err(|_| Refusal::Busy)?;
        let _of_pod = self.places_of_pods.enter(request.pod.clone()).ok_or(Refusal::Busy)?;
        let answer = tokio::time::timeout(DEADLINE, async {
            let pod = self.broker.pod(&request.pod).await?;
            self.broker.token(&Caller::of_node(pod), &request.ask).await
        });
        let late = |_| {
            let text = "the token could not be had in time; try again";
            Err(NodeError::new(NodeErrorCode::Unavailable, text))
        };
        answer.await.unwrap_or_else(late).map_err(|error| {
            let (pod, correlation_id) = (&request.pod, &request.ask.correlation);
            let code = error.code.as_str();
            tracing::debug!(
                %correlation_id, pod.namespace, pod.name, code, %error,
                "No token for a process of the node"
            );
            Refusal::from(error)
        })
    }
}

async fn serve(State(api): State<HostApi>, request: Request) -> Response {
    let (head, _body) = request.into_parts();
    let begun = Instant::now();
    let outcome = api.token(&head).await;
    api.metrics.host_answered(outcome.as_ref().err().map(Refusal::outcome), begun.elapsed());
    let mut response = match outcome {
        Ok(token) => answer::token(&token),
        Err(refusal) => refusal.response(),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
