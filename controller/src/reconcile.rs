//! The leader's loop: something changed → cluster → ledger → writes and host workers.
//!
//! Only what a change concerns is decided again. What is decided is compared with what is stored
//! and attached, never with what happened: an event that is missed is made up for by the next.
//! The loop itself never waits for a write or for ARM.

use std::collections::HashSet;
use std::time::Duration;

use api::AzureAssignedIdentity;
use api::matching::Scope;
use jiff::Timestamp;
use kube::Client;
use tokio::time::Instant;

use crate::clock::{Clock, after, since};
use crate::cluster::Cluster;
use crate::compute::Compute;
use crate::feed::{feed, feed_assigned};
use crate::host::{HostContext, HostPool, Records, WorkerPanicked};
use crate::lease::Leadership;
use crate::ledger::{Ledger, Settled};
use crate::metrics::ControllerMetrics;
use crate::overlay::Overlay;
use crate::plan::{Change, Rank, change};
use crate::report::{
    Announcer, EventSender, Happening, Severity, Subject, binding_status, identity_status,
};
use crate::snapshot::ObjectKey;
use crate::turns::{Target, Turns};
use crate::watch::{CacheEnded, Dirty, Keys, Stores, Touched};
use crate::writes::{Finished, Write, WritePanicked, Writes, Written};

/// Everything is decided again this often, in case that something was missed.
const REVIEW: Duration = Duration::from_secs(600);
/// What changes within this is decided at once: a burst comes as many events, one after the other.
const MIN_REST: Duration = Duration::from_millis(5);
/// After a cycle at least this many times its own duration passes before the next.
const REST_FACTOR: u32 = 2;
const MAX_REST: Duration = Duration::from_secs(1);
/// At most one write to the status of an identity or a binding within this time.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// So long a status waits from when there is something new to tell: for what changes besides, and
/// so that the writes for which a pod waits have the API server to themselves.
const STATUS_PAUSE: Duration = Duration::from_millis(100);

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
    cluster: Cluster,
    ledger: Ledger,
    turns: Turns,
    writes: Writes,
    overlay: Overlay,
    announcer: Announcer,
    review_at: Timestamp,
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
        let review_at = after(around.clock.now(), REVIEW);
        Self {
            hosts: HostPool::new(hosts),
            cluster: Cluster::default(),
            ledger: Ledger::new(around.scope),
            turns: Turns::default(),
            writes,
            overlay: Overlay::default(),
            announcer: Announcer::default(),
            review_at,
            around,
        }
    }

    /// Works until it is dropped.
    pub(crate) async fn run(mut self) -> Result<(), ReconcileError> {
        self.around.stores.complete().await?;
        let changes = self.around.dirty.listen();
        let clock = self.around.clock.clone();
        let (mut due, mut rested) = (true, Instant::now());
        loop {
            let wake = clock.instant(self.wake_at());
            tokio::select! {
                () = changes.rung(), if !due => due = true,
                () = tokio::time::sleep_until(wake), if !due => due = true,
                () = tokio::time::sleep_until(rested), if due => {
                    let started = Instant::now();
                    self.cycle(changes.take());
                    due = false;
                    let rest = started.elapsed() * REST_FACTOR;
                    rested = Instant::now() + rest.clamp(MIN_REST, MAX_REST);
                }
                finished = self.writes.finished() => self.on_finished(finished?)?,
                ended = self.hosts.tend() => {
                    let host = ended?;
                    self.cluster.set_view(&host, self.hosts.view(&host));
                    self.cluster.review_record(&host);
                    due = true;
                }
            }
        }
    }

    /// Decides again whatever is concerned by what was touched.
    fn cycle(&mut self, mut touched: Touched) {
        let started = std::time::Instant::now();
        let now = self.around.clock.now();
        if now >= self.review_at {
            let hosts = std::mem::take(&mut touched.hosts);
            touched = Touched { hosts, ..Touched::everything() };
            self.cluster.review_all();
            self.review_at = after(now, REVIEW);
        }
        let expired = self.overlay.expire(now);
        if let Keys::Some(keys) = &mut touched.assigned {
            keys.extend(expired);
        }
        for host in std::mem::take(&mut touched.hosts) {
            self.cluster.set_view(&host, self.hosts.view(&host));
        }
        feed(&self.around.stores, touched, (&mut self.cluster, &mut self.overlay));
        self.settle(now);
        self.hosts.look_after_claims();
        self.around.metrics.reconciled(started.elapsed());
    }

    /// When to look again at the latest.
    fn wake_at(&self) -> Timestamp {
        let times = [self.turns.wake_at(), self.announcer.next(), self.overlay.expiry()];
        times.into_iter().flatten().fold(self.review_at, Timestamp::min)
    }

    fn settle(&mut self, now: Timestamp) {
        let mut affected = self.cluster.take_affected();
        let recorded = std::mem::take(&mut affected.recorded);
        let decided = affected.pods.len();
        let settled = self.ledger.settle(&self.cluster, affected, now);
        for host in &settled.hosts {
            self.hosts.need(host, self.ledger.need(host));
        }
        recorded.iter().for_each(|host| self.hosts.look_after(host));
        self.take_turns(&settled, now);
        settled.mended.iter().for_each(|notice| self.announcer.mended(notice, now));
        settled.notices.into_iter().for_each(|notice| self.announcer.tell(notice, now));
        for happening in self.announcer.due(now, self.around.events.room()) {
            self.around.events.send(happening);
        }
        report_foreign(&settled.foreign);
        self.fill(now);
        self.measure(&settled.waited, now);
        self.around.metrics.decided(decided);
    }

    fn measure(&self, waited: &[Timestamp], now: Timestamp) {
        let (metrics, ledger) = (&self.around.metrics, &self.ledger);
        let (assigned, waiting) = ledger.counts();
        metrics.assignments(assigned, waiting);
        metrics.lacking(ledger.lacks());
        metrics.longest_wait(ledger.longest_wait());
        waited.iter().for_each(|begin| metrics.assigned_after(since(now, *begin)));
        metrics.hosts(self.hosts.len());
    }

    fn take_turns(&mut self, settled: &Settled, now: Timestamp) {
        let pause = (STATUS_PAUSE, now);
        for (at, rank) in &settled.due {
            self.turns.want(Target::Assigned(at.clone()), *rank);
        }
        let mut bindings: HashSet<&ObjectKey> = settled.bindings.iter().collect();
        for identity in &settled.identities {
            self.turns.want_after(Target::Identity(identity.clone()), Rank::Status, pause);
            // What is said of a binding depends on how its identity stands.
            bindings.extend(self.cluster.bindings_of(identity));
        }
        for binding in bindings {
            self.turns.want_after(Target::Binding(binding.clone()), Rank::Status, pause);
        }
    }

    /// Starts as many writes as may be in flight. They are built here and not when they were found
    /// to be due: in a burst much may have changed in between.
    fn fill(&mut self, now: Timestamp) {
        self.turns.wake(now);
        while self.writes.has_room()
            && let Some(target) = self.turns.next()
        {
            match self.write(&target, now) {
                Some(write) => self.writes.start(write),
                None => self.turns.finished(&target, Duration::ZERO, now),
            }
        }
        self.around.metrics.pending_writes(self.turns.len());
    }

    fn write(&self, target: &Target, now: Timestamp) -> Option<Write> {
        let (cluster, ledger) = (&self.cluster, &self.ledger);
        match target {
            Target::Assigned(at) => {
                change(cluster, at, ledger.owner(at), self.around.scope).map(Write::Assigned)
            }
            Target::Identity(at) => {
                let status = identity_status(cluster, ledger, at, now)?;
                Some(Write::Identity(at.clone(), status))
            }
            Target::Binding(at) => {
                let status = binding_status(cluster, ledger, at, now)?;
                Some(Write::Binding(at.clone(), status))
            }
        }
    }

    /// Learns from a write and from all that are over by now, and decides once.
    fn on_finished(&mut self, first: Finished) -> Result<(), WritePanicked> {
        let now = self.around.clock.now();
        let mut next = Some(first);
        while let Some(finished) = next {
            self.learn(&finished, now);
            next = self.writes.finished_already()?;
        }
        self.settle(now);
        Ok(())
    }

    fn learn(&mut self, finished: &Finished, now: Timestamp) {
        let target = finished.write.target();
        let mut rest = Duration::ZERO;
        match (&finished.write, &finished.result) {
            (_, Ok(Written::Assigned(object))) => {
                if let Some(object) = finished.newly_assigned() {
                    self.around.events.send(assigned(object));
                }
                self.overlay.written(object.clone(), now);
            }
            (Write::Assigned(Change::Delete { key, uid }), Ok(_)) => {
                self.overlay.deleted(key.clone(), uid.clone(), now);
            }
            (_, Ok(_)) => rest = STATUS_INTERVAL,
            (_, Err(error)) => tracing::debug!(?target, %error, "Cannot write"),
        }
        match &finished.result {
            Ok(_) => self.turns.finished(&target, rest, now),
            Err(_) => self.turns.failed(&target, now),
        }
        match target {
            Target::Assigned(at) => {
                feed_assigned(&self.around.stores, &at, (&mut self.cluster, &mut self.overlay));
                self.cluster.review(at);
            }
            // While it was in flight what is to be said may have changed.
            status => self.turns.want_after(status, Rank::Status, (STATUS_PAUSE, now)),
        }
    }
}

/// Objects that nobody known wrote are nobody's to change here.
fn report_foreign(foreign: &[ObjectKey]) {
    for key in foreign {
        tracing::info!(assigned = %key, "Left alone an AzureAssignedIdentity of another controller");
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
