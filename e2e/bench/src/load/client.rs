//! One connection of the load: sends what it is told and waits for the answer without blocking.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};
use rustls::{ClientConnection, StreamOwned};

use super::response;
use super::{Caller, Connections, Plan, Server};

/// Larger than any answer here.
const BUFFER: usize = 16 * 1024;

pub(super) struct Client {
    server: Server,
    caller: Caller,
    connections: Connections,
    wire: Option<Wire>,
    next: usize,
    answered: usize,
    sent: Instant,
    received: Box<[u8]>,
    filled: usize,
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

// === impl Client ===

impl Client {
    pub(super) fn new(plan: &Plan, caller: Caller) -> Self {
        Self {
            server: plan.server.clone(),
            caller,
            connections: plan.connections,
            wire: None,
            next: 0,
            answered: 0,
            sent: Instant::now(),
            received: vec![0; BUFFER].into_boxed_slice(),
            filled: 0,
        }
    }

    /// Connects, handshake included, and has `epoll` say `index` when there is something to read.
    pub(super) fn connect(&mut self, epoll: &Epoll, index: usize) -> Result<()> {
        let stream = open(&self.server, self.caller.source)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        epoll.add(&stream, event).context("cannot watch a connection")?;
        self.wire = Some(match &self.server.tls {
            None => {
                stream.set_nonblocking(true)?;
                Wire::Plain(stream)
            }
            Some((config, name)) => {
                let connection = ClientConnection::new(config.clone(), name.clone())?;
                let mut tls = StreamOwned::new(connection, stream);
                while tls.conn.is_handshaking() {
                    tls.conn.complete_io(&mut tls.sock).context("the TLS handshake failed")?;
                }
                tls.sock.set_nonblocking(true)?;
                Wire::Tls(Box::new(tls))
            }
        });
        Ok(())
    }

    /// Sends the next request of the script.
    pub(super) fn send(&mut self, epoll: &Epoll, index: usize) -> Result<()> {
        self.sent = Instant::now();
        if self.wire.is_none() {
            self.connect(epoll, index)?;
        }
        let request = self.caller.script[self.next].clone();
        self.next = (self.next + 1) % self.caller.script.len();
        self.filled = 0;
        let wire = self.wire.as_mut().context("there is no connection")?;
        // A request is smaller than an empty socket buffer.
        wire.write_all(&request).context("the server does not take the request")
    }

    /// Takes what has come; how long the request took if the answer is complete with it.
    pub(super) fn receive(&mut self) -> Result<Option<Duration>> {
        loop {
            let wire = self.wire.as_mut().context("there is no connection")?;
            match wire.read(&mut self.received[self.filled..]) {
                Ok(0) => bail!("the server closed the connection before its answer was complete"),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error).context("the connection broke"),
            }
            let received = &self.received[..self.filled];
            let Some(length) = response::length(received)? else { continue };
            ensure!(length <= BUFFER, "the answer is too long to be a token");
            if self.filled >= length {
                let latency = self.sent.elapsed();
                ensure!(self.filled == length, "the server sent more than one answer");
                if self.connections == Connections::New {
                    self.wire = None;
                }
                self.answered += 1;
                return Ok(Some(latency));
            }
        }
    }

    /// Whether every request of the script has been answered once.
    pub(super) fn is_warm(&self) -> bool {
        self.answered >= self.caller.script.len()
    }
}

impl Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }
}

/// A connected socket that still blocks: on loopback a connection is there at once.
fn open(server: &Server, source: Option<IpAddr>) -> Result<TcpStream> {
    let stream = match source {
        None => TcpStream::connect(server.address),
        Some(source) => from(source, server),
    };
    let stream = stream.context("cannot connect to the server")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn from(source: IpAddr, server: &Server) -> io::Result<TcpStream> {
    let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let own = SockaddrStorage::from(std::net::SocketAddr::new(source, 0));
    socket::bind(socket.as_raw_fd(), &own)?;
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(server.address))?;
    Ok(TcpStream::from(socket))
}
