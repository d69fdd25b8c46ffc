//! The node agent as sidecars see it: says that the identity is assigned and answers token calls,
//! after the time that Azure would take.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use api::node_api::{ASSIGNMENT_PATH, TOKEN_PATH};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::Fakes;
use super::authority::Authority;
use super::tls::TlsListener;
use super::token::{Claims, Token};

/// A running agent.
#[derive(Clone, Debug)]
pub(crate) struct NodeAgent {
    address: SocketAddr,
    state: Arc<Behaviour>,
}

#[derive(Debug)]
struct Behaviour {
    delay: Duration,
    token_calls: AtomicU64,
}

// === impl NodeAgent ===

impl NodeAgent {
    /// Starts one on a free port of loopback; `delay` is what a token call takes.
    pub(crate) fn start(fakes: &Fakes, authority: &Authority, delay: Duration) -> Result<Self> {
        let (tcp, address) = fakes.listen()?;
        let state = Arc::new(Behaviour { delay, token_calls: AtomicU64::new(0) });
        let router = Router::new()
            .route(TOKEN_PATH, post(token))
            .route(ASSIGNMENT_PATH, get(assignment))
            .with_state(state.clone());
        let acceptor = TlsAcceptor::from(authority.leaf()?.server()?);
        fakes.spawn(async move {
            drop(axum::serve(TlsListener { tcp, acceptor }, router).await);
        });
        Ok(Self { address, state })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many token calls there were.
    pub(crate) fn token_calls(&self) -> u64 {
        self.state.token_calls.load(Ordering::SeqCst)
    }
}

async fn token(
    State(state): State<Arc<Behaviour>>,
    Json(request): Json<Value>,
) -> impl IntoResponse {
    state.token_calls.fetch_add(1, Ordering::SeqCst);
    if !state.delay.is_zero() {
        tokio::time::sleep(state.delay).await;
    }
    let resource = request["resource"].as_str().unwrap_or_default().to_owned();
    let token = Token::new(&Claims { resource, ..Claims::default() });
    ([(header::CONTENT_TYPE, "application/json")], token.agent_body())
}

async fn assignment() -> Json<Value> {
    let identity = json!({"namespace": "team", "name": "identity-0", "assigned": true});
    Json(json!({"state": "assigned", "identities": [identity]}))
}
