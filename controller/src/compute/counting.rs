//! Counts the requests that go out to ARM: each try and each look at an operation, which is what
//! ARM's throttling counts. What became of a call as a whole is counted by its caller.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use runtime::Metrics;

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// Reads a host.
    Get,
    /// Changes a host.
    Patch,
    /// Looks whether a change has ended.
    Poll,
}

/// The requests by purpose and answer; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestCounter(Family<Labels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    request: &'static str,
    answer: &'static str,
}

/// A request under way; it is counted when there will be no other answer, or none at all.
struct Sent<'a> {
    counter: &'a RequestCounter,
    labels: Labels,
}

// === impl RequestCounter ===

impl RequestCounter {
    /// Makes them known.
    pub(super) fn register(&self, metrics: &Metrics) {
        metrics.register(|r| {
            r.register(
                "arm_requests",
                "Requests sent to Azure Resource Manager, retries and polls included, by answer",
                self.0.clone(),
            );
        });
    }
}

#[async_trait]
#[expect(elided_lifetimes_in_paths, reason = "as the trait has it, or async_trait binds it early")]
impl Policy for RequestCounter {
    async fn send(
        &self,
        context: &Context,
        request: &mut Request,
        next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        let [first, rest @ ..] = next else {
            return Err(azure_core::Error::with_message(ErrorKind::Other, "no transport"));
        };
        let purpose = context.value().copied().unwrap_or(Purpose::Get);
        let labels = Labels { request: purpose.name(), answer: "none" };
        let mut sent = Sent { counter: self, labels };
        let result = first.send(context, request, rest).await;
        if let Ok(response) = &result {
            sent.labels.answer = answer(u16::from(response.status()));
        }
        result
    }
}

// === impl Purpose ===

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Patch => "patch",
            Self::Poll => "poll",
        }
    }
}

fn answer(status: u16) -> &'static str {
    match status {
        200..300 => "ok",
        429 => "throttled",
        500.. => "failed",
        _ => "refused",
    }
}

// === impl Sent ===

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.counter.0.get_or_create(&self.labels).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_of_few_kinds() {
        for (status, expected) in [
            (200, "ok"),
            (202, "ok"),
            (302, "refused"),
            (404, "refused"),
            (412, "refused"),
            (429, "throttled"),
            (503, "failed"),
        ] {
            assert_eq!(answer(status), expected, "{status}");
        }
    }
}
