//! What is counted here, by one name for all who count.

mod cache;
mod guard;
mod issuers;
mod labels;
mod requests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::node_api::NodeErrorCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

pub(crate) use cache::register_cache;
use guard::GuardCounters;
use issuers::Issuers;
pub(crate) use labels::{
    EntraResult, ImdsResult, Issuer, Operation, ReviewResult, Watch, Withheld,
};
use requests::Requests;

/// The agent's counters. Clones are the same counters.
#[derive(Clone, Debug)]
pub(crate) struct HostMetrics(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    requests: Requests,
    issuers: Issuers,
    guard: GuardCounters,
    watch_failures: Family<WatchLabel, Counter>,
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
        Self(Arc::new(Counters {
            requests: Requests::new(),
            issuers: Issuers::new(),
            guard: GuardCounters::default(),
            watch_failures: Family::default(),
        }))
    }

    /// A sidecar was answered.
    pub(crate) fn sidecar_answered(
        &self,
        operation: Operation,
        error: Option<NodeErrorCode>,
        took: Duration,
    ) {
        self.0.requests.sidecar(operation, error.map_or(OK, NodeErrorCode::as_str), took);
    }

    /// A process of the node was answered; `error` is the name of an outcome of that endpoint.
    pub(crate) fn host_answered(&self, error: Option<&'static str>, took: Duration) {
        self.0.requests.host(error.unwrap_or(OK), took);
    }

    /// The API server was asked about a token.
    pub(crate) fn reviewed(&self, result: ReviewResult) {
        self.0.requests.reviewed(result);
    }

    /// A connection was closed because there were too many.
    pub(crate) fn connection_refused(&self) {
        self.0.requests.refused_connections.inc();
    }

    /// The metadata service was called.
    pub(crate) fn imds_called(&self, result: ImdsResult, took: Duration) {
        self.0.issuers.imds_called(result, took);
    }

    /// Entra was called, if there was a credential to call it with.
    pub(crate) fn entra_called(&self, result: EntraResult, took: Duration) {
        self.0.issuers.entra_called(result, took);
    }

    /// A call was not made.
    pub(crate) fn call_withheld(&self, issuer: Issuer, reason: Withheld) {
        self.0.issuers.withheld(issuer, reason);
    }

    /// An issuer is from now on asked only once in a while, or as usual again.
    pub(crate) fn circuit(&self, issuer: Issuer, open: bool) {
        self.0.issuers.circuits(issuer, if open { 1 } else { -1 });
    }

    /// A watch broke.
    pub(crate) fn watch_failed(&self, watch: Watch) {
        self.0.watch_failures.get_or_create(&WatchLabel { watch: watch.as_str() }).inc();
    }

    /// The guard's rules are in place, with so many addresses let through.
    pub(crate) fn guard_applied(&self, excepted: usize, now: SystemTime) {
        self.0.guard.applied(excepted, now);
    }

    /// The guard's rules could not be written or verified.
    pub(crate) fn guard_failed(&self) {
        self.0.guard.failed();
    }
}

impl Counters {
    fn register(&self, r: &mut Registry) {
        self.requests.register(r);
        self.issuers.register(r);
        r.register(
            "watch_failures",
            "Watches that broke and were started again",
            self.watch_failures.clone(),
        );
        self.guard.register(r.sub_registry_with_prefix("guard"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use token_cache::{Stats, Tokens};

    use super::*;

    fn assert_lines(metrics: &runtime::Metrics, lines: &[&str]) {
        let text = metrics.text();
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn requests_and_calls_are_in_the_text() {
        let metrics = runtime::Metrics::new("nmi-host", "0");
        let counters = HostMetrics::new(&metrics);
        let took = Duration::from_millis(7);
        counters.sidecar_answered(Operation::Token, None, took);
        counters.sidecar_answered(Operation::Token, Some(NodeErrorCode::WrongNode), took);
        counters.sidecar_answered(Operation::Assignment, None, Duration::from_secs(30));
        counters.host_answered(Some("refused"), took);
        counters.reviewed(ReviewResult::Authenticated);
        counters.imds_called(ImdsResult::Throttled, took);
        counters.entra_called(EntraResult::NoCredential, took);
        counters.call_withheld(Issuer::Imds, Withheld::NoTurn);
        counters.circuit(Issuer::Entra, true);
        counters.watch_failed(Watch::Pods);
        assert_lines(
            &metrics,
            &[
                r#"podidentity_node_api_requests_total{operation="token",outcome="ok"} 1"#,
                r#"podidentity_node_api_requests_total{operation="token",outcome="wrong_node"} 1"#,
                "podidentity_node_api_token_request_seconds_count 2",
                r#"podidentity_host_requests_total{outcome="refused"} 1"#,
                "podidentity_host_token_request_seconds_count 1",
                r#"podidentity_token_reviews_total{result="authenticated"} 1"#,
                r#"podidentity_imds_calls_total{result="throttled"} 1"#,
                "podidentity_imds_call_seconds_count 1",
                r#"podidentity_entra_calls_total{result="no_credential"} 1"#,
                "podidentity_entra_call_seconds_count 1",
                r#"podidentity_withheld_calls_total{issuer="imds",reason="no_turn"} 1"#,
                r#"podidentity_open_circuits{issuer="imds"} 0"#,
                r#"podidentity_open_circuits{issuer="entra"} 1"#,
                r#"podidentity_watch_failures_total{watch="pods"} 1"#,
            ],
        );
        assert!(!metrics.text().contains("podidentity_sidecar_"), "a sidecar's own names");
        counters.circuit(Issuer::Entra, false);
        assert_lines(&metrics, &[r#"podidentity_open_circuits{issuer="entra"} 0"#]);
    }

    #[test]
    fn the_guard_is_in_the_text() {
        let metrics = runtime::Metrics::new("nmi-host", "0");
        let counters = HostMetrics::new(&metrics);
        counters.guard_applied(2, UNIX_EPOCH + Duration::from_secs(9));
        assert_lines(
            &metrics,
            &[
                "podidentity_guard_applied 1",
                "podidentity_guard_excepted_addresses 2",
                "podidentity_guard_last_success_timestamp_seconds 9.0",
            ],
        );
        counters.guard_failed();
        assert_lines(&metrics, &["podidentity_guard_applied 0"]);
    }

    #[test]
    fn the_cache_is_in_the_text() {
        let metrics = runtime::Metrics::new("nmi-host", "0");
        register_cache(&metrics, || Stats {
            hits: 3,
            retries: 4,
            soonest_expiry: Some(Duration::from_secs(60)),
            tokens: Tokens { aging: 2, ..Tokens::default() },
            ..Stats::default()
        });
        assert_lines(
            &metrics,
            &[
                "podidentity_token_cache_hits_total 3",
                "podidentity_token_cache_retries_total 4",
                r#"podidentity_token_cache_tokens{life="fresh"} 0"#,
                r#"podidentity_token_cache_tokens{life="aging"} 2"#,
                "podidentity_token_cache_soonest_expiry_seconds 60.0",
            ],
        );
    }
}
