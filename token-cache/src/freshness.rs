//! How far a token is in its life: the one decision that all others follow from.

use std::time::Duration;

/// The last part of a life in which refreshes are tried more often.
const URGENT: Duration = Duration::from_secs(10 * 60);

/// The last part of a life in which clients already take a token for expired.
const CRITICAL: Duration = Duration::from_secs(5 * 60);

/// Where a token is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// Younger than half its life.
    Fresh,
    /// Should be replaced.
    Aging,
    /// Ends within ten minutes.
    Urgent,
    /// Ends within five minutes.
    Critical,
    /// Must not be served.
    Expired,
}

/// Moves the half of a life by up to a tenth, so that the replicas of a workload do not all refresh
/// at the same time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter(f64);

// === impl Jitter ===

impl Jitter {
    /// No shift.
    pub const NONE: Self = Self(0.0);

    /// A shift of `fraction`, at most a tenth either way.
    pub fn new(fraction: f64) -> Self {
        Self(fraction.clamp(-0.1, 0.1))
    }

    /// Any shift.
    pub fn random() -> Self {
        Self(rand::random_range(-0.1..=0.1))
    }
}

/// Where a token of `lifetime` is after `age`.
pub fn freshness(age: Duration, lifetime: Duration, jitter: Jitter) -> Freshness {
    let remaining = lifetime.saturating_sub(age);
    if remaining.is_zero() {
        Freshness::Expired
    } else if remaining <= CRITICAL {
        Freshness::Critical
    } else if remaining <= URGENT {
        Freshness::Urgent
    } else if age >= lifetime.mul_f64(0.5 * (1.0 + jitter.0)) {
        Freshness::Aging
    } else {
        Freshness::Fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Freshness::{Aging, Critical, Expired, Fresh, Urgent};

    #[test]
    fn a_life_has_five_parts() {
        const DAY: u64 = 24 * 3600;
        let rows = [
            // age s, lifetime s, jitter, expected
            (0, DAY, 0.0, Fresh),
            (DAY / 2 - 1, DAY, 0.0, Fresh),
            (DAY / 2, DAY, 0.0, Aging),
            (DAY / 2, DAY, 0.1, Fresh),
            (DAY * 55 / 100, DAY, 0.1, Aging),
            (DAY * 45 / 100 - 1, DAY, -0.1, Fresh),
            (DAY * 45 / 100, DAY, -0.1, Aging),
            (DAY * 45 / 100, DAY, -7.0, Aging), // a wild jitter is no more than a tenth
            (0, DAY, -7.0, Fresh),
            (DAY - 601, DAY, 0.0, Aging),
            (DAY - 600, DAY, 0.0, Urgent),
            (DAY - 301, DAY, 0.0, Urgent),
            (DAY - 300, DAY, 0.0, Critical),
            (DAY - 1, DAY, 0.0, Critical),
            (DAY, DAY, 0.0, Expired),
            (DAY + 1, DAY, 0.0, Expired),
            // short lives are never fresh
            (0, 600, 0.0, Urgent),
            (0, 300, 0.0, Critical),
            (0, 0, 0.0, Expired),
        ];
        for (age, lifetime, jitter, expected) in rows {
            let found = freshness(
                Duration::from_secs(age),
                Duration::from_secs(lifetime),
                Jitter::new(jitter),
            );
            assert_eq!(found, expected, "age {age}, lifetime {lifetime}, jitter {jitter}");
        }
    }

    #[test]
    fn an_absurd_lifetime_is_no_panic() {
        assert_eq!(freshness(Duration::ZERO, Duration::MAX, Jitter::new(0.1)), Fresh);
    }
}
