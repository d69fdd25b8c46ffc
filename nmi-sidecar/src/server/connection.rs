//! One connection: request after request, each answered with one write.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::head::{Progress, Scan, Verdict};
use super::seats::{Guest, Phase};
use crate::imds::{Connection, Content, Frame, Reply};
use crate::service::Service;

/// Request line and headers together.
const LONGEST_HEAD: usize = 16 * 1024;

/// What is read at a time; a usual request fits.
const PIECE: usize = 1024;

/// How much of a bad request is discarded, so that the client gets to read the answer.
const MOST_DISCARDED: usize = 256 * 1024;

struct Conversation<'a> {
    stream: TcpStream,
    guest: &'a Guest,
    service: &'a Service,
    received: Vec<u8>,
    answer: Vec<u8>,
}

/// Serves a connection until one side has enough.
pub(super) async fn run(stream: TcpStream, guest: Guest, service: Arc<Service>) {
    let mut conversation = Conversation {
        stream,
        guest: &guest,
        service: &service,
        received: Vec::with_capacity(PIECE),
        answer: Vec::new(),
    };
    // Clients come and go; one that says nothing or breaks off is no error.
    tokio::select! {
        biased;
        _ = conversation.hold() => {}
        () = guest.asked_to_leave() => {}
    }
}

impl Conversation<'_> {
    async fn hold(&mut self) -> io::Result<()> {
        loop {
            let Some(verdict) = self.next_request().await? else { return Ok(()) };
            let begun = Instant::now();
            self.guest.enter(Phase::Busy, begun);
            let connection = verdict.connection;
            let (content, request) = (verdict.content, verdict.request);
            let reply = self.service.answer(request, begun).await;
            self.send(&reply, connection, content).await?;
            if connection == Connection::Close {
                return self.hang_up().await;
            }
        }
    }

    /// The next request; none when the client has left.
    async fn next_request(&mut self) -> io::Result<Option<Verdict>> {
        let mut scan = Scan::default();
        let mut begun = false;
        loop {
            match scan.advance(&self.received) {
                Progress::Complete(length) if length <= LONGEST_HEAD => {
                    let verdict = Verdict::of(&self.received[..length], self.service.hosts());
                    self.received.drain(..length);
                    return Ok(Some(verdict));
                }
                Progress::Malformed => {
                    return Ok(Some(Verdict::malformed("Lines must end with CR and LF")));
                }
                _ if self.received.len() > LONGEST_HEAD => {
                    return Ok(Some(Verdict::malformed("The request head is too long")));
                }
                _ => {}
            }
            if !begun && !self.received.is_empty() {
                begun = true;
                self.guest.enter(Phase::Reading, Instant::now());
            }
            self.received.reserve(PIECE);
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn send(
        &mut self,
        reply: &Reply,
        connection: Connection,
        content: Content,
    ) -> io::Result<()> {
        self.answer.clear();
        self.service.dates().with(SystemTime::now(), |date| {
            reply.write(Frame { connection, content, date }, &mut self.answer);
        });
        let written = match self.stream.try_write(&self.answer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            written => written?,
        };
        if written < self.answer.len() {
            self.guest.enter(Phase::Flushing, Instant::now());
            self.stream.write_all(&self.answer[written..]).await?;
        }
        self.guest.enter(Phase::Idle, Instant::now());
        Ok(())
    }

    /// Closes without destroying the answer: a socket that is closed with unread bytes in it resets
    /// the connection, and the client may lose what it has not read yet.
    async fn hang_up(&mut self) -> io::Result<()> {
        self.guest.enter(Phase::Flushing, Instant::now());
        self.stream.shutdown().await?;
        let mut discarded = 0;
        while discarded < MOST_DISCARDED {
            self.received.clear();
            match self.stream.read_buf(&mut self.received).await? {
                0 => break,
                read => discarded += read,
            }
        }
        Ok(())
    }
}
