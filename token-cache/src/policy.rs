//! The numbers that a process chooses, and the pauses that follow from them.

use std::time::Duration;

use crate::freshness::Freshness;
use crate::source::FetchError;

/// How a cache behaves. Build it with `Policy { capacity: 64, ..Policy::default() }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How many keys are kept, failures included. The least recently used goes first, failures
    /// before tokens.
    pub capacity: usize,
    /// Ask the source again before answering with a token that it has not confirmed for so long;
    /// never if absent.
    pub verify_after: Option<Duration>,
    /// How long a request waits for that confirmation before it is answered from the cache.
    pub verify_wait: Duration,
    /// How long nothing is confirmed after the source could not be asked, so that a dead source
    /// does not slow every request down.
    pub verify_pause: Duration,
    /// How long a request waits for a refresh in the last minutes of a token.
    pub critical_wait: Duration,
    /// From the beginning of an attempt to that of the next one, for a request that has no token
    /// to fall back on; the last one repeats. Each is shortened at random, and an attempt that took
    /// longer is followed at once by the next one. See [`crate::Source::patience`].
    pub retry_pauses: Vec<Duration>,
    /// How many attempts beyond the first of their fetch the whole cache may make at once. Those
    /// beyond wait, or fail if they cannot wait so long.
    pub retry_burst: u32,
    /// After the burst, one such attempt each so often.
    pub retry_every: Duration,
    /// How long a key is answered from the cache after a caller had its token replaced: see
    /// [`crate::Request::rejecting`].
    pub reject_pause: Duration,
    /// How many requests may wait for one key.
    pub max_waiters: usize,
}

/// The longest that a source's wish to be left alone is followed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

// === impl Policy ===

impl Default for Policy {
    fn default() -> Self {
        Self {
            capacity: 64,
            verify_after: None,
            verify_wait: Duration::from_secs(1),
            verify_pause: Duration::from_secs(5),
            critical_wait: Duration::from_secs(10),
            // At the latest at 0, 0.2, 0.6, 1.5, 3.5, 5.5 … s. Not further apart: when every second
            // attempt fails, it takes many of them within the patience to be sure of a token.
            retry_pauses: [200, 400, 900, 2000].map(Duration::from_millis).to_vec(),
            // A few cold keys, of which each tries some twenty times in 25 s.
            retry_burst: 30,
            retry_every: Duration::from_secs(1),
            reject_pause: Duration::from_secs(10),
            max_waiters: 1024,
        }
    }
}

impl Policy {
    /// The longest time from attempt `attempt` (from 1 on) to the next one.
    pub(crate) fn retry_pause(&self, attempt: usize) -> Duration {
        let pauses = &self.retry_pauses;
        pauses.get(attempt - 1).or(pauses.last()).copied().unwrap_or(Duration::from_secs(1))
    }
}

/// How long a refresh is not tried again after `failures` of them in a row.
pub(crate) fn refresh_pause(freshness: Freshness, failures: u32) -> Duration {
    let seconds = match (freshness, failures) {
        (Freshness::Critical | Freshness::Expired, _) => 10,
        (Freshness::Urgent, _) | (_, 0 | 1) => 30,
        (_, 2) => 60,
        (_, 3) => 120,
        (_, 4) => 240,
        _ => 300,
    };
    Duration::from_secs(seconds)
}

/// How long a failure is the answer for a key without a token.
pub(crate) fn failure_life<E>(error: &FetchError<E>) -> Duration {
    match error {
        // A binding may appear at any moment, and the answer is cheap.
        FetchError::Revoked(_) => Duration::from_secs(1),
        // Not longer: what Entra refuses now it may allow when a change has spread.
        FetchError::Refused(_) => Duration::from_secs(30),
        FetchError::Transient { retry_after, .. } => {
            retry_after.unwrap_or_default().clamp(Duration::from_secs(1), MAX_RETRY_AFTER)
        }
    }
}

/// How long the source wants to be left alone.
pub(crate) fn retry_after<E>(error: &FetchError<E>) -> Duration {
    match error {
        FetchError::Transient { retry_after: Some(after), .. } => (*after).min(MAX_RETRY_AFTER),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refreshes_back_off_to_five_minutes_but_not_near_the_end() {
        let pauses: Vec<u64> =
            (1..=7).map(|n| refresh_pause(Freshness::Aging, n).as_secs()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 300, 300, 300]);
        assert_eq!(refresh_pause(Freshness::Urgent, 9).as_secs(), 30);
        assert_eq!(refresh_pause(Freshness::Critical, 9).as_secs(), 10);
    }

    #[test]
    fn failures_are_remembered_by_their_kind() {
        let life = |error: FetchError<()>| failure_life(&error).as_secs();
        assert_eq!(life(FetchError::Revoked(())), 1);
        assert_eq!(life(FetchError::Refused(())), 30);
        assert_eq!(life(FetchError::transient(())), 1);
        for (asked, granted) in [(0, 1), (7, 7), (3600, 60)] {
            let retry_after = Some(Duration::from_secs(asked));
            assert_eq!(life(FetchError::Transient { error: (), retry_after }), granted);
        }
    }

    #[test]
    fn the_last_retry_pause_repeats() {
        let policy = Policy::default();
        let millis: Vec<u128> = (1..=8).map(|n| policy.retry_pause(n).as_millis()).collect();
        assert_eq!(millis, [200, 400, 900, 2000, 2000, 2000, 2000, 2000]);
        let none = Policy { retry_pauses: Vec::new(), ..policy };
        assert_eq!(none.retry_pause(1), Duration::from_secs(1));
    }
}
