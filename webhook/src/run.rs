//! Puts the process together: clients, sockets and tasks; holds no policy.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use runtime::{Admin, Metrics, Readiness, ServingCert, Shutdown, Tasks, admin};

use crate::config::Config;
use crate::injector::Injector;
use crate::metrics::ReviewMetrics;
use crate::namespaces::Namespaces;
use crate::router::router;
use crate::serve::{Drain, OPEN_REQUESTS, serve};
use crate::trust::{self, Keeper, TrustConfig};

/// Beyond what draining takes.
const MARGIN: Duration = Duration::from_secs(2);

/// Runs until a signal, or until a part of the process fails.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let Config { listen, admin_address, namespace, fullname, drain_delay, injector } = config;
    let shutdown = Shutdown::on_signals()?;
    let metrics = Metrics::new("webhook", env!("CARGO_PKG_VERSION"));
    let readiness = Readiness::default();
    let client = Client::try_default().await.context("cannot reach the API server")?;
    let listener =
        TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    let admin_listener = tokio::net::TcpListener::bind(admin_address)
        .await
        .with_context(|| format!("cannot listen on {admin_address}"))?;
    let mut tasks = Tasks::new(shutdown.clone());

    let (namespaces, watch) = Namespaces::new();
    let (client_of_watch, seen) = (client.clone(), readiness.latch("namespaces"));
    let shutdown_of_watch = shutdown.clone();
    tasks.spawn("namespaces", async move {
        watch.run(client_of_watch, seen, shutdown_of_watch).await;
        Ok::<_, Infallible>(())
    });

    let certificate = ServingCert::default();
    let keeper = Keeper {
        config: TrustConfig { namespace, fullname },
        client,
        namespaces: namespaces.opted_in(),
        serving: certificate.clone(),
        ready: readiness.latch("certificate"),
    };
    let shutdown_of_keeper = shutdown.clone();
    tasks.spawn("trust", async move {
        trust::run(keeper, shutdown_of_keeper).await;
        Ok::<_, Infallible>(())
    });

    let injector = Injector::new(injector, namespaces, ReviewMetrics::new(&metrics));
    let drain = Drain { ready: readiness.latch("serving"), delay: drain_delay };
    let tls = certificate.server_config();
    let server = serve(listener, tls, router(Arc::new(injector)), drain, shutdown.clone());
    // Probes are answered until the last review is: draining must be seen as not ready, and not
    // as a dead process.
    let drained = Shutdown::manual();
    let admin = Admin::new(metrics, readiness).router();
    tasks.spawn("admin", admin::serve(admin_listener, admin, drained.clone()));
    tasks.spawn("server", async move {
        let result = server.await;
        drained.begin();
        result
    });

    tracing::info!(%listen, admin = %admin_address, "Started");
    tasks.supervise(drain_delay + OPEN_REQUESTS + MARGIN).await?;
    Ok(())
}
