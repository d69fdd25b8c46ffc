//! Brings two ports of the cluster's namespaces to this machine's loopback, so that kubectl and tests
//! need not enter a namespace.
//!
//! It binds in the namespace it is started in, then moves into another and connects from there.
//! Nothing of the cluster becomes reachable from outside the machine.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

const CONNECT: Duration = Duration::from_secs(5);

/// `<address here>=<address there>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Bound on loopback.
    pub listen: SocketAddr,
    /// Connected to, from inside the namespace.
    pub target: SocketAddr,
}

impl FromStr for Rule {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (listen, target) = text.split_once('=').context("expected LISTEN=TARGET")?;
        let listen: SocketAddr = listen.parse().context("LISTEN is no address")?;
        if !listen.ip().is_loopback() {
            bail!("{listen} is not on loopback: the cluster is for this machine alone");
        }
        Ok(Self { listen, target: target.parse().context("TARGET is no address")? })
    }
}

/// Forwards until it is killed. The calling process must have one thread only.
pub fn run(netns: &Path, rules: &[Rule]) -> Result<()> {
    let mut bound = Vec::new();
    for rule in rules {
        let listener = bind(rule.listen)?;
        listener.set_nonblocking(true)?;
        bound.push((listener, rule.target));
    }
    let namespace =
        File::open(netns).with_context(|| format!("no namespace {}", netns.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter {}", netns.display()))?;
    // After setns: threads that existed before would stay outside.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut serving = tokio::task::JoinSet::new();
        for (listener, target) in bound {
            serving.spawn(serve(tokio::net::TcpListener::from_std(listener)?, target));
        }
        match serving.join_next().await {
            Some(ended) => ended?,
            None => bail!("nothing to forward"),
        }
    })
}

/// Fails if another program has the port.
pub fn bind(listen: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(listen)
        .with_context(|| format!("cannot listen on {listen}: end the program that uses the port"))
}

async fn serve(listener: tokio::net::TcpListener, target: SocketAddr) -> Result<()> {
    loop {
        let (client, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: some will be free soon.
                eprintln!("cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        tokio::spawn(async move {
            if let Err(error) = forward(client, target).await {
                eprintln!("cannot reach {target}: {error}");
            }
        });
    }
}

async fn forward(mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut server = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await??;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // Either side may hang up as it likes.
    let _ = copy_bidirectional(&mut client, &mut server).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn only_loopback_is_listened_on() {
        let rule: Rule = "127.0.0.1:16443=10.77.0.1:6443".parse().unwrap();
        assert_eq!(rule.listen.port(), 16443);
        assert_eq!(rule.target.to_string(), "10.77.0.1:6443");
        for wrong in ["0.0.0.0:16443=127.0.0.1:6443", "127.0.0.1:1", "x=y", "127.0.0.1:1=host:2"] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_end_of_one_side_is_passed_on() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        let entry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = entry.local_addr().unwrap();
        let serving = tokio::spawn(serve(entry, target));
        let echo = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            stream.write_all(&received).await.unwrap();
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "hello");
        echo.await.unwrap();
        serving.abort();
    }
}
