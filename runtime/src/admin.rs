//! The plain-HTTP port for probes and metrics: `/livez`, `/readyz`, `/metrics` and what a process
//! adds. Liveness depends on nothing but the process; readiness is a set of named latches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::RwLock;
use tokio::net::TcpListener;

use crate::bounded::{Bounded, Bounds};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The named conditions under which the process can do its work. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<RwLock<BTreeMap<&'static str, Arc<AtomicBool>>>>);

/// One named condition of a [`Readiness`]; not met until [`Latch::set`].
#[derive(Clone, Debug)]
pub struct Latch(Arc<AtomicBool>);

/// The admin port of a process.
#[derive(Clone, Debug)]
pub struct Admin {
    metrics: Metrics,
    readiness: Readiness,
}

// === impl Readiness ===

impl Readiness {
    /// Adds a condition that is not met yet.
    pub fn latch(&self, name: &'static str) -> Latch {
        let met = Arc::new(AtomicBool::new(false));
        self.0.write().insert(name, met.clone());
        Latch(met)
    }

    /// The conditions that are not met.
    pub fn missing(&self) -> Vec<&'static str> {
        let latches = self.0.read();
        latches.iter().filter(|(_, met)| !met.load(Ordering::Acquire)).map(|(n, _)| *n).collect()
    }
}

// === impl Latch ===

impl Latch {
    /// Says whether the condition is met.
    pub fn set(&self, met: bool) {
        self.0.store(met, Ordering::Release);
    }

    /// Whether the condition is met.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

// === impl Admin ===

impl Admin {
    /// The port's content.
    pub fn new(metrics: Metrics, readiness: Readiness) -> Self {
        Self { metrics, readiness }
    }

    /// The routes; a process may merge its own.
    pub fn router(self) -> Router {
        Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let missing = admin.readiness.missing();
    if missing.is_empty() {
        "ok\n".into_response()
    } else {
        let text = format!("waiting for: {}\n", missing.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], admin.metrics.text()).into_response()
}

/// The port is open to the whole network of the cluster, in every injected pod. Who asks are one
/// kubelet and a few scrapers.
const BOUNDS: Bounds = Bounds { connections: 128, per_peer: 16, life: Duration::from_secs(300) };

/// Serves plain HTTP on a bound listener until shutdown.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    axum::serve(Bounded::new(listener, BOUNDS), router)
        .with_graceful_shutdown(async move { shutdown.begun().await })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing_and_liveness_does_not_care() {
        let readiness = Readiness::default();
        let (watch, cert) = (readiness.latch("watch"), readiness.latch("certificate"));
        let admin = Admin::new(Metrics::new("test", "0"), readiness);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::manual();
        let server = tokio::spawn(serve(listener, admin.router(), shutdown.clone()));

        watch.set(true);
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("waiting for: certificate\n"), "{answer}");
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        cert.set(true);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.contains("podidentity_build_info"));

        shutdown.begin();
        server.await.unwrap().unwrap();
    }
}
