//! A cache of tokens: single flight, refresh ahead of expiry, served while they live.
//!
//! Placeholder of the public shape; the behaviour is being written.

use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

/// Where tokens come from.
pub trait Source: Send + Sync + 'static {
    /// Everything that a token depends on.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    /// A token.
    type Value: Clone + Send + Sync + 'static;
    /// Why there is none.
    type Error: Clone + Send + Sync + 'static;

    /// Gets a fresh token.
    fn fetch(
        &self,
        key: Self::Key,
    ) -> impl Future<Output = Result<Fetched<Self::Value>, FetchError<Self::Error>>> + Send;
}

/// A fresh token and how long it lives from now.
#[derive(Clone, Copy, Debug)]
pub struct Fetched<V> {
    /// The token.
    pub value: V,
    /// Its remaining life.
    pub lifetime: Duration,
}

/// How a failed fetch is to be taken.
#[derive(Clone, Debug)]
pub enum FetchError<E> {
    /// The key is not entitled any more: a cached token must not be served.
    Revoked(E),
    /// Refused for good; a cached token stays good.
    Refused(E),
    /// May work in a moment; a cached token stays good.
    Transient {
        /// What happened.
        error: E,
        /// When to try again, if the source said so.
        retry_after: Option<Duration>,
    },
}
