//! Waiting for the end of an asynchronous ARM operation.
//!
//! Where to ask, how often, and what an answer says are pure; [`finish`] is the loop around them.

use std::sync::Arc;
use std::time::Duration;

use api::{Host, IdentityId};
use azure_core::http::Url;
use serde::Deserialize;
use tokio::time::Instant;

use super::ArmError;
use super::model::View;
use super::refusal::{Refusal, classify};
use super::request::{Reply, Requests};
use crate::fault::fault_point;

/// An operation that takes longer is given up: not cancelled, but no longer waited for.
const DEADLINE: Duration = Duration::from_secs(600);

const FIRST_DELAY: Duration = Duration::from_millis(100);
const SHORTEST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// How long most operations take at most. Until then they are looked at as often as may be.
const USUAL: Duration = Duration::from_secs(60);
/// All operations together are looked at ten times a second: ARM lets a subscription read 25 times
/// a second in the long run, and others have to read, too.
const SHARE: Duration = Duration::from_millis(100);

/// Where the end of an operation can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Track {
    /// A document with a `status`.
    AsyncOperation(Url),
    /// 202 until the end.
    Location(Url),
    /// The resource's own `provisioningState`.
    Resource(Url),
}

/// What one look at an operation showed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Running(Option<Duration>),
    /// The end, and the resource if the answer held it.
    Succeeded(Option<View>),
    Failed(Refusal),
    /// Nobody knows of the operation any more: look at the resource instead.
    Forgotten,
}

#[derive(Deserialize)]
struct Document {
    status: Option<String>,
    error: Option<serde_json::Value>,
}

// === where ===

impl Track {
    /// How to follow what `reply` began at `resource`; `None` if it is finished already.
    pub(super) fn of(reply: &Reply, requests: &Requests, resource: &Url) -> Option<Self> {
        let own = |url: &Option<String>| url.as_deref().and_then(|url| requests.own_url(url));
        if let Some(url) = own(&reply.async_operation) {
            return Some(Self::AsyncOperation(url));
        }
        if reply.status == 202 {
            let track = own(&reply.location).map(Self::Location);
            return Some(track.unwrap_or_else(|| Self::Resource(resource.clone())));
        }
        let settled = View::parse(&reply.body)
            .map_or(true, |view| view.identities.provisioning_state.is_none() || view.is_settled());
        (!settled).then(|| Self::Resource(resource.clone()))
    }

    fn url(&self) -> &Url {
        match self {
            Self::AsyncOperation(url) | Self::Location(url) | Self::Resource(url) => url,
        }
    }

    fn read(&self, reply: &Reply) -> Progress {
        if reply.status == 404 && !matches!(self, Self::Resource(_)) {
            return Progress::Forgotten;
        }
        if !reply.is_success() {
            return Progress::Failed(Refusal::of(reply));
        }
        match self {
            Self::AsyncOperation(_) => read_document(reply),
            Self::Location(_) if reply.status == 202 => Progress::Running(reply.retry_after),
            Self::Location(_) => Progress::Succeeded(View::parse(&reply.body).ok()),
            Self::Resource(_) => match View::parse(&reply.body) {
                // Also when `Failed`: hosts can be so for years, for reasons of their own. Whether
                // the change is there is seen on the resource.
                Ok(view) if view.is_settled() => Progress::Succeeded(Some(view)),
                _ => Progress::Running(reply.retry_after),
            },
        }
    }
}

fn read_document(reply: &Reply) -> Progress {
    let Ok(document) = serde_json::from_slice::<Document>(&reply.body) else {
        return Progress::Running(reply.retry_after);
    };
    match document.status.unwrap_or_default().to_ascii_lowercase().as_str() {
        "succeeded" => Progress::Succeeded(None),
        "failed" => {
            Progress::Failed(Refusal::of_operation("OperationFailed", document.error.as_ref()))
        }
        "canceled" | "cancelled" => {
            Progress::Failed(Refusal::of_operation("OperationCanceled", document.error.as_ref()))
        }
        _ => Progress::Running(reply.retry_after),
    }
}

// === how often ===

/// The pause before the next look, `elapsed` after the start, while so many operations are
/// `running`: the end of a usual one is seen at once, an unusual one costs few looks. ARM's own
/// `Retry-After` is made for reboots of whole scale sets; it only ever makes us look sooner.
fn pause(elapsed: Duration, running: usize, hint: Option<Duration>) -> Duration {
    let share = SHARE * u32::try_from(running).unwrap_or(u32::MAX);
    if elapsed < FIRST_DELAY && share <= SHORTEST_DELAY {
        return FIRST_DELAY;
    }
    let patience = if elapsed < USUAL { SHORTEST_DELAY } else { elapsed / 10 };
    let hinted = hint.map_or(patience, |hint| patience.min(hint.max(SHORTEST_DELAY)));
    hinted.max(share).min(LONGEST_DELAY)
}

/// The operations that are waited for; a clone each.
#[derive(Clone, Debug, Default)]
pub(super) struct Running(Arc<()>);

impl Running {
    /// How many there are, while the first of the clones is kept by whoever hands them out.
    fn count(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// Waits until the operation on `track` has ended. `sent` are the identities that it changes.
/// Returns the resource if the last answer held it.
pub(super) async fn finish(
    requests: &Requests,
    mut track: Track,
    resource: &Url,
    (host, sent): (&Host, &[&IdentityId]),
) -> Result<Option<View>, ArmError> {
    let start = Instant::now();
    let running = requests.running();
    let mut delay = pause(Duration::ZERO, running.count(), None);
    // Why the latest look showed nothing.
    let mut blind = None;
    loop {
        if start.elapsed().saturating_add(delay) > DEADLINE {
            return Err(blind.unwrap_or(ArmError::TimedOut { after: DEADLINE }));
        }
        tokio::time::sleep(delay).await;
        fault_point!("poll", "during");
        blind = None;
        let progress = match requests.poll(track.url()).await {
            Ok(reply) => track.read(&reply),
            // The operation goes on whether we hear of it or not.
            Err(error) if error.is_transient() => Progress::Running(None),
            Err(error) => return Err(error),
        };
        delay = match progress {
            Progress::Succeeded(view) => return Ok(view),
            Progress::Running(hint) => pause(start.elapsed(), running.count(), hint),
            Progress::Forgotten => {
                track = Track::Resource(resource.clone());
                Duration::ZERO
            }
            Progress::Failed(refusal) => {
                let asking_failed = refusal.status.is_some();
                let error = classify(refusal, host, sent);
                if !(asking_failed && error.is_transient()) {
                    return Err(error);
                }
                // The time to wait is for all requests; beyond the deadline it is the caller's.
                let wait = error.retry_after().unwrap_or(LONGEST_DELAY).max(SHORTEST_DELAY);
                blind = Some(error);
                wait
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reply(status: u16, body: &serde_json::Value) -> Reply {
        Reply { status, body: body.to_string().into_bytes(), ..Reply::default() }
    }

    fn url() -> Url {
        "https://arm.example/operations/1".parse().unwrap()
    }

    /// When an operation is looked at, of so many.
    fn looks(running: usize) -> Vec<Duration> {
        let (mut now, mut looks) = (Duration::ZERO, Vec::new());
        while now < DEADLINE {
            now += pause(now, running, Some(Duration::from_secs(10)));
            looks.push(now);
        }
        looks
    }

    #[test]
    fn the_end_is_seen_soon_after_it_came() {
        for running in [1, 2] {
            let looks = looks(running);
            assert!(looks.len() < 500, "{} looks", looks.len());
            for end in [50, 150, 500, 2999, 20_111, 40_001, 59_700] {
                let end = Duration::from_millis(end);
                let seen = looks.iter().find(|look| **look >= end).unwrap();
                assert!(*seen - end <= SHORTEST_DELAY, "{end:?} seen at {seen:?}");
            }
            let gap = looks.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert_eq!(gap, LONGEST_DELAY);
        }
    }

    #[test]
    fn many_operations_share_what_arm_lets_be_read() {
        for running in [1_u32, 5, 20, 50] {
            let looks = looks(usize::try_from(running).unwrap());
            let in_a_minute = looks.iter().filter(|look| **look < USUAL).count();
            let rate = in_a_minute * usize::try_from(running).unwrap() / 60;
            assert!(rate <= 10, "{rate} looks a second at {running} operations");
        }
    }

    #[test]
    fn a_shorter_hint_is_followed_and_zero_is_no_storm() {
        let late = Duration::from_secs(100);
        assert_eq!(pause(late, 1, Some(Duration::from_secs(1))), Duration::from_secs(1));
        assert_eq!(pause(late, 1, Some(Duration::ZERO)), SHORTEST_DELAY);
    }

    #[test]
    fn an_operation_counts_as_long_as_it_is_waited_for() {
        let kept = Running::default();
        let one = kept.clone();
        let other = kept.clone();
        assert_eq!(one.count(), 2);
        drop(other);
        assert_eq!(one.count(), 1);
    }

    #[test]
    fn documents_are_read_in_any_case_and_unknown_words_go_on() {
        let track = Track::AsyncOperation(url());
        for status in ["InProgress", "Updating", "Running", ""] {
            let progress = track.read(&reply(200, &json!({"status": status})));
            assert_eq!(progress, Progress::Running(None), "{status}");
        }
        assert_eq!(track.read(&reply(200, &json!({}))), Progress::Running(None));
        let done = track.read(&reply(200, &json!({"status": "SUCCEEDED"})));
        assert_eq!(done, Progress::Succeeded(None));
        for (status, code) in [("Failed", "OperationFailed"), ("Canceled", "OperationCanceled")] {
            let Progress::Failed(refusal) = track.read(&reply(200, &json!({"status": status})))
            else {
                panic!("{status}")
            };
            assert_eq!(refusal.code, code);
        }
    }

    #[test]
    fn a_location_ends_with_anything_but_202() {
        let track = Track::Location(url());
        assert_eq!(track.read(&reply(202, &json!({}))), Progress::Running(None));
        assert!(matches!(track.read(&reply(200, &json!({}))), Progress::Succeeded(Some(_))));
        let empty = Reply { status: 204, ..Reply::default() };
        assert_eq!(track.read(&empty), Progress::Succeeded(None));
        assert_eq!(track.read(&reply(404, &json!({}))), Progress::Forgotten);
    }

    #[test]
    fn a_resource_ends_in_a_settled_state() {
        let track = Track::Resource(url());
        let state = |state: &str| {
            track.read(&reply(200, &json!({"properties": {"provisioningState": state}})))
        };
        assert!(matches!(state("Updating"), Progress::Running(_)));
        assert!(matches!(state("Succeeded"), Progress::Succeeded(Some(_))));
        assert!(matches!(state("Failed"), Progress::Succeeded(Some(_))));
        assert!(matches!(track.read(&reply(404, &json!({}))), Progress::Failed(_)));
    }
}
