//! So many at once, then one each so often: what keeps many who try again from becoming a storm.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A bounded supply that fills up again with time.
#[derive(Debug)]
pub struct Budget {
    burst: u32,
    every: Duration,
    /// When the supply is full again; what is taken moves it on.
    full_at: Mutex<Option<Instant>>,
}

// === impl Budget ===

impl Budget {
    /// A full supply of `burst`, to which one comes back after each `every`.
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every, full_at: Mutex::new(None) }
    }

    /// Takes one and says how long to wait before it may be used; takes none if that is longer
    /// than `longest`.
    pub fn reserve(&self, now: Instant, longest: Duration) -> Option<Duration> {
        let slack = self.every * self.burst.checked_sub(1)?;
        let mut full_at = self.full_at.lock();
        let filled = full_at.map_or(now, |full_at| full_at.max(now));
        let wait = filled.saturating_duration_since(now).saturating_sub(slack);
        if wait > longest {
            return None;
        }
        *full_at = Some(filled + self.every);
        Some(wait)
    }

    /// Takes one if it may be used now.
    pub fn take(&self, now: Instant) -> bool {
        self.reserve(now, Duration::ZERO).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_then_there_is_one_each_so_often() {
        let (budget, start) = (Budget::new(3, SECOND), Instant::now());
        let waits: Vec<_> =
            (0..5).map(|_| budget.reserve(start, 9 * SECOND).unwrap().as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 1, 2]);
        assert!(!budget.take(start + 2 * SECOND), "those who wait have taken theirs");
        assert!(budget.take(start + 3 * SECOND));
        let later = start + 60 * SECOND;
        let taken = (0..9).filter(|_| budget.take(later)).count();
        assert_eq!(taken, 3, "no more than full");
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_wait_takes_nothing() {
        let (budget, start) = (Budget::new(1, SECOND), Instant::now());
        assert!(budget.take(start));
        for _ in 0..9 {
            assert_eq!(budget.reserve(start, SECOND / 2), None);
        }
        assert_eq!(budget.reserve(start, SECOND), Some(SECOND));
        assert!(!Budget::new(0, SECOND).take(start), "a budget of none");
    }
}
