//! The token cache's own statistics, read when the metrics are asked for.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use token_cache::{Stats, Tokens};

/// Asks the cache for its statistics at every scrape.
struct CacheCollector<F>(F);

/// Adds the token cache's own statistics.
pub(crate) fn register_cache(
    metrics: &runtime::Metrics,
    stats: impl Fn() -> Stats + Send + Sync + 'static,
) {
    metrics.register(|registry| registry.register_collector(Box::new(CacheCollector(stats))));
}

impl<F> std::fmt::Debug for CacheCollector<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheCollector").finish_non_exhaustive()
    }
}

impl<F: Fn() -> Stats + Send + Sync + 'static> Collector for CacheCollector<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = (self.0)();
        for (name, help, value) in [
            ("token_cache_hits", "Requests for which a living token was there", stats.hits),
            ("token_cache_misses", "Requests for which no token was there", stats.misses),
            ("token_cache_refreshes", "Tokens replaced while they lived", stats.refreshes),
            ("token_cache_failures", "Attempts that brought no token", stats.failures),
            ("token_cache_retries", "Attempts beyond the first of a fetch", stats.retries),
        ] {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let size = ConstGauge::new(i64::try_from(stats.size).unwrap_or(i64::MAX));
        let help = "Tokens and remembered failures held";
        size.encode(encoder.encode_descriptor(
            "token_cache_size",
            help,
            None,
            size.metric_type(),
        )?)?;
        encode_tokens(&mut encoder, stats.tokens)?;
        if let Some(left) = stats.soonest_expiry {
            let left = ConstGauge::new(left.as_secs_f64());
            let help = "Remaining life of the token that expires first";
            let name = "token_cache_soonest_expiry_seconds";
            left.encode(encoder.encode_descriptor(name, help, None, left.metric_type())?)?;
        }
        Ok(())
    }
}

fn encode_tokens(
    encoder: &mut DescriptorEncoder<'_>,
    tokens: Tokens,
) -> Result<(), std::fmt::Error> {
    let help = "Living tokens by how far they are in their lives: urgent ones end within ten minutes, critical ones within five";
    let mut family =
        encoder.encode_descriptor("token_cache_tokens", help, None, MetricType::Gauge)?;
    for (life, count) in [
        ("fresh", tokens.fresh),
        ("aging", tokens.aging),
        ("urgent", tokens.urgent),
        ("critical", tokens.critical),
    ] {
        let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        count.encode(family.encode_family(&[("life", life)])?)?;
    }
    Ok(())
}
