//! Puts the parts together and runs them until shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use runtime::{Admin, Latch, Metrics, Readiness, Shutdown, Tasks};
use token_cache::{Policy, TokenCache};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::args::Config;
use crate::gate::Gate;
use crate::metrics::{RequestMetrics, UpstreamMetrics, register_cache};
use crate::node::{AssertionFile, NodeClient, NodeSource};
use crate::server::{self, Limits};
use crate::service::Service;
use crate::warm_up::WarmUp;

/// Between two rounds over idle connections to the agent.
const ROUND: Duration = Duration::from_secs(30);

/// Attempts beyond the first that are free, and how often there is one once they are used up. They
/// get a handful of tokens through an outage of the agent without a pause, and an application that
/// wants many more does not keep the agent from serving other pods.
const RETRIES: (u32, Duration) = (40, Duration::from_millis(500));

/// Between two attempts to listen.
const BIND_PAUSE: Duration = Duration::from_secs(1);

/// Runs the sidecar until it is told to end.
///
/// Nothing that can go wrong at start ends the process: a native sidecar that exits early can leave
/// its pod stuck, and the reason would be lost with it.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals().context("cannot start")?;
    let limits = Limits::default();
    let grace = limits.drain + Duration::from_secs(1);
    tracing::info!(
        pod = config.pod,
        listen = %config.listen,
        node = %config.node.address,
        version = env!("CARGO_PKG_VERSION"),
        "Starting"
    );
    let tasks = start(config, limits, shutdown);
    tasks.supervise(grace).await.context("cannot go on")
}

/// Starts all tasks.
pub fn start(config: Config, limits: Limits, shutdown: Shutdown) -> Tasks {
    let Config { listen, admin, node, gate_timeout, verify_after, hosts, .. } = config;
    let metrics = Metrics::new("nmi-sidecar", env!("CARGO_PKG_VERSION"));
    let readiness = Readiness::default();
    let (listening, reached) = (readiness.latch("listener"), readiness.latch("nmi-host"));

    let gate = Gate::new(gate_timeout);
    let upstream = metrics.register(UpstreamMetrics::register);
    let node = Arc::new(NodeClient::new(node, upstream));
    let policy = Policy {
        verify_after: Some(verify_after),
        retry_burst: RETRIES.0,
        retry_every: RETRIES.1,
        ..Policy::default()
    };
    let assertion = AssertionFile::new(config.federated_token_file);
    let cache = TokenCache::new(NodeSource::new(node.clone(), assertion, gate.clone()), policy);
    let warm_up = WarmUp::new(cache.clone(), config.warm_up);
    metrics.register(|registry| register_cache(registry, cache.clone()));
    let requests = metrics.register(RequestMetrics::register);
    let service = Arc::new(Service::new(cache.clone(), hosts, requests));

    let mut tasks = Tasks::new(shutdown.clone());
    tasks.spawn("imds", imds(listen, listening, service, limits, shutdown.clone()));
    let router = Admin::new(metrics, readiness).router().merge(gate.clone().router());
    tasks.spawn("admin", {
        let shutdown = shutdown.clone();
        async move {
            let listener = bind(admin).await;
            // A startup probe that is being held must not hold the end up.
            let end = async {
                shutdown.begun().await;
                sleep(limits.drain).await;
            };
            tokio::select! {
                ended = runtime::admin::serve(listener, router, shutdown.clone()) => ended,
                () = end => Ok(()),
            }
        }
    });
    tasks.spawn("gate", until(shutdown.clone(), gate.watch(node.clone(), warm_up, reached)));
    tasks.spawn("upkeep", until(shutdown, upkeep(cache, node)));
    tasks
}

async fn imds(
    address: SocketAddr,
    listening: Latch,
    service: Arc<Service>,
    limits: Limits,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let listener = bind(address).await;
    listening.set(true);
    server::serve(listener, service, limits, shutdown).await
}

/// Keeps tokens fresh and gives unused connections back.
async fn upkeep(cache: TokenCache<NodeSource>, node: Arc<NodeClient>) -> Result<(), Infallible> {
    let tidy = async {
        loop {
            sleep(ROUND).await;
            node.tidy();
        }
    };
    tokio::join!(cache.keep_fresh(), tidy);
    Ok(())
}

/// Listens as soon as the address is free.
async fn bind(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => tracing::error!(%address, %error, "Cannot listen; trying again"),
        }
        sleep(BIND_PAUSE).await;
    }
}

async fn until(
    shutdown: Shutdown,
    work: impl Future<Output = Result<(), Infallible>>,
) -> Result<(), Infallible> {
    tokio::select! {
        () = shutdown.begun() => Ok(()),
        ended = work => ended,
    }
}
