//! How long to wait after the n-th failure in a row.

use std::time::Duration;

/// Delays that grow by a factor up to a cap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    factor: u32,
    cap: Duration,
}

impl Backoff {
    /// Delays from `first` to `cap`.
    pub(crate) const fn new(first: Duration, factor: u32, cap: Duration) -> Self {
        Self { first, factor, cap }
    }

    /// The delay after `failures` failures in a row, the first being 1.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let growth = self.factor.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(growth).min(self.cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_the_cap() {
        let backoff = Backoff::new(Duration::from_secs(5), 3, Duration::from_secs(300));
        let seconds: Vec<u64> = (1..=6).map(|n| backoff.delay(n).as_secs()).collect();
        assert_eq!(seconds, [5, 15, 45, 135, 300, 300]);
        assert_eq!(backoff.delay(u32::MAX).as_secs(), 300);
    }
}
