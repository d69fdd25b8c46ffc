//! What is counted here. Labels are closed sets: never a name, an id or an error text.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::node_api::NodeErrorCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The agent's counters. Clones are the same counters.
#[derive(Clone, Debug)]
pub(crate) struct HostMetrics(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    sidecar_requests: Family<Request, Counter>,
    host_requests: Family<Outcome, Counter>,
    token_reviews: Family<ReviewLabel, Counter>,
    imds_calls: Family<ImdsLabel, Counter>,
    imds_seconds: Histogram,
    entra_calls: Family<EntraLabel, Counter>,
    entra_seconds: Histogram,
    watch_failures: Family<WatchLabel, Counter>,
    guard_failures: Counter,
    guard_applied: Gauge,
    guard_last_success: Gauge<f64, AtomicU64>,
    guard_excepted: Gauge,
    refused_connections: Counter,
}

/// What a sidecar asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A token.
    Token,
    /// The pod's identities.
    Assignment,
}

/// How a review of a pod's token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReviewResult {
    /// A pod of this node.
    Authenticated,
    /// No pod that the API server vouches for.
    Rejected,
    /// A pod of another node.
    WrongNode,
    /// The API server could not be asked.
    Unavailable,
}

/// How a call to the metadata service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImdsResult {
    /// With a token of the right identity.
    Token,
    /// The identity is not known there, or not yet.
    UnknownIdentity,
    /// Refused for good.
    Refused,
    /// With the token of another identity.
    WrongToken,
    /// It asked to slow down.
    Throttled,
    /// No answer in time, a server error or an answer that makes no sense.
    Unavailable,
}

/// How a call to Entra for an application ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntraResult {
    /// With a token of the right application.
    Token,
    /// It did not come to a call: the credential could not be had.
    NoCredential,
    /// Refused for good.
    Refused,
    /// With the token of another application or tenant.
    WrongToken,
    /// It asked to slow down.
    Throttled,
    /// No answer in time, a server error or an answer that makes no sense.
    Unavailable,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// `AzureAssignedIdentity` objects of this node.
    Assigned,
    /// Pods of this node.
    Pods,
    /// `AzurePodIdentityException` objects.
    Exceptions,
    /// The Secret with the serving certificate.
    Certificate,
    /// The agent's own DaemonSet.
    DaemonSet,
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ImdsLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EntraLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabel {
    watch: &'static str,
}

const OK: &str = "ok";

// === impl HostMetrics ===

impl HostMetrics {
    /// Registers the counters.
    pub(crate) fn new(metrics: &runtime::Metrics) -> Self {
        let this = Self::detached();
        metrics.register(|registry| this.0.register(registry));
        this
    }

    /// Counters that nobody reads.
    pub(crate) fn detached() -> Self {
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
        Self(Arc::new(Counters {
            sidecar_requests: Family::default(),
            host_requests: Family::default(),
            token_reviews: Family::default(),
            imds_calls: Family::default(),
            imds_seconds: Histogram::new(buckets),
            entra_calls: Family::default(),
            entra_seconds: Histogram::new(buckets),
            watch_failures: Family::default(),
            guard_failures: Counter::default(),
            guard_applied: Gauge::default(),
            guard_last_success: Gauge::default(),
            guard_excepted: Gauge::default(),
            refused_connections: Counter::default(),
        }))
    }

    /// A sidecar was answered.
    pub(crate) fn sidecar_answered(&self, operation: Operation, error: Option<NodeErrorCode>) {
        let outcome = error.map_or(OK, NodeErrorCode::as_str);
        let labels = Request { operation: operation.as_str(), outcome };
        self.0.sidecar_requests.get_or_create(&labels).inc();
    }

    /// A process of the node was answered; `outcome` is the name of an outcome of that endpoint.
    pub(crate) fn host_answered(&self, outcome: Option<&'static str>) {
        let labels = Outcome { outcome: outcome.unwrap_or(OK) };
        self.0.host_requests.get_or_create(&labels).inc();
    }

    /// The API server was asked about a token.
    pub(crate) fn reviewed(&self, result: ReviewResult) {
        self.0.token_reviews.get_or_create(&ReviewLabel { result: result.as_str() }).inc();
    }

    /// The metadata service was called.
    pub(crate) fn imds_called(&self, result: ImdsResult, took: Duration) {
        self.0.imds_calls.get_or_create(&ImdsLabel { result: result.as_str() }).inc();
        self.0.imds_seconds.observe(took.as_secs_f64());
    }

    /// Entra was called, if there was a credential to call it with.
    pub(crate) fn entra_called(&self, result: EntraResult, took: Duration) {
        self.0.entra_calls.get_or_create(&EntraLabel { result: result.as_str() }).inc();
        self.0.entra_seconds.observe(took.as_secs_f64());
    }

    /// A watch broke.
    pub(crate) fn watch_failed(&self, watch: Watch) {
        self.0.watch_failures.get_or_create(&WatchLabel { watch: watch.as_str() }).inc();
    }

    /// The guard's rules are in place, with so many addresses let through.
    pub(crate) fn guard_applied(&self, excepted: usize, now: SystemTime) {
        self.0.guard_applied.set(1);
        self.0.guard_excepted.set(i64::try_from(excepted).unwrap_or(i64::MAX));
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.0.guard_last_success.set(seconds);
    }

    /// The guard's rules could not be written or verified.
    pub(crate) fn guard_failed(&self) {
        self.0.guard_applied.set(0);
        self.0.guard_failures.inc();
    }

    /// A connection was closed because there were too many.
    pub(crate) fn connection_refused(&self) {
        self.0.refused_connections.inc();
    }
}

impl Counters {
    fn register(&self, r: &mut Registry) {
        r.register(
            "sidecar_requests",
            "Answers to sidecars by outcome",
            self.sidecar_requests.clone(),
        );
        r.register(
            "host_requests",
            "Answers to processes of the node by outcome",
            self.host_requests.clone(),
        );
        r.register(
            "token_reviews",
            "Questions to the API server about pods' tokens by result",
            self.token_reviews.clone(),
        );
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
            "watch_failures",
            "Watches that broke and were started again",
            self.watch_failures.clone(),
        );
        r.register(
            "refused_connections",
            "Connections that were closed because there were too many",
            self.refused_connections.clone(),
        );
        self.register_guard(r.sub_registry_with_prefix("guard"));
    }

    fn register_guard(&self, r: &mut Registry) {
        r.register(
            "failures",
            "Attempts to write or verify the node guard's rules that failed",
            self.guard_failures.clone(),
        );
        r.register(
            "applied",
            "Whether the rules were in place at the last look",
            self.guard_applied.clone(),
        );
        r.register(
            "last_success_timestamp_seconds",
            "Unix time of the last look at which the rules were in place",
            self.guard_last_success.clone(),
        );
        r.register(
            "excepted_addresses",
            "Pod addresses that the guard lets through",
            self.guard_excepted.clone(),
        );
    }
}

// === impl labels ===

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Assignment => "assignment",
        }
    }
}

impl ReviewResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Authenticated => "authenticated",
            Self::Rejected => "rejected",
            Self::WrongNode => "wrong_node",
            Self::Unavailable => "unavailable",
        }
    }
}

impl ImdsResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::UnknownIdentity => "unknown_identity",
            Self::Refused => "refused",
            Self::WrongToken => "wrong_token",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }
}

impl EntraResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::NoCredential => "no_credential",
            Self::Refused => "refused",
            Self::WrongToken => "wrong_token",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Watch {
    /// The name in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Pods => "pods",
            Self::Exceptions => "exceptions",
            Self::Certificate => "certificate",
            Self::DaemonSet => "daemonset",
        }
    }
}

#[cfg(test)]
mod tests {
    use token_cache::Stats;

    use super::*;
    use crate::cache_metrics::register_cache;

    #[test]
    fn everything_is_in_the_text() {
        let metrics = runtime::Metrics::new("nmi-host", "0");
        let counters = HostMetrics::new(&metrics);
        register_cache(&metrics, || Stats {
            hits: 3,
            soonest_expiry: Some(Duration::from_secs(60)),
            ..Stats::default()
        });
        counters.sidecar_answered(Operation::Token, None);
        counters.sidecar_answered(Operation::Token, Some(NodeErrorCode::WrongNode));
        counters.host_answered(Some("refused"));
        counters.reviewed(ReviewResult::Authenticated);
        counters.imds_called(ImdsResult::Throttled, Duration::from_millis(7));
        counters.entra_called(EntraResult::NoCredential, Duration::from_millis(7));
        counters.watch_failed(Watch::Pods);
        counters.guard_applied(2, UNIX_EPOCH + Duration::from_secs(9));
        let text = metrics.text();
        for line in [
            r#"podidentity_sidecar_requests_total{operation="token",outcome="ok"} 1"#,
            r#"podidentity_sidecar_requests_total{operation="token",outcome="wrong_node"} 1"#,
            r#"podidentity_host_requests_total{outcome="refused"} 1"#,
            r#"podidentity_token_reviews_total{result="authenticated"} 1"#,
            r#"podidentity_imds_calls_total{result="throttled"} 1"#,
            r#"podidentity_imds_call_seconds_count 1"#,
            r#"podidentity_entra_calls_total{result="no_credential"} 1"#,
            r#"podidentity_entra_call_seconds_count 1"#,
            r#"podidentity_watch_failures_total{watch="pods"} 1"#,
            "podidentity_guard_applied 1",
            "podidentity_guard_excepted_addresses 2",
            "podidentity_guard_last_success_timestamp_seconds 9.0",
            "podidentity_token_cache_hits_total 3",
            "podidentity_token_cache_soonest_expiry_seconds 60.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        counters.guard_failed();
        assert!(metrics.text().contains("podidentity_guard_applied 0"));
    }
}
