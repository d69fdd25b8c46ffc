//! One door: accepts connections, speaks TLS where it must, and goes away when told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::azure::Peer;
use crate::faults::{Down, Downs};
use crate::journal::Service;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Between attempts to take the address again, or to accept after the system had no descriptors.
const PAUSE: Duration = Duration::from_millis(20);

/// A door and what is behind it.
pub(crate) struct Door {
    pub(crate) service: Service,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) router: Router,
    pub(crate) downs: watch::Receiver<Downs>,
    pub(crate) applied: watch::Sender<Downs>,
    pub(crate) stop: CancellationToken,
}

/// Why a session with one client ended; the client knows, and nobody else needs to.
type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Door {
    /// Serves on `listener` until stopped.
    pub(crate) async fn run(mut self, listener: TcpListener) {
        let connections = TaskTracker::new();
        let mut listener = Some(listener);
        while !self.stop.is_cancelled() {
            let downs = *self.downs.borrow_and_update();
            let session = self.stop.child_token();
            if self.service.down(&downs) == Some(Down::Refuse) {
                drop(listener.take());
                self.applied.send_replace(downs);
                self.wait_for_change().await;
                continue;
            }
            let Some(open) = self.reopen(listener.take()).await else { break };
            self.applied.send_replace(downs);
            let refuse = self.accept_until_refused(&open, &connections, &session).await;
            listener = Some(open);
            if refuse {
                session.cancel();
            }
        }
        connections.close();
        connections.wait().await;
    }

    async fn wait_for_change(&mut self) {
        tokio::select! {
            _ = self.downs.changed() => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// The listener, or the same address taken again after the service was away.
    async fn reopen(&self, listener: Option<TcpListener>) -> Option<TcpListener> {
        if listener.is_some() {
            return listener;
        }
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return Some(listener),
                Err(error) => {
                    let service = self.service.as_str();
                    tracing::warn!(%error, service, "Cannot take the address again yet");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = self.stop.cancelled() => return None,
            }
        }
    }

    /// Accepts until stopped (false) or until the service has to refuse connections (true).
    /// Other changes of the faults are acknowledged without touching open connections.
    async fn accept_until_refused(
        &mut self,
        listener: &TcpListener,
        connections: &TaskTracker,
        session: &CancellationToken,
    ) -> bool {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return false,
                Ok(()) = self.downs.changed() => {
                    let downs = *self.downs.borrow();
                    if self.service.down(&downs) == Some(Down::Refuse) {
                        return true;
                    }
                    self.applied.send_replace(downs);
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let router = self.router.clone().layer(Extension(Peer(peer.ip().to_canonical())));
                        let tls = self.tls.clone();
                        connections.spawn(connection(stream, tls, router, session.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "Cannot accept a connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }
}

/// One connection. Errors are the client's: it went away, or does not speak the protocol.
async fn connection(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    session: CancellationToken,
) {
    let serve = async {
        stream.set_nodelay(true)?;
        match tls {
            None => speak(stream, router).await,
            Some(config) => {
                let handshake = TlsAcceptor::from(config).accept(stream);
                let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await??;
                speak(stream, router).await
            }
        }
    };
    let ended: Ended = tokio::select! {
        ended = serve => ended,
        () = session.cancelled() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "Connection ended early");
    }
}

async fn speak<S>(stream: S, router: Router) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await
        .map_err(Into::into)
}
