//! The registry of a process's metrics and their text form.

use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// The prefix of every metric.
pub const PREFIX: &str = "podidentity";

/// A shared registry; clones are the same registry.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<RwLock<Registry>>);

impl Metrics {
    /// A registry that says which component and version this is.
    pub fn new(component: &'static str, version: &'static str) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let info = Info::new([("component", component), ("version", version)]);
        registry.register("build", "What runs here", info);
        Self(Arc::new(RwLock::new(registry)))
    }

    /// Registers metrics: `metrics.register(|r| r.register("name", "help", counter.clone()))`.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.0.write())
    }

    /// All metrics in the OpenMetrics text form.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.0.read()) {
            Ok(()) => text,
            // Only a metric that fails to describe itself gets here.
            Err(error) => format!("# cannot encode the metrics: {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_the_component() {
        let text = Metrics::new("controller", "1.2.3").text();
        assert!(
            text.contains(r#"podidentity_build_info{component="controller",version="1.2.3"} 1"#)
        );
    }
}
