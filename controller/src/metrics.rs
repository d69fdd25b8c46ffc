//! What the controller counts and measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use runtime::Metrics;

use crate::compute::ArmError;

/// The two calls to ARM.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ArmCall {
    Get,
    Patch,
}

/// The metrics of the controller; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct ControllerMetrics(Arc<Families>);

/// While it lives this replica shows as the leader.
#[derive(Debug)]
pub(crate) struct Term(ControllerMetrics);

#[derive(Debug)]
struct Families {
    reconcile: Histogram,
    decided: Counter<u64, AtomicU64>,
    assigned_after: Histogram,
    arm: Family<ArmLabels, Counter>,
    writes: Family<WriteLabels, Counter>,
    assignments: Family<StateLabels, Gauge>,
    pending_writes: Gauge,
    hosts: Gauge,
    leader: Gauge,
    events_dropped: Counter<u64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ArmLabels {
    call: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    write: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

// === impl ControllerMetrics ===

impl ControllerMetrics {
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let buckets = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
        let all = Families {
            reconcile: Histogram::new(buckets),
            decided: Counter::default(),
            // From an attached identity (one write) to a scale set that takes its time.
            assigned_after: Histogram::new([
                0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0,
                600.0,
            ]),
            arm: Family::default(),
            writes: Family::default(),
            assignments: Family::default(),
            pending_writes: Gauge::<i64, AtomicI64>::default(),
            hosts: Gauge::default(),
            leader: Gauge::default(),
            events_dropped: Counter::default(),
        };
        metrics.register(|r| {
            r.register(
                "reconcile_seconds",
                "Time to decide again what changes concern, a burst of them at a time",
                all.reconcile.clone(),
            );
            r.register(
                "pods_decided",
                "Pods whose assignments were decided, again or for the first time",
                all.decided.clone(),
            );
            r.register(
                "assigned_after_seconds",
                "Time from when the leader saw a scheduled pod to when its identity was assigned",
                all.assigned_after.clone(),
            );
            r.register("arm_calls", "Calls to Azure Resource Manager by outcome", all.arm.clone());
            r.register("writes", "Writes to the API server by outcome", all.writes.clone());
            r.register(
                "assignments",
                "Identities assigned to pods, by state",
                all.assignments.clone(),
            );
            r.register(
                "pending_writes",
                "Writes to the API server in flight or waiting",
                all.pending_writes.clone(),
            );
            r.register("hosts", "VMs and scale sets that are worked on", all.hosts.clone());
            r.register("leader", "1 where this replica leads", all.leader.clone());
            r.register(
                "events_dropped",
                "Events that were not published because too many were waiting",
                all.events_dropped.clone(),
            );
        });
        Self(Arc::new(all))
    }

    /// A cycle is over.
    pub(crate) fn reconciled(&self, took: Duration) {
        self.0.reconcile.observe(took.as_secs_f64());
    }

    /// So many pods were decided.
    pub(crate) fn decided(&self, pods: usize) {
        self.0.decided.inc_by(pods as u64);
    }

    /// A pod can use an identity, this long after the leader saw that it should.
    pub(crate) fn assigned_after(&self, waited: Duration) {
        self.0.assigned_after.observe(waited.as_secs_f64());
    }

    /// ARM was called.
    pub(crate) fn arm_call(&self, call: ArmCall, error: Option<&ArmError>) {
        let call = match call {
            ArmCall::Get => "get",
            ArmCall::Patch => "patch",
        };
        let outcome = error.map_or("ok", ArmError::code);
        self.0.arm.get_or_create(&ArmLabels { call, outcome }).inc();
    }

    /// The API server was written to.
    pub(crate) fn wrote(&self, write: &'static str, outcome: &'static str) {
        self.0.writes.get_or_create(&WriteLabels { write, outcome }).inc();
    }

    /// How many assignments there should be, and how many of them can be used.
    pub(crate) fn assignments(&self, assigned: usize, created: usize) {
        for (state, count) in [("Assigned", assigned), ("Created", created)] {
            self.0.assignments.get_or_create(&StateLabels { state }).set(gauge(count));
        }
    }

    /// How much waits to be written.
    pub(crate) fn pending_writes(&self, count: usize) {
        self.0.pending_writes.set(gauge(count));
    }

    /// How many hosts have a worker.
    pub(crate) fn hosts(&self, count: usize) {
        self.0.hosts.set(gauge(count));
    }

    /// A term of leadership, until it is dropped.
    pub(crate) fn term(&self) -> Term {
        self.0.leader.set(1);
        Term(self.clone())
    }

    /// An event was given up.
    pub(crate) fn event_dropped(&self) {
        self.0.events_dropped.inc();
    }
}

// === impl Term ===

impl Drop for Term {
    fn drop(&mut self) {
        let metrics = &self.0;
        metrics.0.leader.set(0);
        // Another replica counts them now.
        metrics.0.assignments.clear();
        metrics.hosts(0);
        metrics.pending_writes(0);
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
