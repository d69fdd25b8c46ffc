//! The TLS server, and how it ends without refusing calls that are still on their way.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use hyper_util::rt::TokioTimer;
use runtime::{Latch, Shutdown};
use rustls::ServerConfig;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open requests may take once no new connection is taken.
pub(crate) const OPEN_REQUESTS: Duration = Duration::from_secs(6);

/// How the server ends.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Says to the cluster whether to send calls here.
    pub ready: Latch,
    /// How long to go on after saying no: endpoints take a while to be told.
    pub delay: Duration,
}

/// Serves until shutdown, and then until it is drained.
pub async fn serve(
    listener: TcpListener,
    tls: ServerConfig,
    router: Router,
    drain: Drain,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let handle = Handle::<SocketAddr>::new();
    listener.set_nonblocking(true)?;
    let tls = RustlsConfig::from_config(Arc::new(tls));
    let mut server = axum_server::from_tcp_rustls(listener, tls)?.handle(handle.clone());
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    drain.ready.set(true);
    let serving = server.serve(router.into_make_service());
    let draining = async {
        shutdown.begun().await;
        drain.ready.set(false);
        tokio::time::sleep(drain.delay).await;
        handle.graceful_shutdown(Some(OPEN_REQUESTS));
        std::future::pending().await
    };
    tokio::select! {
        result = serving => result,
        never = draining => never,
    }
}
