//! A listener that takes so many connections and no more, in all and from one address, and ends
//! them after a while: what keeps a neighbour from using up the memory of a small process by
//! connecting, and from keeping the kubelet's probes out.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};

/// How many connections there may be, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// In all.
    pub(crate) connections: usize,
    /// From one address.
    pub(crate) per_peer: usize,
    /// Of one connection, idle or not.
    pub(crate) life: Duration,
}

/// A listener within bounds; what exceeds them is closed unanswered.
pub(crate) struct Bounded {
    listener: TcpListener,
    bounds: Bounds,
    taken: Taken,
}

/// A connection, which reads as ended when its life is over.
pub(crate) struct Guest {
    stream: TcpStream,
    life: Pin<Box<Sleep>>,
    taken: Taken,
    peer: IpAddr,
}

type Taken = Arc<Mutex<HashMap<IpAddr, usize>>>;

// === impl Bounded ===

impl Bounded {
    pub(crate) fn new(listener: TcpListener, bounds: Bounds) -> Self {
        Self { listener, bounds, taken: Taken::default() }
    }

    fn admit(&self, stream: TcpStream, peer: IpAddr) -> Option<Guest> {
        let mut taken = self.taken.lock();
        let own = taken.get(&peer).copied().unwrap_or(0);
        let all: usize = taken.values().sum();
        if all >= self.bounds.connections || own >= self.bounds.per_peer {
            return None;
        }
        taken.insert(peer, own + 1);
        let life = Box::pin(sleep(self.bounds.life));
        Some(Guest { stream, life, taken: self.taken.clone(), peer })
    }
}

impl Listener for Bounded {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            if let Some(guest) = self.admit(stream, address.ip()) {
                return (guest, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

// === impl Guest ===

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.life.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(own) = taken.get_mut(&self.peer) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    use super::*;

    /// A server that answers `ok`, within bounds; its address and what is taken of it.
    async fn server(bounds: Bounds) -> (SocketAddr, Taken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounded = Bounded::new(listener, bounds);
        let taken = bounded.taken.clone();
        let router = Router::new().route("/", get(|| async { "ok" }));
        tokio::spawn(async move { axum::serve(bounded, router).await.unwrap() });
        (address, taken)
    }

    async fn connect(from: &str, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(to).await.unwrap()
    }

    /// What a connection answers until it ends; nothing if it was not admitted.
    async fn ask(mut stream: TcpStream) -> String {
        let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        // One that was closed already may refuse the bytes.
        stream.write_all(request.as_bytes()).await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn one_address_cannot_keep_the_others_out() {
        let life = Duration::from_secs(600);
        let (address, _) = server(Bounds { connections: 3, per_peer: 2, life }).await;
        let mut held = Vec::new();
        for _ in 0..5 {
            held.push(connect("127.0.0.2", address).await);
        }
        assert_eq!(ask(connect("127.0.0.2", address).await).await, "", "too many of one address");
        assert!(ask(connect("127.0.0.3", address).await).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_connection_that_only_waits_is_ended() {
        let life = Duration::from_millis(50);
        let (address, taken) = server(Bounds { connections: 1, per_peer: 1, life }).await;
        let mut idle = connect("127.0.0.2", address).await;
        assert_eq!(idle.read(&mut [0]).await.unwrap(), 0, "the server closed it");
        let free = async {
            while !taken.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), free).await.expect("its place is free");
    }
}
