//! What is known of one key, and what a request for it is to do.

use std::time::Duration;

use tokio::time::Instant;

use crate::freshness::{Freshness, Jitter, freshness};
use crate::policy::{Policy, refresh_pause, retry_after};
use crate::source::{FetchError, Fetched};

/// A token with its history.
#[derive(Clone)]
pub(crate) struct Kept<V> {
    pub(crate) value: V,
    asked: Instant,
    lifetime: Duration,
    jitter: Jitter,
    attempted: Instant,
    failures: u32,
    left_alone_until: Instant,
    unverified_until: Instant,
}

/// What a request for a kept token is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The token is the answer.
    Answer,
    /// The token is the answer; another is to be fetched behind it.
    AnswerAndRefresh,
    /// Ask the source first, but answer with the token when the time is over.
    AskFirst(Duration),
    /// The token is dead.
    Fetch,
}

// === impl Kept ===

impl<V> Kept<V> {
    /// A token that was asked for at `asked`: its life is counted from there, so that a slow answer
    /// cannot make it look longer than it is.
    pub(crate) fn new(fetched: Fetched<V>, asked: Instant, jitter: Jitter) -> Self {
        Self {
            value: fetched.value,
            asked,
            lifetime: fetched.lifetime,
            jitter,
            attempted: asked,
            failures: 0,
            left_alone_until: asked,
            unverified_until: asked,
        }
    }

    pub(crate) fn remaining(&self, now: Instant) -> Duration {
        self.lifetime.saturating_sub(now.saturating_duration_since(self.asked))
    }

    pub(crate) fn is_alive(&self, now: Instant) -> bool {
        !self.remaining(now).is_zero()
    }

    /// What to do at `now`.
    pub(crate) fn step(&self, policy: &Policy, now: Instant) -> Step {
        let freshness = self.freshness(now);
        let due = self.refresh_is_due(now);
        let unconfirmed = policy.verify_after.is_some_and(|after| {
            now.saturating_duration_since(self.asked) >= after && now >= self.unverified_until
        });
        match freshness {
            Freshness::Expired => Step::Fetch,
            Freshness::Critical if due => Step::AskFirst(policy.critical_wait),
            _ if unconfirmed => Step::AskFirst(policy.verify_wait),
            Freshness::Aging | Freshness::Urgent if due => Step::AnswerAndRefresh,
            _ => Step::Answer,
        }
    }

    /// Whether the token should be replaced now.
    pub(crate) fn refresh_is_due(&self, now: Instant) -> bool {
        let freshness = self.freshness(now);
        freshness > Freshness::Fresh
            && now >= self.left_alone_until
            && now >= self.attempted + refresh_pause(freshness, self.failures)
    }

    /// Takes note of an attempt that brought no token.
    pub(crate) fn failed<E>(&mut self, error: &FetchError<E>, policy: &Policy, now: Instant) {
        self.attempted = now;
        self.failures = self.failures.saturating_add(1);
        self.left_alone_until = now + retry_after(error);
        self.unverified_until = now + policy.verify_pause;
    }

    /// Takes note that the source does not answer in time.
    pub(crate) fn unanswered(&mut self, policy: &Policy, now: Instant) {
        self.attempted = now;
        self.unverified_until = now + policy.verify_pause;
    }

    pub(crate) fn freshness(&self, now: Instant) -> Freshness {
        freshness(now.saturating_duration_since(self.asked), self.lifetime, self.jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn kept(start: Instant, lifetime: u64) -> Kept<()> {
        let fetched = Fetched { value: (), lifetime: Duration::from_secs(lifetime) };
        Kept::new(fetched, start, Jitter::NONE)
    }

    #[tokio::test(start_paused = true)]
    async fn the_step_follows_the_token_s_life() {
        let start = Instant::now();
        let policy = Policy::default();
        let token = kept(start, 24 * HOUR);
        let rows = [
            (0, Step::Answer),
            (49 * 24 * HOUR / 100 - 1, Step::Answer),
            (49 * 24 * HOUR / 100, Step::AnswerAndRefresh),
            (24 * HOUR - 600, Step::AnswerAndRefresh),
            (24 * HOUR - 300, Step::AskFirst(policy.critical_wait)),
            (24 * HOUR, Step::Fetch),
        ];
        for (seconds, expected) in rows {
            assert_eq!(token.step(&policy, at(start, seconds)), expected, "{seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_refresh_is_repeated_on_the_schedule_of_the_token_s_age() {
        let start = Instant::now();
        let policy = Policy::default();
        let mut token = kept(start, 24 * HOUR);
        let half = at(start, 12 * HOUR);
        for _ in 0..5 {
            token.failed(&FetchError::transient(()), &policy, half);
        }
        assert_eq!(token.step(&policy, half + Duration::from_secs(299)), Step::Answer);
        assert_eq!(token.step(&policy, half + Duration::from_secs(300)), Step::AnswerAndRefresh);

        let urgent = at(start, 24 * HOUR - 500);
        token.failed(&FetchError::transient(()), &policy, urgent);
        assert_eq!(token.step(&policy, urgent + Duration::from_secs(29)), Step::Answer);
        assert_eq!(token.step(&policy, urgent + Duration::from_secs(30)), Step::AnswerAndRefresh);

        let wait = Some(Duration::from_secs(50));
        token.failed(&FetchError::Transient { error: (), retry_after: wait }, &policy, urgent);
        assert_eq!(token.step(&policy, urgent + Duration::from_secs(49)), Step::Answer);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unconfirmed_token_asks_first_unless_the_source_just_failed() {
        let start = Instant::now();
        let verify_after = Some(Duration::from_secs(10));
        let policy = Policy { verify_after, ..Policy::default() };
        let mut token = kept(start, 24 * HOUR);
        let ask = Step::AskFirst(policy.verify_wait);
        assert_eq!(token.step(&policy, at(start, 9)), Step::Answer);
        assert_eq!(token.step(&policy, at(start, 10)), ask);
        token.failed(&FetchError::Refused(()), &policy, at(start, 10));
        assert_eq!(token.step(&policy, at(start, 14)), Step::Answer);
        assert_eq!(token.step(&policy, at(start, 15)), ask);
        token.unanswered(&policy, at(start, 16));
        assert_eq!(token.step(&policy, at(start, 20)), Step::Answer);
        assert_eq!(token.step(&policy, at(start, 21)), ask);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_short_from_the_start_is_not_fetched_for_every_request() {
        let start = Instant::now();
        let policy = Policy::default();
        let token = kept(start, 240);
        assert_eq!(token.step(&policy, at(start, 9)), Step::Answer);
        assert_eq!(token.step(&policy, at(start, 10)), Step::AskFirst(policy.critical_wait));
    }
}
