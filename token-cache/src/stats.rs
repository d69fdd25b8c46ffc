//! What a cache has done so far.

use std::time::Duration;

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Keys held: tokens and remembered failures.
    pub size: usize,
    /// Remaining life of the token that expires first.
    pub soonest_expiry: Option<Duration>,
}

/// The counters behind [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Count,
    pub(crate) misses: Count,
    pub(crate) refreshes: Count,
    pub(crate) failures: Count,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

// === impl Count ===

impl Count {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
