//! How many reviews ended how, and how long they took.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use runtime::Metrics;

const BUCKETS: [f64; 10] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 2.5];

/// The metrics of reviews; clones share them.
#[derive(Clone, Debug)]
pub struct ReviewMetrics {
    reviews: Family<Labels, Counter>,
    duration: Histogram,
}

/// How a review ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The pod was patched.
    Injected,
    /// The pod had everything already.
    Unchanged,
    /// The pod was let in as it is.
    Skipped(&'static str),
    /// The pod was refused.
    Denied(&'static str),
    /// The request was not a review.
    BadRequest,
    /// The webhook failed.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
    reason: &'static str,
}

// === impl Outcome ===

impl Outcome {
    /// What became of the pod.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Unchanged => "unchanged",
            Self::Skipped(_) => "skipped",
            Self::Denied(_) => "denied",
            Self::BadRequest => "bad_request",
            Self::Failed => "failed",
        }
    }

    /// The kind of reason, one of a fixed set; empty where there is none.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Skipped(reason) | Self::Denied(reason) => reason,
            Self::Injected | Self::Unchanged | Self::BadRequest | Self::Failed => "",
        }
    }
}

// === impl ReviewMetrics ===

impl ReviewMetrics {
    /// Registers the metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let new = Self { reviews: Family::default(), duration: Histogram::new(BUCKETS) };
        metrics.register(|registry| {
            registry.register(
                "webhook_reviews",
                "Admission reviews by outcome and, where there are several, the first reason",
                new.reviews.clone(),
            );
            registry.register(
                "webhook_review_duration_seconds",
                "Time from the whole request to the answer",
                new.duration.clone(),
            );
        });
        new
    }

    pub(crate) fn observe(&self, outcome: Outcome, took: Duration) {
        let labels = Labels { outcome: outcome.as_str(), reason: outcome.reason() };
        self.reviews.get_or_create(&labels).inc();
        self.duration.observe(took.as_secs_f64());
    }
}
