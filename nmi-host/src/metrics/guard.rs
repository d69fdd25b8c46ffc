//! What is counted of the node guard.

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of the node guard.
#[derive(Debug, Default)]
pub(super) struct GuardCounters {
    failures: Counter,
    applied: Gauge,
    last_success: Gauge<f64, AtomicU64>,
    excepted: Gauge,
}

// === impl GuardCounters ===

impl GuardCounters {
    pub(super) fn applied(&self, excepted: usize, now: SystemTime) {
        self.applied.set(1);
        self.excepted.set(i64::try_from(excepted).unwrap_or(i64::MAX));
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.last_success.set(seconds);
    }

    pub(super) fn failed(&self) {
        self.applied.set(0);
        self.failures.inc();
    }

    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "failures",
            "Attempts to write or verify the node guard's rules that failed",
            self.failures.clone(),
        );
        r.register(
            "applied",
            "Whether the rules were in place at the last look",
            self.applied.clone(),
        );
        r.register(
            "last_success_timestamp_seconds",
            "Unix time of the last look at which the rules were in place",
            self.last_success.clone(),
        );
        r.register(
            "excepted_addresses",
            "Pod addresses that the guard lets through",
            self.excepted.clone(),
        );
    }
}
