//! Proof that the rules work: connections are made, and it is seen where they arrive.
//!
//! Rules that are listed may still be without effect, for example behind another interception that
//! takes the packets first, or in the backend that this kernel does not evaluate.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::connections;
use crate::rules::Redirect;

/// What our listener must receive, and send back reversed.
type Nonce = [u8; 16];

/// What the connections showed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    /// There was no connection at all.
    #[error("no connection to {address}")]
    NotConnected {
        address: SocketAddrV4,
        #[source]
        source: io::Error,
    },
    /// There was one, with somebody else.
    #[error("a connection to the metadata address did not arrive at 127.0.0.1:{port}")]
    Elsewhere { port: u16 },
    /// It arrived and broke.
    #[error("the redirected connection broke")]
    Broken(#[source] io::Error),
    /// An address that must be out of reach is not.
    #[error("a connection to {address} was accepted and should have been refused")]
    Accepted { address: SocketAddrV4 },
    /// Neither accepted nor refused: the rejection is not what answered.
    #[error("a connection to {address} should have been refused at once")]
    NotRefused {
        address: SocketAddrV4,
        #[source]
        source: io::Error,
    },
    /// Our end could not be set up.
    #[error("cannot listen on 127.0.0.1:{port}")]
    Listen {
        port: u16,
        #[source]
        source: io::Error,
    },
}

/// Makes sure that connections go where they should; each may take `timeout`.
pub(crate) fn verify(redirect: &Redirect, timeout: Duration) -> Result<(), VerifyError> {
    arrives(redirect.metadata, redirect.to_port, timeout)?;
    redirect.refused().into_iter().try_for_each(|address| is_refused(address, timeout))
}

/// A connection to `metadata` must arrive at our `port` and be answered from there.
fn arrives(metadata: SocketAddrV4, port: u16, timeout: Duration) -> Result<(), VerifyError> {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(listener) => Some(listener),
        // the container was run again beside a sidecar that is up already
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
        Err(source) => return Err(VerifyError::Listen { port, source }),
    };
    let client = TcpStream::connect_timeout(&SocketAddr::V4(metadata), timeout)
        .map_err(|source| VerifyError::NotConnected { address: metadata, source })?;
    match listener {
        Some(listener) => exchange(listener, client, timeout),
        None => is_to(&client, port),
    }
}

/// Sends a nonce; `listener` must get it, and its answer must come back.
fn exchange(
    listener: TcpListener,
    mut client: TcpStream,
    timeout: Duration,
) -> Result<(), VerifyError> {
    let port = listener.local_addr().map_err(VerifyError::Broken)?.port();
    let nonce = nonce().map_err(VerifyError::Broken)?;
    client.set_read_timeout(Some(timeout)).map_err(VerifyError::Broken)?;
    client.set_write_timeout(Some(timeout)).map_err(VerifyError::Broken)?;

    let (tell, heard) = mpsc::channel();
    thread::spawn(move || answer_all(&listener, &tell, timeout));
    client.write_all(&nonce).map_err(VerifyError::Broken)?;
    let deadline = Instant::now() + timeout;
    loop {
        match heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(received) if received == nonce => break,
            // an application's call, when the container was run again beside it
            Ok(_) => {}
            Err(_) => return Err(VerifyError::Elsewhere { port }),
        }
    }

    let mut answer = Nonce::default();
    client.read_exact(&mut answer).map_err(VerifyError::Broken)?;
    if answer != reversed(nonce) {
        return Err(VerifyError::Elsewhere { port });
    }
    Ok(())
}

/// Answers every visitor, each in its own time: one that says nothing must not hold up the nonce.
///
/// Never returns by itself; the process ends soon.
fn answer_all(listener: &TcpListener, tell: &mpsc::Sender<Nonce>, timeout: Duration) {
    for visitor in listener.incoming().flatten() {
        let tell = tell.clone();
        thread::spawn(move || answer(visitor, timeout).map(|received| tell.send(received)));
    }
}

/// Sends back what was received, reversed.
fn answer(mut visitor: TcpStream, timeout: Duration) -> io::Result<Nonce> {
    visitor.set_read_timeout(Some(timeout))?;
    visitor.set_write_timeout(Some(timeout))?;
    let mut received = Nonce::default();
    visitor.read_exact(&mut received)?;
    visitor.write_all(&reversed(received))?;
    Ok(received)
}

/// Somebody else listens on `port`: the kernel must say that our connection is with them.
fn is_to(client: &TcpStream, port: u16) -> Result<(), VerifyError> {
    let here = client.local_addr().map_err(VerifyError::Broken)?;
    let sidecar = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    match here {
        SocketAddr::V4(here)
            if connections::exists(sidecar, here).map_err(VerifyError::Broken)? =>
        {
            Ok(())
        }
        _ => Err(VerifyError::Elsewhere { port }),
    }
}

/// Refused, and not merely unanswered: applications must not wait for what they never get.
fn is_refused(address: SocketAddrV4, timeout: Duration) -> Result<(), VerifyError> {
    match TcpStream::connect_timeout(&SocketAddr::V4(address), timeout) {
        Ok(_) => Err(VerifyError::Accepted { address }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(source) => Err(VerifyError::NotRefused { address, source }),
    }
}

/// Random, so that no other listener can know it.
fn nonce() -> io::Result<Nonce> {
    let mut nonce = Nonce::default();
    std::fs::File::open("/dev/urandom")?.read_exact(&mut nonce)?;
    Ok(nonce)
}

fn reversed(mut nonce: Nonce) -> Nonce {
    nonce.reverse();
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(300);

    fn listener() -> (TcpListener, SocketAddrV4) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("not IPv4") };
        (listener, address)
    }

    #[test]
    fn a_connection_that_arrives_is_proof() {
        let (listener, address) = listener();
        let client = TcpStream::connect(address).unwrap();
        exchange(listener, client, TIMEOUT).unwrap();
    }

    #[test]
    fn a_visitor_that_says_nothing_or_something_else_does_not_disturb() {
        let (listener, address) = listener();
        let _silent = TcpStream::connect(address).unwrap();
        let mut other = TcpStream::connect(address).unwrap();
        other.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let client = TcpStream::connect(address).unwrap();
        exchange(listener, client, TIMEOUT).unwrap();
    }

    #[test]
    fn a_connection_with_anybody_else_is_none() {
        let (_other, other_address) = listener();
        let (listener, address) = listener();
        let client = TcpStream::connect(other_address).unwrap();
        let error = exchange(listener, client, TIMEOUT).unwrap_err();
        assert!(matches!(error, VerifyError::Elsewhere { port } if port == address.port()));
    }

    #[test]
    fn a_busy_port_is_judged_by_the_kernels_table() {
        let (_sidecar, sidecar) = listener();
        let (_other, other) = listener();
        is_to(&TcpStream::connect(sidecar).unwrap(), sidecar.port()).unwrap();
        let error = is_to(&TcpStream::connect(other).unwrap(), sidecar.port()).unwrap_err();
        assert!(matches!(error, VerifyError::Elsewhere { .. }), "{error}");
    }

    #[test]
    fn only_a_refusal_is_a_refusal() {
        let (listener, address) = listener();
        let error = is_refused(address, TIMEOUT).unwrap_err();
        assert!(matches!(error, VerifyError::Accepted { .. }), "{error}");
        drop(listener);
        is_refused(address, TIMEOUT).unwrap();
    }
}
