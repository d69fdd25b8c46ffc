//! What an admin watches during a migration.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use runtime::Metrics;

/// The metrics of the migration; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct AdoptionMetrics(Arc<Families>);

#[derive(Debug, Default)]
struct Families {
    running: Gauge,
    leftovers: Gauge,
    removed: Counter,
}

// === impl AdoptionMetrics ===

impl AdoptionMetrics {
    /// Registers them.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let all = Families::default();
        metrics.register(|r| {
            r.register(
                "mic_running",
                "1 where the controller of aad-pod-identity was seen to run: nothing is assigned meanwhile",
                all.running.clone(),
            );
            r.register(
                "leftover_assignments",
                "AzureAssignedIdentity objects that aad-pod-identity left behind",
                all.leftovers.clone(),
            );
            r.register(
                "leftover_assignments_removed",
                "AzureAssignedIdentity objects of aad-pod-identity that were removed",
                all.removed.clone(),
            );
        });
        Self(Arc::new(all))
    }

    pub(super) fn mic_runs(&self, runs: bool) {
        self.0.running.set(runs.into());
    }

    pub(super) fn leftovers(&self, count: usize) {
        self.0.leftovers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn removed(&self) {
        self.0.removed.inc();
    }
}
