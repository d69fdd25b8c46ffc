//! The time as one value: wall-clock timestamps that only move forward while the process runs.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// Timestamps counted from the wall clock at start by the monotonic clock: a wall clock that jumps
/// ends no linger early, and tests that pause tokio's time control this one too.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    wall: Timestamp,
    started: Instant,
}

impl Clock {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self { wall: Timestamp::now(), started: Instant::now() }
    }

    /// The time.
    pub(crate) fn now(&self) -> Timestamp {
        after(self.wall, self.started.elapsed())
    }

    /// When `at` will be, for timers; at once if it has been.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        self.started + since(at, self.wall)
    }
}

/// The time `delay` after `time`.
pub(crate) fn after(time: Timestamp, delay: Duration) -> Timestamp {
    time.checked_add(delay).unwrap_or(Timestamp::MAX)
}

/// How long `earlier` is ago at `now`; zero if it is still to come.
pub(crate) fn since(now: Timestamp, earlier: Timestamp) -> Duration {
    now.duration_since(earlier).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_follows_the_monotonic_one() {
        let clock = Clock::start();
        let before = clock.now();
        let alarm = clock.instant(after(before, Duration::from_secs(60)));
        tokio::time::sleep_until(alarm).await;
        assert_eq!(since(clock.now(), before).as_secs(), 60);
        assert_eq!(since(before, clock.now()), Duration::ZERO);
    }
}
