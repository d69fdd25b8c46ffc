//! Puts the agent together and keeps it running until it is told to end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::labels::node_label_value;
use api::{AzureAssignedIdentity, AzurePodIdentityException, AzurePodIdentityExceptionSpec};
use kube::Client;
use kube::api::Api;
use runtime::admin::{self, Admin};
use runtime::{Readiness, ServingCert, Shutdown, Tasks};
use token_cache::{Policy, TokenCache};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::args::{Config, Switch};
use crate::assigned::AssignedView;
use crate::authn::{Authenticator, Reviewer};
use crate::broker::Broker;
use crate::certificate::CertificateTask;
use crate::guard::{Guard, GuardConfig};
use crate::guard_task::{self, GuardTask, OwnDaemonSet};
use crate::host::HostApi;
use crate::metrics::{HostMetrics, Watch, register_cache};
use crate::mint::{Imds, Minter, Principals};
use crate::pods::PodView;
use crate::serve::{Limits, Server};
use crate::sidecar::SidecarApi;
use crate::watched::{self, Table, TableWriter};

/// A node has at most a few hundred pods, each with one sidecar that holds one or two connections.
const SIDECARS: Limits = Limits { connections: 2048, per_peer: 32 };

/// Everybody has the same address here.
const PROCESSES: Limits = Limits { connections: 256, per_peer: 256 };

/// Identities times resources on one node.
const CACHED_TOKENS: usize = 1024;

/// Attempts beyond the first, of all fetches together: so many at once, then one each so often. A
/// quarter of what IMDS allows is left to those who try again.
const RETRIES: (u32, Duration) = (50, Duration::from_millis(200));

/// One iptables command, its wait for other writers included.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// For requests to drain and the guard's command to end; Kubernetes grants 30 s.
const GRACE: Duration = Duration::from_secs(25);

/// How long an address may still be held by the pod that this one replaces.
const BIND_PATIENCE: Duration = Duration::from_secs(30);

/// The process's parts while they are put together.
struct Agent {
    config: Config,
    client: Client,
    metrics: runtime::Metrics,
    counters: HostMetrics,
    readiness: Readiness,
    shutdown: Shutdown,
    tasks: Tasks,
}

/// Runs the agent until shutdown.
pub(crate) async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .context("cannot configure the client of the API server: run in a cluster")?;
    let metrics = runtime::Metrics::new("nmi-host", env!("CARGO_PKG_VERSION"));
    let mut agent = Agent {
        counters: HostMetrics::new(&metrics),
        metrics,
        client,
        readiness: Readiness::default(),
        tasks: Tasks::new(shutdown.clone()),
        shutdown,
        config,
    };
    let assigned = agent.watch_assigned();
    let pods = agent.watch_pods();
    agent.guard(pods.clone());
    let certificate = agent.certificate();
    agent.listen(assigned, pods, certificate).await?;
    tracing::info!(node = agent.config.node_name, "Started");
    agent.tasks.supervise(GRACE).await?;
    Ok(())
}

// === impl Agent: watches ===

impl Agent {
    fn watch_assigned(&mut self) -> Table<AssignedView> {
        let (writer, table) = AssignedView::table();
        let node = self.config.node_name.clone();
        let label = format!("{}={}", api::labels::NODE_NAME, node_label_value(&node));
        let scope = self.config.scope;
        let project = move |object: AzureAssignedIdentity| {
            let key = watched::ObjectKey::of(&object);
            let view = AssignedView::read(&object, &node).inspect_err(|reason| {
                let object = &key;
                tracing::warn!(%object, %reason, "AzureAssignedIdentity is ignored");
            });
            let view = view.ok()?;
            if !view.in_scope(scope) {
                let (object, identity) = (&key, &view.identity);
                tracing::warn!(
                    %object, %identity,
                    "AzureAssignedIdentity is ignored: the identity is for its own namespace only"
                );
            }
            Some(view)
        };
        let keep = writer.keep(
            Api::all(self.client.clone()),
            watched::config().labels(&label),
            (Watch::Assigned, self.counters.clone()),
            self.shutdown.clone(),
            project,
        );
        self.supervise("watch of assigned identities", keep);
        self.latch_when_synced("assigned identities", table.clone());
        table
    }

    fn watch_pods(&mut self) -> Table<PodView> {
        let (writer, table) = TableWriter::new();
        let field = format!("spec.nodeName={}", self.config.node_name);
        let keep = writer.keep(
            Api::all(self.client.clone()),
            watched::config().fields(&field),
            (Watch::Pods, self.counters.clone()),
            self.shutdown.clone(),
            PodView::read,
        );
        self.supervise("watch of pods", keep);
        self.latch_when_synced("pods", table.clone());
        table
    }

    fn watch_exceptions(&mut self) -> Table<AzurePodIdentityExceptionSpec> {
        let (writer, table) = TableWriter::new();
        let keep = writer.keep(
            Api::all(self.client.clone()),
            watched::config(),
            (Watch::Exceptions, self.counters.clone()),
            self.shutdown.clone(),
            |object: AzurePodIdentityException| Some(object.spec),
        );
        self.supervise("watch of exceptions", keep);
        table
    }

    fn watch_daemonset(&mut self) -> Table<OwnDaemonSet> {
        let (writer, table) = TableWriter::new();
        let namespace = &self.config.namespace;
        let field = format!("metadata.name={}", self.config.daemonset);
        let keep = writer.keep(
            Api::namespaced(self.client.clone(), namespace),
            watched::config().fields(&field),
            (Watch::DaemonSet, self.counters.clone()),
            self.shutdown.clone(),
            |object| Some(OwnDaemonSet::read(&object)),
        );
        self.supervise("watch of the DaemonSet", keep);
        table
    }

    fn latch_when_synced<V: Send + Sync + 'static>(
        &mut self,
        name: &'static str,
        mut table: Table<V>,
    ) {
        let (latch, shutdown) = (self.readiness.latch(name), self.shutdown.clone());
        self.supervise(name, async move {
            tokio::select! {
                () = shutdown.begun() => return,
                () = table.synced() => latch.set(true),
            }
            shutdown.begun().await;
        });
    }

    fn supervise(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(name, async move {
            task.await;
            Ok::<(), std::convert::Infallible>(())
        });
    }
}

// === impl Agent: parts ===

impl Agent {
    fn guard(&mut self, pods: Table<PodView>) {
        let settings = self.config.guard;
        let guard = Arc::new(Guard::new(GuardConfig {
            metadata_ip: settings.metadata_ip,
            backend: settings.backend,
            command_timeout: COMMAND_TIMEOUT,
        }));
        if settings.switch == Switch::Disabled {
            let shutdown = self.shutdown.clone();
            self.supervise("removal of the guard", async move {
                guard_task::clear(guard).await;
                shutdown.begun().await;
            });
            return;
        }
        let task = GuardTask {
            barrier: guard,
            pods,
            exceptions: self.watch_exceptions(),
            daemonset: self.watch_daemonset(),
            applied: self.readiness.latch("node guard"),
            metrics: self.counters.clone(),
        };
        self.supervise("node guard", task.run(self.shutdown.clone()));
    }

    fn certificate(&mut self) -> ServingCert {
        let serving = ServingCert::default();
        let task = CertificateTask {
            secrets: Api::namespaced(self.client.clone(), &self.config.namespace),
            name: self.config.tls_secret.clone(),
            serving: serving.clone(),
            ready: self.readiness.latch("certificate"),
            metrics: self.counters.clone(),
        };
        self.supervise("watch of the certificate", task.run(self.shutdown.clone()));
        serving
    }

    /// Binds every port and starts the servers.
    async fn listen(
        &mut self,
        assigned: Table<AssignedView>,
        pods: Table<PodView>,
        certificate: ServingCert,
    ) -> anyhow::Result<()> {
        let listening = self.readiness.latch("listeners");
        // First, so that probes are answered while the others wait for their ports.
        let admin = bind(self.config.admin_listen, "--admin-address").await?;
        let router = Admin::new(self.metrics.clone(), self.readiness.clone()).router();
        self.tasks.spawn("admin port", admin::serve(admin, router, self.shutdown.clone()));

        let broker = self.broker(assigned, pods)?;
        self.sidecars(&broker, &certificate).await?;
        self.processes(broker).await?;
        listening.set(true);
        Ok(())
    }

    fn broker(
        &mut self,
        assigned: Table<AssignedView>,
        pods: Table<PodView>,
    ) -> anyhow::Result<Broker> {
        let principals = self.principals()?;
        let imds = Imds::new(&self.config.imds_endpoint, self.counters.clone());
        let minter = Minter::new(imds, principals, self.counters.clone());
        let policy = Policy {
            capacity: CACHED_TOKENS,
            retry_burst: RETRIES.0,
            retry_every: RETRIES.1,
            ..Policy::default()
        };
        let tokens = TokenCache::new(minter, policy);
        let (cache, fresh, shutdown) = (tokens.clone(), tokens.clone(), self.shutdown.clone());
        register_cache(&self.metrics, move || cache.stats());
        self.supervise("refresh of tokens", async move {
            tokio::select! {
                () = shutdown.begun() => {}
                () = fresh.keep_fresh() => {}
            }
        });
        Ok(Broker::new(assigned, pods, tokens, self.config.scope))
    }

    fn principals(&self) -> anyhow::Result<Principals> {
        let entra = &self.config.entra;
        let transport = azure_http::transport(entra.ca_bundle.as_deref())
            .context("cannot set up the connection to Entra")?;
        let (authorities, federation) = (entra.authorities.clone(), entra.federation.clone());
        let principals = Principals::new(authorities, transport, federation, self.counters.clone());
        Ok(if entra.secrets { principals.reading_secrets(self.client.clone()) } else { principals })
    }

    async fn sidecars(&mut self, broker: &Broker, certificate: &ServingCert) -> anyhow::Result<()> {
        let reviewer = Reviewer::new(
            self.client.clone(),
            self.config.audience.clone(),
            self.config.node_name.clone(),
        );
        let api = SidecarApi {
            authenticator: Authenticator::new(reviewer, self.counters.clone()),
            broker: broker.clone(),
            metrics: self.counters.clone(),
        };
        let server = Server {
            listener: bind(self.config.sidecar_listen, "--node-ip and --sidecar-port").await?,
            tls: Some(TlsAcceptor::from(Arc::new(certificate.server_config()))),
            router: api.router(),
            limits: SIDECARS,
            metrics: self.counters.clone(),
        };
        self.tasks.spawn("sidecar endpoint", server.run(self.shutdown.clone()));
        Ok(())
    }

    async fn processes(&mut self, broker: Broker) -> anyhow::Result<()> {
        let Some(address) = self.config.host_listen else { return Ok(()) };
        let listener = bind(address, "--host-listen").await?;
        let own = listener.local_addr().context("the host endpoint has no address")?;
        let server = Server {
            listener,
            tls: None,
            router: HostApi::new(broker, self.counters.clone(), own).router(),
            limits: PROCESSES,
            metrics: self.counters.clone(),
        };
        self.tasks.spawn("host endpoint", server.run(self.shutdown.clone()));
        Ok(())
    }
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    let begun = tokio::time::Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if begun.elapsed() >= BIND_PATIENCE => {
                return Err(error).with_context(|| {
                    format!("cannot listen on {address} ({flag}): is something else on that port?")
                });
            }
            Err(error) => {
                tracing::warn!(%address, %error, "Cannot listen yet, trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
