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

/// How much earlier than others a token is replaced, so that the replicas of a workload do not all
/// refresh at the same time. Never later: half of a life is what an outage may last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter(f64);

/// The last moment of a fresh life, a little before the half: there must be time for a refresh.
const AGING: f64 = 0.49;

// === impl Jitter ===

impl Jitter {
    /// Not earlier.
    pub const NONE: Self = Self(0.0);

    /// Earlier by this share of the life, at most a tenth.
    pub fn new(share: f64) -> Self {
        Self(share.clamp(0.0, 0.1))
    }

    /// Any time up to a tenth of the life earlier.
    pub fn random() -> Self {
        Self(rand::random_range(0.0..=0.1))
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
    } else if age >= lifetime.mul_f64(AGING - jitter.0) {
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
            (DAY * 49 / 100 - 1, DAY, 0.0, Fresh),
            (DAY * 49 / 100, DAY, 0.0, Aging),
            (DAY * 49 / 100 - 1, DAY, -0.1, Fresh), // never later than half
            (DAY * 39 / 100 - 1, DAY, 0.1, Fresh),
            (DAY * 39 / 100 + 1, DAY, 0.1, Aging),
            (DAY * 39 / 100 - 1, DAY, 7.0, Fresh), // a wild jitter is no more than a tenth
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
