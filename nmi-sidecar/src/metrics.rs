//! What the sidecar counts. Labels are closed sets.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use token_cache::{Source, TokenCache};

use crate::imds::Outcome;
use crate::node::Failure;

/// From a token of the cache to the longest that anybody is kept waiting.
const SECONDS: [f64; 12] =
    [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 25.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Requests of applications.
#[derive(Debug)]
pub struct RequestMetrics {
    answered: [Counter; Outcome::ALL.len()],
    duration: Histogram,
}

/// Calls of the node's agent.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    calls: Family<Labels<2>, Counter>,
    duration: Histogram,
}

/// The calls that the agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// For a token.
    Token,
    /// For the state of the pod's identities.
    Assignment,
}

/// What a cache counts by itself.
struct CacheMetrics<S: Source>(TokenCache<S>);

// === impl RequestMetrics ===

impl RequestMetrics {
    /// Registers them, each outcome with a zero.
    pub fn register(registry: &mut Registry) -> Self {
        let family = Family::<Labels<1>, Counter>::default();
        registry.register(
            "sidecar_requests",
            "Requests of applications, by what they were answered",
            family.clone(),
        );
        let duration = Histogram::new(SECONDS);
        registry.register(
            "sidecar_request_duration_seconds",
            "From a complete request to its answer",
            duration.clone(),
        );
        let answered = Outcome::ALL
            .map(|outcome| family.get_or_create_owned(&[("outcome", outcome.as_str())]));
        Self { answered, duration }
    }

    /// Counts an answer.
    pub(crate) fn observe(&self, outcome: Outcome, duration: Duration) {
        self.answered[outcome as usize].inc();
        self.duration.observe(duration.as_secs_f64());
    }
}

// === impl UpstreamMetrics ===

impl UpstreamMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "sidecar_upstream_calls",
            "Calls of the node's agent, by their result",
            metrics.calls.clone(),
        );
        registry.register(
            "sidecar_upstream_duration_seconds",
            "Token calls of the node's agent, from their beginning to their end",
            metrics.duration.clone(),
        );
        metrics
    }

    /// Counts a call.
    pub(crate) fn count(&self, call: Call, failure: Option<&Failure>, duration: Duration) {
        let call = match call {
            Call::Token => {
                self.duration.observe(duration.as_secs_f64());
                "token"
            }
            // They wait as long as they are told to.
            Call::Assignment => "assignment",
        };
        let result = failure.map_or("ok", Failure::as_str);
        self.calls.get_or_create(&[("call", call), ("result", result)]).inc();
    }
}

impl Default for UpstreamMetrics {
    fn default() -> Self {
        Self { calls: Family::default(), duration: Histogram::new(SECONDS) }
    }
}

// === impl CacheMetrics ===

/// Registers what `cache` counts.
pub fn register_cache<S: Source>(registry: &mut Registry, cache: TokenCache<S>) {
    registry.register_collector(Box::new(CacheMetrics(cache)));
}

impl<S: Source> Collector for CacheMetrics<S> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        let counters = [
            ("hits", "Requests for which a living token was there", stats.hits),
            ("misses", "Requests for which none was there", stats.misses),
            ("refreshes", "Living tokens that were replaced or confirmed", stats.refreshes),
            ("failures", "Attempts that brought no token", stats.failures),
            ("retries", "Attempts beyond the first of a fetch", stats.retries),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            let name = format!("sidecar_cache_{name}");
            let metric = encoder.encode_descriptor(&name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let expiry = stats.soonest_expiry.unwrap_or_default().as_secs();
        let gauges = [
            ("sidecar_cache_keys", "Tokens and failures held", stats.size as u64),
            (
                "sidecar_token_seconds_to_expiry",
                "Remaining life of the token that expires first; 0 if there is none",
                expiry,
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

impl<S: Source> fmt::Debug for CacheMetrics<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_its_own_counter() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::register(&mut registry);
        for (times, outcome) in Outcome::ALL.into_iter().enumerate() {
            for _ in 0..times {
                metrics.observe(outcome, Duration::from_millis(1));
            }
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for (times, outcome) in Outcome::ALL.into_iter().enumerate() {
            let line =
                format!("sidecar_requests_total{{outcome=\"{}\"}} {times}\n", outcome.as_str());
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
