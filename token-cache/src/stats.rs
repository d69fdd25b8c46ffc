//! What a cache has done so far.

use std::time::Duration;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::freshness::Freshness;

/// What a cache has done so far, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests for which a living token was there.
    pub hits: u64,
    /// Requests for which none was there.
    pub misses: u64,
    /// Tokens that were replaced or confirmed while they lived.
    pub refreshes: u64,
    /// Attempts that the source did not answer with a token.
    pub failures: u64,
    /// Attempts beyond the first of a fetch.
    pub retries: u64,
    /// Keys held: tokens and remembered failures.
    pub size: usize,
    /// The living tokens by how far they are in their lives.
    pub tokens: Tokens,
    /// Remaining life of the token that expires first.
    pub soonest_expiry: Option<Duration>,
}

/// Numbers of living tokens by how far they are in their lives: see [`Freshness`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// In the first half.
    pub fresh: usize,
    /// To be replaced; that they are is usual.
    pub aging: usize,
    /// With ten minutes to go: refreshes fail.
    pub urgent: usize,
    /// With five minutes to go: applications will notice.
    pub critical: usize,
}

/// The counters behind [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Count,
    pub(crate) misses: Count,
    pub(crate) refreshes: Count,
    pub(crate) failures: Count,
    pub(crate) retries: Count,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

// === impl Stats ===

impl Stats {
    /// Counts a token in.
    pub(crate) fn count(&mut self, freshness: Freshness, left: Duration) {
        let tokens = &mut self.tokens;
        match freshness {
            Freshness::Fresh => tokens.fresh += 1,
            Freshness::Aging => tokens.aging += 1,
            Freshness::Urgent => tokens.urgent += 1,
            Freshness::Critical => tokens.critical += 1,
            Freshness::Expired => return,
        }
        self.soonest_expiry = Some(self.soonest_expiry.map_or(left, |soonest| soonest.min(left)));
    }
}

// === impl Count ===

impl Count {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
