//! The leader's loop: something changed → snapshot → plan → writes and host workers.
//!
//! Level-triggered: every cycle looks at everything and changes only what differs. The loop itself
//! never waits for a write or for ARM.

use std::collections::HashSet;
use std::time::Duration;

use api::AzureAssignedIdentity;
use api::matching::Scope;
use jiff::Timestamp;
use kube::Client;
use tokio::time::Instant;

use crate::clock::{Clock, after};
use crate::compute::Compute;
use crate::desired::desired;
use crate::host::{HostContext, HostPool, Records, WorkerPanicked};
use crate::lease::Leadership;
use crate::metrics::ControllerMetrics;
use crate::overlay::Overlay;
use crate::plan::{Change, Plan, plan};
use crate::report::{Announcer, EventSender, Happening, Pace, Severity, Subject, notices, tally};
use crate::snapshot::{ObjectKey, Snapshot};
use crate::watch::{CacheEnded, Dirty, Stores};
use crate::writes::{Finished, Write, WritePanicked, Writes, Written};

/// Writes that are built at a time: a burst is planned again long before the last would be made.
const PLAN_LIMIT: usize = 256;
/// A cycle that nothing asked for, in case that something was missed.
const TICK: Duration = Duration::from_secs(60);
/// After a cycle at least this many times its own duration passes before the next.
const REST_FACTOR: u32 = 2;
const MIN_REST: Duration = Duration::from_millis(2);
const MAX_REST: Duration = Duration::from_secs(1);

/// Why the leader had to stop.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// A cache ended.
    #[error(transparent)]
    Cache(#[from] CacheEnded),
    /// A host's worker panicked.
    #[error(transparent)]
    Worker(#[from] WorkerPanicked),
    /// A write panicked.
    #[error(transparent)]
    Write(#[from] WritePanicked),
}

/// What a leader works with.
pub(crate) struct Surroundings {
    pub(crate) client: Client,
    pub(crate) stores: Stores,
    pub(crate) dirty: Dirty,
    pub(crate) events: EventSender,
    pub(crate) metrics: ControllerMetrics,
    pub(crate) clock: Clock,
    pub(crate) scope: Scope,
}

/// The work of one term of leadership. Dropping it cancels all that it started.
pub(crate) struct Reconciler<C, R> {
    around: Surroundings,
    hosts: HostPool<C, R>,
    writes: Writes,
    overlay: Overlay,
    pace: Pace,
    announcer: Announcer,
    /// Left behind by another controller, and said so.
    foreign: HashSet<ObjectKey>,
    /// More was to be written than was planned.
    more: bool,
}

// === impl Reconciler ===

impl<C: Compute, R: Records> Reconciler<C, R> {
    /// A leader that knows nothing yet but what the caches hold.
    pub(crate) fn new(
        around: Surroundings,
        leadership: Leadership,
        hosts: HostContext<C, R>,
    ) -> Self {
        let writes = Writes::new(around.client.clone(), leadership, around.metrics.clone());
        Self {
            around,
            hosts: HostPool::new(hosts),
            writes,
            overlay: Overlay::default(),
            pace: Pace::default(),
            announcer: Announcer::default(),
            foreign: HashSet::new(),
            more: false,
        }
    }

    /// Works until it is dropped.
    pub(crate) async fn run(mut self) -> Result<(), ReconcileError> {
        self.around.stores.complete().await?;
        let dirty = self.around.dirty.clone();
        let clock = self.around.clock.clone();
        let (mut due, mut rested, mut wake) = (true, Instant::now(), Instant::now());
        loop {
            tokio::select! {
                () = dirty.rung(), if !due => due = true,
                () = tokio::time::sleep_until(wake), if !due => due = true,
                () = tokio::time::sleep_until(rested), if due => {
                    let started = Instant::now();
                    wake = clock.instant(self.cycle());
                    due = false;
                    let rest = started.elapsed() * REST_FACTOR;
                    rested = Instant::now() + rest.clamp(MIN_REST, MAX_REST);
                }
                finished = self.writes.finished(|| clock.now()) => {
                    due |= self.on_finished(&finished?);
                }
                ended = self.hosts.tend() => ended?,
            }
        }
    }

    /// Looks at everything once. Returns when to look again at the latest.
    fn cycle(&mut self) -> Timestamp {
        let started = std::time::Instant::now();
        let now = self.around.clock.now();
        let mut snapshot = Snapshot::take(&self.around.stores);
        snapshot.assigned = self.overlay.over(snapshot.assigned, now);
        let index = snapshot.index();
        let desired = desired(&index, self.around.scope);
        let views = self.hosts.views();
        let plan = plan(&index, &desired, &views, PLAN_LIMIT);
        let tallies = tally(&desired, &plan.verdicts);
        self.around.metrics.assignments(tallies.assigned, tallies.waiting);
        let (statuses, next_status) = self.pace.due(&index, &tallies, now);
        let notices = notices(&index, &desired, &plan.verdicts);
        let (happenings, next_notice) = self.announcer.due(notices, now);
        self.around.metrics.reconciled(started.elapsed());

        self.apply(plan, statuses, &snapshot, now);
        happenings.into_iter().for_each(|happening| self.around.events.send(happening));
        let times = [next_status, next_notice, self.overlay.expiry(), self.writes.retry_at(now)];
        times.into_iter().flatten().fold(after(now, TICK), Timestamp::min)
    }

    fn apply(&mut self, plan: Plan, statuses: Vec<Write>, snapshot: &Snapshot, now: Timestamp) {
        self.hosts.set_needs(plan.needs, &snapshot.recorded_hosts());
        self.around.metrics.hosts(self.hosts.len());
        self.report_foreign(plan.foreign);
        self.more = plan.more;
        // Assignments first: statuses only tell of them.
        let changes = plan.changes.into_iter().map(Write::Assigned);
        self.writes.submit(changes.chain(statuses), now);
    }

    /// Whether another cycle is due because of it.
    fn on_finished(&mut self, finished: &Finished) -> bool {
        let now = self.around.clock.now();
        let target = finished.write.target();
        match (&finished.write, &finished.result) {
            (_, Ok(Written::Assigned(object))) => {
                self.overlay.written((**object).clone(), now);
                if let Some(object) = finished.newly_assigned() {
                    self.around.events.send(assigned(object));
                }
            }
            (Write::Assigned(Change::Delete { key, uid }), Ok(_)) => {
                self.overlay.deleted(key.clone(), uid.clone(), now);
            }
            // While it was in flight its object may have been passed over.
            (_, Ok(_)) => {
                self.pace.written(target, now);
                return true;
            }
            (_, Err(error)) => {
                tracing::debug!(?target, %error, "Cannot write");
                return true;
            }
        }
        self.more && self.writes.is_drained()
    }

    /// Objects that aad-pod-identity left behind are nobody's to change here; said once.
    fn report_foreign(&mut self, foreign: Vec<ObjectKey>) {
        for key in foreign {
            if self.foreign.insert(key.clone()) {
                tracing::info!(
                    assigned = %key,
                    "Left alone an AzureAssignedIdentity of another controller"
                );
            }
        }
    }
}

fn assigned(object: &AzureAssignedIdentity) -> Happening {
    let spec = &object.spec;
    let identity = spec.identity.as_ref().map(|identity| &identity.metadata);
    let at = identity.map_or_else(String::new, |meta| {
        format!("{}/{}", crate::watch::namespace(meta), crate::watch::name(meta))
    });
    Happening {
        severity: Severity::Normal,
        subject: Subject {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: spec.pod_namespace.clone(),
            name: spec.pod.clone(),
            uid: spec.pod_uid.clone(),
        },
        reason: "IdentityAssigned",
        action: "Assigning",
        note: format!("AzureIdentity {at} is assigned"),
    }
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
