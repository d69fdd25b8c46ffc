//! What the controller counts and measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use runtime::Metrics;

use crate::clock::since;
use crate::compute::ArmError;
use crate::desired::Lack;
use crate::report::Severity;

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
    longest_wait: LongestWait,
    lacking: Family<LackLabels, Gauge>,
    pending_writes: Gauge,
    hosts: Gauge,
    leader: Gauge,
    events_dropped: Family<EventLabels, Counter>,
}

/// When the longest wait began; how long it is now is found out at every scrape.
#[derive(Clone, Debug, Default)]
struct LongestWait(Arc<Mutex<Option<Timestamp>>>);

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LackLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    severity: &'static str,
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
            longest_wait: LongestWait::default(),
            lacking: Family::default(),
            pending_writes: Gauge::<i64, AtomicI64>::default(),
            hosts: Gauge::default(),
            leader: Gauge::default(),
            events_dropped: Family::default(),
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
                "Time from when a pod was scheduled, or its identity bound later, to when it was assigned",
                all.assigned_after.clone(),
            );
            r.register("arm_calls", "Calls to Azure Resource Manager by outcome", all.arm.clone());
            r.register("writes", "Writes to the API server by outcome", all.writes.clone());
            r.register(
                "assignments",
                "Identities assigned to pods, by state",
                all.assignments.clone(),
            );
            r.register_collector(Box::new(all.longest_wait.clone()));
            r.register(
                "pods_without_identity",
                "Pods that lack an identity that their label asks for",
                all.lacking.clone(),
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

    /// A pod can use an identity for the first time, this long after it should.
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

    /// Since when the pod waits that has waited longest for an identity.
    pub(crate) fn longest_wait(&self, since: Option<Timestamp>) {
        *self.0.longest_wait.0.lock() = since;
    }

    /// How many pods lack an identity.
    pub(crate) fn lacking(&self, lacks: impl Iterator<Item = (Lack, usize)>) {
        for (lack, count) in lacks {
            let labels = LackLabels { reason: lack.as_str() };
            self.0.lacking.get_or_create(&labels).set(gauge(count));
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
    pub(crate) fn event_dropped(&self, severity: Severity) {
        let labels = EventLabels { severity: severity.as_str() };
        self.0.events_dropped.get_or_create(&labels).inc();
    }
}

// === impl Term ===

impl Term {
    /// Nothing is decided for now, and what was counted may not be so any more.
    pub(crate) fn idle(&self) {
        let metrics = &self.0;
        metrics.0.assignments.clear();
        metrics.0.lacking.clear();
        metrics.longest_wait(None);
        metrics.hosts(0);
        metrics.pending_writes(0);
    }
}

impl Drop for Term {
    fn drop(&mut self) {
        self.0.0.leader.set(0);
        // Another replica counts now.
        self.idle();
    }
}

// === impl LongestWait ===

impl Collector for LongestWait {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let began = *self.0.lock();
        let age = began.map_or(Duration::ZERO, |began| since(Timestamp::now(), began));
        let age = ConstGauge::new(age.as_secs_f64());
        let help = "For how long the pod has waited that has waited longest for an identity";
        let name = "longest_wait_seconds";
        age.encode(encoder.encode_descriptor(name, help, None, age.metric_type())?)
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::after;

    fn value(metrics: &Metrics, name: &str) -> Option<f64> {
        let text = metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("podidentity_{name} ")));
        line.map(|value| value.parse().unwrap())
    }

    #[test]
    fn a_wait_grows_without_anything_happening_and_ends_with_the_term() {
        let metrics = Metrics::new("test", "0");
        let counters = ControllerMetrics::new(&metrics);
        let wait = || value(&metrics, "longest_wait_seconds").unwrap();
        let term = counters.term();
        assert!(wait().abs() < f64::EPSILON, "nobody waits");
        counters.longest_wait(Timestamp::now().checked_sub(Duration::from_secs(3600)).ok());
        assert!((3600.0..3700.0).contains(&wait()), "{}", wait());
        counters.longest_wait(Some(after(Timestamp::now(), Duration::from_secs(60))));
        assert!(wait().abs() < f64::EPSILON, "another clock than the scheduler's");
        counters.longest_wait(Some(Timestamp::UNIX_EPOCH));
        term.idle();
        assert!(wait().abs() < f64::EPSILON, "MIC's");
        counters.longest_wait(Some(Timestamp::UNIX_EPOCH));
        drop(term);
        assert!(wait().abs() < f64::EPSILON, "another replica's");
    }

    #[test]
    fn pods_that_lack_something_are_counted_by_reason_while_this_replica_leads() {
        let metrics = Metrics::new("test", "0");
        let counters = ControllerMetrics::new(&metrics);
        let lacking = |reason: &str| {
            value(&metrics, &format!("pods_without_identity{{reason=\"{reason}\"}}"))
        };
        let term = counters.term();
        counters.lacking([(Lack::NoBinding, 2), (Lack::IdentityInvalid, 0)].into_iter());
        assert_eq!((lacking("no_binding"), lacking("identity_invalid")), (Some(2.0), Some(0.0)));
        drop(term);
        assert_eq!(lacking("no_binding"), None);
    }
}
