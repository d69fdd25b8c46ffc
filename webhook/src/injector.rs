//! From the body of a review to the body of its answer.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config::InjectorConfig;
use crate::decision::{Decision, SkipReason, asks, decide};
use crate::hazards::{DenyReason, explain};
use crate::inject::patch;
use crate::metrics::{Outcome, ReviewMetrics};
use crate::namespace_view::NamespaceView;
use crate::namespaces::Namespaces;
use crate::pod::PodView;
use crate::pointer::PatchError;
use crate::review::{Answer, Review, ReviewError};

/// How long the API server may be ahead of the local watch of namespaces: its call says that the
/// namespace is there and labelled.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers reviews.
#[derive(Debug)]
pub struct Injector {
    config: InjectorConfig,
    namespaces: Namespaces,
    metrics: ReviewMetrics,
}

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The caller's mistake.
    #[error(transparent)]
    BadRequest(#[from] ReviewError),
    /// Ours: the failure policy decides.
    #[error("cannot inject the pod")]
    Inject(#[from] PatchError),
    /// Ours: the failure policy decides.
    #[error("cannot write the answer")]
    Encode(#[source] serde_json::Error),
}

// === impl Injector ===

impl Injector {
    /// An injector that looks namespaces up in a local watch.
    pub fn new(config: InjectorConfig, namespaces: Namespaces, metrics: ReviewMetrics) -> Self {
        Self { config, namespaces, metrics }
    }

    /// Answers a review.
    pub async fn review(&self, body: &[u8]) -> Result<Value, Failure> {
        let started = Instant::now();
        let result = self.answer(body).await;
        let outcome = match &result {
            Ok((outcome, _)) => *outcome,
            Err(Failure::BadRequest(_)) => Outcome::BadRequest,
            Err(Failure::Inject(_) | Failure::Encode(_)) => Outcome::Failed,
        };
        self.metrics.observe(outcome, started.elapsed());
        result.map(|(_, review)| review)
    }

    async fn answer(&self, body: &[u8]) -> Result<(Outcome, Value), Failure> {
        let review = Review::parse(body)?;
        let namespace = if review.creates_pod && asks(&review.object) {
            self.namespaces.enabled(&review.namespace, PATIENCE).await
        } else {
            self.namespaces.get(&review.namespace)
        };
        let (outcome, answer) = answer(&review, &namespace, &self.config)?;
        let review = answer.into_review(&review.uid).map_err(Failure::Encode)?;
        Ok((outcome, review))
    }
}

/// Decides, patches, and says so to the log, the audit log and the author.
fn answer(
    review: &Review,
    namespace: &NamespaceView,
    config: &InjectorConfig,
) -> Result<(Outcome, Answer), Failure> {
    let mut answer = Answer::default();
    if !review.creates_pod {
        let reason = SkipReason::NotAPodCreation.as_str();
        return Ok((Outcome::Skipped(reason), answer));
    }
    let verdict = decide(&review.object, namespace, config);
    answer.warnings = verdict.warnings.as_slice().to_vec();
    let outcome = match &verdict.decision {
        Decision::Inject(plan) => {
            answer.patch = patch(&review.object, plan, config)?;
            if answer.patch.is_empty() { Outcome::Unchanged } else { Outcome::Injected }
        }
        Decision::Skip(reasons) => {
            let kinds = reasons.iter().map(|reason| reason.as_str());
            answer.audit.push(("reasons", join(kinds.clone())));
            Outcome::Skipped(first(kinds))
        }
        Decision::Deny(reasons) => {
            let kinds = reasons.iter().map(DenyReason::kind);
            answer.audit.push(("reasons", join(kinds.clone())));
            answer.denied = Some(explain(reasons));
            Outcome::Denied(first(kinds))
        }
    };
    answer.audit.push(("outcome", outcome.as_str().to_owned()));
    answer.audit.push(("version", config.version.to_owned()));
    log(review, outcome, &answer);
    Ok((outcome, answer))
}

fn log(review: &Review, outcome: Outcome, answer: &Answer) {
    let pod = PodView::new(&review.object).name();
    let (namespace, reason) = (review.namespace.as_str(), outcome.reason());
    match outcome {
        Outcome::Injected => {
            tracing::info!(pod.namespace = namespace, pod.name = pod, "Injected a pod");
        }
        Outcome::Denied(_) => {
            let message = answer.denied.as_deref().unwrap_or_default();
            tracing::info!(
                pod.namespace = namespace,
                pod.name = pod,
                reason,
                message,
                "Refused a pod"
            );
        }
        Outcome::Skipped(_) if !answer.warnings.is_empty() => {
            tracing::info!(
                pod.namespace = namespace,
                pod.name = pod,
                reason,
                "Left a pod without the identity that it asks for"
            );
        }
        _ => tracing::debug!(
            pod.namespace = namespace,
            pod.name = pod,
            outcome = outcome.as_str(),
            reason,
            "Reviewed a pod"
        ),
    }
}

fn first(mut kinds: impl Iterator<Item = &'static str>) -> &'static str {
    kinds.next().unwrap_or_default()
}

fn join(kinds: impl Iterator<Item = &'static str>) -> String {
    kinds.collect::<Vec<_>>().join(",")
}
