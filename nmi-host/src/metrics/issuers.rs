//! What is counted of the calls to those who issue tokens, and of the calls that were not made.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::labels::{EntraResult, ImdsResult, Issuer, Withheld};

const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Counters of calls.
#[derive(Debug)]
pub(super) struct Issuers {
    imds_calls: Family<ResultLabel, Counter>,
    imds_seconds: Histogram,
    entra_calls: Family<ResultLabel, Counter>,
    entra_seconds: Histogram,
    withheld: Family<WithheldLabel, Counter>,
    open_circuits: Family<IssuerLabel, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IssuerLabel {
    issuer: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WithheldLabel {
    issuer: &'static str,
    reason: &'static str,
}

// === impl Issuers ===

impl Issuers {
    pub(super) fn new() -> Self {
        let this = Self {
            imds_calls: Family::default(),
            imds_seconds: Histogram::new(BUCKETS),
            entra_calls: Family::default(),
            entra_seconds: Histogram::new(BUCKETS),
            withheld: Family::default(),
            open_circuits: Family::default(),
        };
        // Zero is said from the start: an alert needs something to compare with.
        for issuer in [Issuer::Imds, Issuer::Entra] {
            this.circuits(issuer, 0);
        }
        this
    }

    pub(super) fn imds_called(&self, result: ImdsResult, took: Duration) {
        self.imds_calls.get_or_create(&ResultLabel { result: result.as_str() }).inc();
        self.imds_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn entra_called(&self, result: EntraResult, took: Duration) {
        self.entra_calls.get_or_create(&ResultLabel { result: result.as_str() }).inc();
        self.entra_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn withheld(&self, issuer: Issuer, reason: Withheld) {
        let labels = WithheldLabel { issuer: issuer.as_str(), reason: reason.as_str() };
        self.withheld.get_or_create(&labels).inc();
    }

    pub(super) fn circuits(&self, issuer: Issuer, change: i64) {
        self.open_circuits.get_or_create(&IssuerLabel { issuer: issuer.as_str() }).inc_by(change);
    }

    pub(super) fn register(&self, r: &mut Registry) {
        r.register(
            "imds_calls",
            "Token calls to the metadata service by result",
            self.imds_calls.clone(),
        );
        r.register_with_unit(
            "imds_call",
            "Duration of token calls to the metadata service, without the wait for a turn",
            Unit::Seconds,
            self.imds_seconds.clone(),
        );
        r.register(
            "entra_calls",
            "Token calls to Entra for applications by result",
            self.entra_calls.clone(),
        );
        r.register_with_unit(
            "entra_call",
            "Duration of token calls to Entra, with reading the Secret",
            Unit::Seconds,
            self.entra_seconds.clone(),
        );
        r.register(
            "withheld_calls",
            "Token calls that were not made, by issuer and reason",
            self.withheld.clone(),
        );
        r.register(
            "open_circuits",
            "Issuers that have failed for a while and are asked only once in a while",
            self.open_circuits.clone(),
        );
    }
}
