//! The controller: which pods hold which identities, and what is attached to VMs and scale sets.
//!
//! ```text
//! watch → cluster → desired, verdict → ledger → turns → plan → writes (AzureAssignedIdentity,
//!                                        └→ host workers → ARM   conditions, events)
//! ```
//!
//! Decisions are in `desired`, `verdict`, `plan`, `host::model`, `report` and `lease::claim`, and
//! touch nothing; the rest executes them.

mod adoption;
#[cfg(test)]
mod alert_tests;
mod args;
mod azure;
mod backoff;
mod clock;
mod cluster;
mod compute;
mod content;
mod desired;
mod fault;
mod feed;
mod host;
mod lease;
mod ledger;
mod metrics;
mod overlay;
mod plan;
mod reconcile;
mod removed;
mod report;
#[cfg(test)]
mod simulation_tests;
mod snapshot;
#[cfg(test)]
mod testing;
mod turns;
mod verdict;
mod waits;
mod watch;
mod writes;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use kube::Client;
use runtime::predecessor::two_dashes;
use runtime::{Admin, Metrics, Readiness, Shutdown, Tasks};
use tokio::net::TcpListener;
use tokio::sync::watch::{Receiver, Sender, channel};

use crate::adoption::{Adopter, AdoptionMetrics, Claims, MicPresence, MicWatch};
use crate::args::{Args, Config};
use crate::clock::Clock;
use crate::compute::ArmClient;
use crate::host::{ApiRecords, HostContext, HostSettings, SignIn, Throttles};
use crate::lease::{Leadership, LeaseManager};
use crate::metrics::ControllerMetrics;
use crate::reconcile::{ReconcileError, Reconciler, Surroundings};
use crate::removed::MIC;
use crate::report::{EventSender, events};
use crate::watch::{Dirty, Stores, Watches};

/// musl's own allocator takes a third of all processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A leader that Azure does not let in for so long lets another replica try.
const SIGN_IN_PATIENCE: Duration = Duration::from_secs(120);

/// Long enough to give the lease back, shorter than the pod's grace.
const GRACE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Err(gone) = MIC.refuse(std::env::args_os(), |name| std::env::var_os(name).is_some()) {
        eprintln!("error: {gone}");
        return ExitCode::from(2);
    }
    let args = Args::parse_from(two_dashes(std::env::args_os(), &Args::command()));
    if let Err(error) = args.log.init() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "Cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    runtime::crypto::install_provider();
    // One thread: requests and their answers are most of the work, and nothing takes long. With
    // more of them, waking each other would cost more than they do.
    let thread = tokio::runtime::Builder::new_current_thread().enable_all().build();
    thread.context("cannot start the runtime")?.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let mut kubeconfig =
        kube::Config::infer().await.context("cannot find out how to reach the API server")?;
    // Every call has a time-out and a back-off of its own; hidden retries would outlive both.
    kubeconfig.default_retry = false;
    let Config { admin_address, namespace, scope, hosts, lease, mic, azure } =
        Config::load(args, &kubeconfig.default_namespace)?;
    let compute = Arc::new(azure.arm_client(&hosts.immutable)?);
    let client = Client::try_from(kubeconfig).context("cannot set up the API client")?;

    let shutdown = Shutdown::on_signals()?;
    let metrics = Metrics::new("controller", env!("CARGO_PKG_VERSION"));
    azure.register(&metrics);
    compute.register(&metrics);
    let counters = ControllerMetrics::new(&metrics);
    let adoption = AdoptionMetrics::new(&metrics);
    let readiness = Readiness::default();
    let mut tasks = Tasks::new(shutdown.clone());

    let listener = TcpListener::bind(admin_address)
        .await
        .with_context(|| format!("cannot listen on --admin-address {admin_address}"))?;
    let admin = Admin::new(metrics, readiness.clone()).router();
    tasks.spawn("admin", runtime::admin::serve(listener, admin, shutdown.clone()));

    let dirty = Dirty::default();
    let stores =
        Watches::new(client.clone(), &mut tasks, &readiness, dirty.clone(), shutdown.clone())
            .start(&namespace);
    let (sender, publisher) = events(client.clone(), lease.holder.clone(), counters.clone());
    let ending = shutdown.clone();
    tasks.spawn("events", async move {
        tokio::select! {
            () = publisher.run() => {}
            () = ending.begun() => {}
        }
        Ok::<_, std::convert::Infallible>(())
    });

    let latch = readiness.latch("mic");
    let (mic_watch, mic) = MicWatch::new(client.clone(), mic, adoption.clone(), latch);
    tasks.spawn("mic", mic_watch.run(shutdown.clone()));

    let leader = Leader {
        client: client.clone(),
        stores,
        dirty,
        events: sender,
        metrics: counters,
        mic,
        adoption,
        compute,
        hosts: Arc::new(hosts),
        namespace,
        scope,
    };
    let manager = LeaseManager::new(client, lease);
    tasks.spawn("leader", manager.run(shutdown, move |leadership| leader.lead(leadership)));
    tasks.supervise(GRACE).await?;
    Ok(())
}

/// What every term of leadership starts from.
#[derive(Clone)]
struct Leader {
    client: Client,
    stores: Stores,
    dirty: Dirty,
    events: EventSender,
    metrics: ControllerMetrics,
    mic: MicPresence,
    adoption: AdoptionMetrics,
    compute: Arc<ArmClient>,
    hosts: Arc<HostSettings>,
    namespace: String,
    scope: api::matching::Scope,
}

impl Leader {
    /// The work of one term: all of it while aad-pod-identity's MIC does not run, none while it
    /// does. Ends without an error if another replica had better lead.
    fn lead(
        &self,
        leadership: Leadership,
    ) -> impl Future<Output = Result<(), ReconcileError>> + Send + use<> {
        let (leader, mut mic) = (self.clone(), self.mic.clone());
        async move {
            let leading = mic.term(&leader.metrics).await;
            loop {
                mic.gone(&leader.events).await;
                let (claims, claimed) = channel(Arc::default());
                let sign_in = SignIn::default();
                let work = leader.reconciler(&leadership, claimed, sign_in.clone());
                tokio::select! {
                    ended = work.run() => return ended,
                    () = sign_in.fails_for(SIGN_IN_PATIENCE) => {
                        tracing::warn!("Giving the lease up: cannot sign in to Azure from here");
                        return Ok(());
                    }
                    () = leader.adopter(&leadership, claims).run() => {}
                    () = mic.back() => leading.idle(),
                }
            }
        }
    }

    fn reconciler(
        &self,
        leadership: &Leadership,
        claims: Receiver<Arc<Claims>>,
        sign_in: SignIn,
    ) -> Reconciler<ArmClient, ApiRecords> {
        let clock = Clock::start();
        let hosts = HostContext {
            compute: self.compute.clone(),
            records: ApiRecords::new(self.client.clone(), &self.namespace),
            settings: self.hosts.clone(),
            claims,
            leadership: leadership.clone(),
            sign_in,
            throttles: Throttles::default(),
            metrics: self.metrics.clone(),
            clock: clock.clone(),
            dirty: self.dirty.clone(),
        };
        let around = Surroundings {
            client: self.client.clone(),
            stores: self.stores.clone(),
            dirty: self.dirty.clone(),
            events: self.events.clone(),
            metrics: self.metrics.clone(),
            clock,
            scope: self.scope,
        };
        Reconciler::new(around, leadership.clone(), hosts)
    }

    fn adopter(&self, leadership: &Leadership, claims: Sender<Arc<Claims>>) -> Adopter {
        Adopter {
            client: self.client.clone(),
            stores: self.stores.clone(),
            scope: self.scope,
            leadership: leadership.clone(),
            claims,
            dirty: self.dirty.clone(),
            metrics: self.adoption.clone(),
        }
    }
}
