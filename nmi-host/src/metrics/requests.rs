//! What is counted of requests: who asked, how it ended, how long it took.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{Operation, ReviewResult};

/// From a cached token to one that took all the patience there is.
const BUCKETS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];

/// Counters of both servers.
#[derive(Debug)]
pub(super) struct Requests {
    sidecar: Family<Request, Counter>,
    sidecar_seconds: Histogram,
    host: Family<Outcome, Counter>,
    host_seconds: Histogram,
    reviews: Family<ReviewLabel, Counter>,
    pub(super) refused_connections: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabel {
    result: &'static str,
}

// === impl Requests ===

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            sidecar: Family::default(),
            sidecar_seconds: Histogram::new(BUCKETS),
            host: Family::default(),
            host_seconds: Histogram::new(BUCKETS),
            reviews: Family::default(),
            refused_connections: Counter::default(),
        }
    }

    pub(super) fn sidecar(&self, operation: Operation, outcome: &'static str, took: Duration) {
        self.sidecar.get_or_create(&Request { operation: operation.as_str(), outcome }).inc();
        // The other operation waits as long as its caller wants.
        if operation == Operation::Token {
            self.sidecar_seconds.observe(took.as_secs_f64());
        }
    }

    pub(super) fn host(&self, outcome: &'static str, took: Duration) {
        self.host.get_or_create(&Outcome { outcome }).inc();
        self.host_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn reviewed(&self, result: ReviewResult) {
        self.reviews.get_or_create(&ReviewLabel { result: result.as_str() }).inc();
    }

    pub(super) fn register(&self, r: &mut Registry) {
        // Not `sidecar_…`: that is what sidecars count of themselves.
        r.register("node_api_requests", "Answers to sidecars by outcome", self.sidecar.clone());
        r.register_with_unit(
            "node_api_token_request",
            "Duration of token requests of sidecars, with all waiting",
            Unit::Seconds,
            self.sidecar_seconds.clone(),
        );
        r.register(
            "host_requests",
            "Answers to processes of the node by outcome",
            self.host.clone(),
        );
        r.register_with_unit(
            "host_token_request",
            "Duration of requests of processes of the node, with all waiting",
            Unit::Seconds,
            self.host_seconds.clone(),
        );
        r.register(
            "token_reviews",
            "Questions to the API server about pods' tokens by result",
            self.reviews.clone(),
        );
        r.register(
            "refused_connections",
            "Connections that were closed because there were too many",
            self.refused_connections.clone(),
        );
    }
}
