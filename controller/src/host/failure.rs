//! Failures in a row of one thing, and until when it is left alone.

use std::time::Duration;

use jiff::Timestamp;

use super::view::Trouble;
use crate::backoff::Backoff;
use crate::clock::after;
use crate::compute::ArmError;

/// Of an identity that ARM refuses: a handful of attempts in ten minutes.
pub(super) const IDENTITY: Backoff =
    Backoff::new(Duration::from_secs(5), 3, Duration::from_secs(300));
/// Of what the record says of the host.
pub(super) const TELLING: Backoff =
    Backoff::new(Duration::from_secs(5), 3, Duration::from_secs(300));
const TRANSIENT: Backoff = Backoff::new(Duration::from_secs(1), 2, Duration::from_secs(60));
const PERMANENT: Backoff = Backoff::new(Duration::from_secs(5), 3, Duration::from_secs(300));
const SHORTEST: Duration = Duration::from_secs(1);
/// Of the record.
pub(super) const RECORDS: Backoff =
    Backoff::new(Duration::from_millis(250), 2, Duration::from_secs(30));

/// The latest of a row.
pub(super) struct Failure {
    count: u32,
    pub(super) until: Timestamp,
    pub(super) trouble: Trouble,
}

/// Of a host as a whole.
pub(super) fn host_backoff(error: &ArmError) -> Backoff {
    if error.is_transient() { TRANSIENT } else { PERMANENT }
}

/// ARM's own word on when to come back beats ours, unless it is "at once".
pub(super) fn hold(error: &ArmError, until: Timestamp, now: Timestamp) -> Timestamp {
    error.retry_after().map_or(until, |delay| after(now, delay.max(SHORTEST)))
}

// === impl Failure ===

impl Failure {
    /// One that somebody else met.
    pub(super) fn until(until: Timestamp, trouble: Trouble) -> Self {
        Self { count: 1, until, trouble }
    }

    /// Whether it was not the first time.
    pub(super) fn is_repeated(&self) -> bool {
        self.count > 1
    }

    /// One more, after those of `before`.
    pub(super) fn again(
        before: Option<Self>,
        backoff: Backoff,
        now: Timestamp,
        trouble: Trouble,
    ) -> Self {
        let count = before.map_or(0, |failure| failure.count).saturating_add(1);
        Self { count, until: after(now, backoff.delay(count)), trouble }
    }
}
