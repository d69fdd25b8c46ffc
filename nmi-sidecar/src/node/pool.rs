//! Connections to the agent: kept for the next call, replaced without a word when they have ended.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::trust::{Trust, TrustError};
use crate::args::NodeConfig;

/// TCP and TLS together. The agent is on this very node.
const CONNECT: Duration = Duration::from_secs(2);

/// A kept connection costs both sides memory, and a new one a few milliseconds.
const IDLE: Duration = Duration::from_secs(30);

const LONGEST_ANSWER: usize = 64 * 1024;

/// Connections to one address.
pub(super) struct Pool {
    node: NodeConfig,
    trust: Trust,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum PoolError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("no connection within {CONNECT:?}")]
    ConnectTimeout,
    #[error("the connection broke")]
    Broke(#[source] hyper::Error),
    #[error("the answer cannot be read")]
    Answer(#[source] Box<dyn Error + Send + Sync>),
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(node: NodeConfig) -> Self {
        let trust = Trust::new(node.ca_file.clone());
        Self { node, trust, idle: Mutex::default() }
    }

    /// Sends a request that may be repeated.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, PoolError> {
        if let Some(mut sender) = self.take() {
            match exchange(&mut sender, request.clone()).await {
                Ok(response) => {
                    self.keep(sender);
                    return Ok(response);
                }
                // The agent was restarted, or closed the connection at this very moment.
                Err(error) => {
                    tracing::debug!(%error, "A kept connection had ended");
                    self.idle.lock().clear();
                }
            }
        }
        let mut sender = self.connect().await?;
        let response = exchange(&mut sender, request).await?;
        self.keep(sender);
        Ok(response)
    }

    /// Closes what has not been used for a while.
    pub(super) fn tidy(&self) {
        self.idle.lock().retain(|idle| idle.since.elapsed() < IDLE && !idle.sender.is_closed());
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        std::iter::from_fn(|| idle.pop())
            .map(|idle| idle.sender)
            .find(|sender| !sender.is_closed() && sender.is_ready())
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        if !sender.is_closed() {
            self.idle.lock().push(Idle { sender, since: Instant::now() });
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, PoolError> {
        let config = self.trust.config()?;
        let handshake = async {
            let stream = TcpStream::connect(self.node.address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(config).connect(self.node.server_name.clone(), stream).await
        };
        let stream = timeout(CONNECT, handshake)
            .await
            .map_err(|_| PoolError::ConnectTimeout)?
            .map_err(PoolError::Connect)?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(16 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(PoolError::Broke)?;
        // Ends with the sender or the peer; its errors reach whoever sends.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, PoolError> {
    let response = sender.send_request(request).await.map_err(PoolError::Broke)?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, LONGEST_ANSWER).collect().await.map_err(PoolError::Answer)?;
    // The connection takes the next request when its task has seen the end of this answer.
    drop(sender.ready().await);
    Ok(Response::from_parts(head, body.to_bytes()))
}
