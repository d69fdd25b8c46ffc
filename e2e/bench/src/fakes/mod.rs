//! What the measured programs talk to: small servers in this process that answer at once, or after
//! the time that they are told.

pub(crate) mod authority;
mod imds;
mod kube_api;
mod kube_objects;
mod node_agent;
mod tls;
pub(crate) mod token;

pub(crate) use imds::Imds;
pub(crate) use kube_api::{Cluster, KubeApi};
pub(crate) use node_agent::NodeAgent;

use std::net::{SocketAddr, TcpListener};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

/// Where the servers run. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Fakes(Runtime);

// === impl Fakes ===

impl Fakes {
    /// One thread for all: what is measured asks them little.
    pub(crate) fn start() -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Ok(Self(runtime.context("cannot start the fakes")?))
    }

    /// Runs a server.
    pub(crate) fn spawn(&self, server: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.spawn(server));
    }

    /// A free port on loopback for a server of this runtime.
    fn listen(&self) -> Result<(tokio::net::TcpListener, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let _here = self.0.enter();
        Ok((tokio::net::TcpListener::from_std(listener)?, address))
    }
}
