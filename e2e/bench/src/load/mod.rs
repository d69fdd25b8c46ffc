//! The load: a closed loop of requests that were written beforehand, on one thread, so that as
//! little as possible of the machine goes into asking.

mod client;
mod response;

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::summary::Latencies;
use client::Client;

/// Whom to ask, with what, how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Whom.
    pub(crate) server: Server,
    /// One for each connection.
    pub(crate) callers: Vec<Caller>,
    /// Requests at a time, at most one for each connection.
    pub(crate) in_flight: usize,
    /// Whether connections are kept.
    pub(crate) connections: Connections,
}

/// A server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// How its certificate is checked, if it has one.
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// One connection's end.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Its own address, if servers are to see different ones.
    pub(crate) source: Option<IpAddr>,
    /// The requests that it sends in turn, for ever.
    pub(crate) script: Vec<Rc<[u8]>>,
}

/// What happens to a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    /// It is used again.
    Kept,
    /// It is closed and a new one is opened; that belongs to the request's time.
    New,
}

/// How long to load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Before anything is counted.
    pub(crate) settle: Duration,
    /// While it is.
    pub(crate) measure: Duration,
}

/// What came of it; `S` is what the caller looked at when counting began and ended.
#[derive(Clone, Debug)]
pub(crate) struct Load<S> {
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// Of every request that was answered in this time.
    pub(crate) latencies: Latencies,
    /// Looked at when counting began.
    pub(crate) before: S,
    /// Looked at when it ended, all connections still open.
    pub(crate) after: S,
}

/// A server that is silent for so long is broken.
const PATIENCE: u16 = 10_000;

/// Loads the server. Any answer but 200 is an error: a fast refusal is no result.
pub(crate) fn run<S>(plan: &Plan, times: Times, look: impl Fn() -> Result<S>) -> Result<Load<S>> {
    let mut engine = Engine::new(plan)?;
    engine.drive(times.settle)?;
    engine.warm_up()?;
    engine.latencies = Latencies::default();
    let (begun, before) = (Instant::now(), look()?);
    engine.drive(times.measure)?;
    let (elapsed, after) = (begun.elapsed(), look()?);
    ensure!(engine.latencies.len() > 0, "no request was answered");
    Ok(Load { elapsed, latencies: engine.latencies, before, after })
}

/// One request on a connection of its own.
pub(crate) fn ask(stream: &mut TcpStream, request: &[u8]) -> Result<()> {
    stream.write_all(request)?;
    let mut received = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece)?;
        ensure!(count > 0, "the server closed the connection before its answer was complete");
        received.extend_from_slice(&piece[..count]);
        if response::length(&received)?.is_some_and(|length| received.len() >= length) {
            return Ok(());
        }
    }
}

struct Engine {
    epoll: Epoll,
    clients: Vec<Client>,
    idle: VecDeque<usize>,
    free: usize,
    latencies: Latencies,
}

// === impl Engine ===

impl Engine {
    fn new(plan: &Plan) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty()).context("cannot make an epoll")?;
        let clients = plan.callers.iter().map(|caller| Client::new(plan, caller.clone()));
        let clients: Vec<Client> = clients.collect();
        let mut engine = Self {
            epoll,
            idle: (0..clients.len()).collect(),
            free: plan.in_flight,
            latencies: Latencies::default(),
            clients,
        };
        if plan.connections == Connections::Kept {
            for (index, client) in engine.clients.iter_mut().enumerate() {
                client.connect(&engine.epoll, index)?;
            }
        }
        Ok(engine)
    }

    /// Keeps the server busy; requests that are under way at the end stay so.
    fn drive(&mut self, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        let mut events = vec![EpollEvent::empty(); self.clients.len().max(1)];
        while self.free > 0 && self.send_next()? {}
        while Instant::now() < end {
            let ready = self.epoll.wait(&mut events, EpollTimeout::from(PATIENCE))?;
            ensure!(ready > 0, "the server did not answer within {PATIENCE} ms");
            for event in &events[..ready] {
                let index = usize::try_from(event.data())?;
                let Some(latency) = self.clients[index].receive()? else { continue };
                self.latencies.record(latency);
                self.idle.push_back(index);
                self.free += 1;
                self.send_next()?;
            }
        }
        Ok(())
    }

    /// Goes on until every caller has had every answer of its script once.
    fn warm_up(&mut self) -> Result<()> {
        let begun = Instant::now();
        while !self.clients.iter().all(Client::is_warm) {
            let limit = Duration::from_millis(PATIENCE.into());
            ensure!(begun.elapsed() < limit, "some callers had no answer in {PATIENCE} ms");
            self.drive(Duration::from_millis(10))?;
        }
        Ok(())
    }

    /// The connection that has been idle longest asks; whether there was one.
    fn send_next(&mut self) -> Result<bool> {
        let Some(index) = self.idle.pop_front() else { return Ok(false) };
        self.free -= 1;
        self.clients[index].send(&self.epoll, index)?;
        Ok(true)
    }
}

// === impl Caller ===

impl Caller {
    /// A caller that sends one request again and again.
    pub(crate) fn of(request: &str) -> Self {
        Self { source: None, script: vec![Rc::from(request.as_bytes())] }
    }
}

#[cfg(test)]
mod tests;
