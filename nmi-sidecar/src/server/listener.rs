//! Accepts connections until shutdown, and then as long as somebody is still there.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use runtime::Shutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::connection;
use super::seats::{Patience, Seats};
use crate::service::Service;

/// The server's bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// From the first byte of a head to its end.
    pub head: Duration,
    /// Between an answer and the next request.
    pub idle: Duration,
    /// Until a client has taken an answer.
    pub flush: Duration,
    /// How long connections are served after shutdown was asked for.
    pub drain: Duration,
}

/// What a connection gets that finds no seat.
const FULL: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\n\
    retry-after: 1\r\ncontent-length: 92\r\nconnection: close\r\n\r\n\
    {\"error\":\"too_many_requests\",\"error_description\":\"Too many connections at once in this pod\"}";

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            head: Duration::from_secs(5),
            idle: Duration::from_secs(75),
            flush: Duration::from_secs(10),
            drain: Duration::from_secs(5),
        }
    }
}

/// Serves until shutdown. Applications end before their sidecar does, so that usually nobody is
/// connected by then and this returns at once.
pub async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    limits: Limits,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let seats = Seats::new(limits.connections);
    let accepting = accept(&listener, &service, &seats, limits);
    tokio::pin!(accepting);
    tokio::select! {
        () = &mut accepting => {}
        () = shutdown.begun() => {}
    }
    let everybody_gone = async {
        while !seats.is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let drained = async {
        tokio::select! {
            () = &mut accepting => {}
            () = everybody_gone => {}
        }
    };
    drop(timeout(limits.drain, drained).await);
    Ok(())
}

/// Never returns.
async fn accept(listener: &TcpListener, service: &Arc<Service>, seats: &Seats, limits: Limits) {
    let patience = Patience { idle: limits.idle, reading: limits.head, flushing: limits.flush };
    let mut round = interval(Duration::from_secs(1));
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                // An idle sidecar does not wake up.
                _ = round.tick(), if !seats.is_empty() => seats.dismiss(patience),
            }
        };
        match accepted {
            Ok((stream, _)) => admit(stream, number, service, seats),
            Err(error) => {
                tracing::warn!(%error, "Cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn admit(stream: TcpStream, number: u64, service: &Arc<Service>, seats: &Seats) {
    // Else Nagle and delayed acknowledgements cost 40 ms a request.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "A connection was gone before it was served");
        return;
    }
    match seats.admit(number) {
        Some(guest) => drop(tokio::spawn(connection::run(stream, guest, service.clone()))),
        // The socket's buffer is empty: the answer fits or the client has gone.
        None => drop(stream.try_write(FULL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_a_full_house_is_as_long_as_it_says() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
