//! Accepts connections, plain or TLS, within limits, and serves them until shutdown.
//!
//! The limits are what keeps one pod from keeping the others out: so many connections in all, so
//! many from one address, so long for a handshake and for the head of a request. An address is
//! counted here and trusted for nothing.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use parking_lot::Mutex;
use runtime::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::metrics::HostMetrics;

/// The address of the other end of a connection, among a request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// In all.
    pub(crate) connections: usize,
    /// From one address.
    pub(crate) per_peer: usize,
}

/// A server before it runs.
pub(crate) struct Server {
    /// Bound already.
    pub(crate) listener: TcpListener,
    /// For TLS. Without it only the node itself is served.
    pub(crate) tls: Option<TlsAcceptor>,
    /// What answers.
    pub(crate) router: Router,
    /// How much at a time.
    pub(crate) limits: Limits,
    /// Where refused connections are counted.
    pub(crate) metrics: HostMetrics,
}

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// For the head of a request, and so the longest that an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Requests that are being answered at shutdown get so long to end.
const DRAIN: Duration = Duration::from_secs(5);

/// After a failed accept, which is a shortage of descriptors: do not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is connected.
#[derive(Clone, Debug, Default)]
struct Connections(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection that is counted until it is dropped.
struct Counted {
    connections: Connections,
    peer: IpAddr,
}

// === impl Server ===

impl Server {
    /// Serves until shutdown, then lets requests end for a moment.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), Infallible> {
        let graceful = GracefulShutdown::new();
        let connections = Connections::default();
        loop {
            let accepted = tokio::select! {
                () = shutdown.begun() => break,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "Cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if self.tls.is_none() && !peer.ip().is_loopback() {
                // Rules of another agent, or a sysctl and a static route, can send a pod's
                // connection to the node's loopback. It still comes from the pod's address.
                self.metrics.connection_refused();
                continue;
            }
            let Some(counted) = connections.count(peer.ip(), self.limits) else {
                self.metrics.connection_refused();
                continue;
            };
            let (tls, router) = (self.tls.clone(), self.router.clone());
            let watcher = graceful.watcher();
            tokio::spawn(async move {
                let _counted = counted;
                connection(stream, peer, tls, router, watcher).await;
            });
        }
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::debug!("Connections were cut off at shutdown");
        }
        Ok(())
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    watcher: Watcher,
) {
    // Answers are small and written at once: waiting to fill a packet only delays them.
    drop(stream.set_nodelay(true));
    let Some(tls) = tls else {
        return http(stream, peer, router, watcher).await;
    };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => http(stream, peer, router, watcher).await,
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake took too long"),
    }
}

async fn http<S>(stream: S, peer: SocketAddr, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "Connection ended");
    }
}

// === impl Connections ===

impl Connections {
    fn count(&self, peer: IpAddr, limits: Limits) -> Option<Counted> {
        let mut counts = self.0.lock();
        let total: usize = counts.values().sum();
        let own = counts.entry(peer).or_default();
        if total >= limits.connections || *own >= limits.per_peer {
            if *own == 0 {
                counts.remove(&peer);
            }
            return None;
        }
        *own += 1;
        Some(Counted { connections: self.clone(), peer })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.connections.0.lock();
        if let Some(own) = counts.get_mut(&self.peer) {
            *own -= 1;
            if *own == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_in_all_and_by_peer() {
        let limits = Limits { connections: 3, per_peer: 2 };
        let (connections, [a, b]) = (Connections::default(), [[10, 0, 0, 1], [10, 0, 0, 2]]);
        let count = |peer: [u8; 4]| connections.count(peer.into(), limits);
        let (first, second) = (count(a), count(a));
        assert!(first.is_some() && second.is_some());
        assert!(count(a).is_none(), "the third of one peer");
        let third = count(b);
        assert!(third.is_some());
        assert!(count(b).is_none(), "the fourth in all");
        drop((first, second));
        assert!(count(b).is_some());
        drop(third);
        assert!(connections.0.lock().is_empty(), "nothing is left behind");
    }
}
