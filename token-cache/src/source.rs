//! Where tokens come from, and how their absence is to be taken.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// Where tokens come from.
pub trait Source: Send + Sync + 'static {
    /// Everything that a token depends on.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    /// A token.
    type Value: Clone + Send + Sync + 'static;
    /// Why there is none.
    type Error: Clone + Send + Sync + 'static;

    /// Gets a fresh token in one attempt. It must end by itself, with a time limit of its own.
    fn fetch(
        &self,
        key: Self::Key,
        call: Call<Self::Value>,
    ) -> impl Future<Output = Result<Fetched<Self::Value>, FetchError<Self::Error>>> + Send;

    /// How long, from the first attempt on, a request without a token to fall back on goes on
    /// asking after `error`. By default it does not.
    fn patience(&self, error: &FetchError<Self::Error>) -> Duration {
        let _ = error;
        Duration::ZERO
    }
}

/// What a source is told besides the key. The token does not depend on it, or it would be a part of
/// the key.
pub struct Call<V> {
    /// The correlation id of the request that began the fetch; none if no request did.
    pub trace: Option<Arc<str>>,
    /// The token that was cached and that a caller has no use for any more: see
    /// [`crate::Request::rejecting`]. The source's own source is to be told, should it have a cache.
    pub rejected: Option<V>,
    /// There is no living token: whoever asks has to wait for this fetch.
    pub urgent: bool,
}

/// A fresh token and how long it lives from now.
#[derive(Clone, Copy)]
pub struct Fetched<V> {
    /// The token. Not part of this type's `Debug`.
    pub value: V,
    /// Its remaining life, more than zero.
    pub lifetime: Duration,
}

/// How a failed fetch is to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
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

// === impl FetchError ===

impl<E> FetchError<E> {
    /// A [`FetchError::Transient`] without a time to come back.
    pub fn transient(error: E) -> Self {
        Self::Transient { error, retry_after: None }
    }

    /// What happened.
    pub fn error(&self) -> &E {
        match self {
            Self::Revoked(error) | Self::Refused(error) | Self::Transient { error, .. } => error,
        }
    }
}

// === impl Call ===

impl<V> Default for Call<V> {
    fn default() -> Self {
        Self { trace: None, rejected: None, urgent: false }
    }
}

impl<V: Clone> Clone for Call<V> {
    fn clone(&self) -> Self {
        let Self { trace, rejected, urgent } = self;
        Self { trace: trace.clone(), rejected: rejected.clone(), urgent: *urgent }
    }
}

impl<V> fmt::Debug for Call<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("trace", &self.trace)
            .field("rejected", &self.rejected.is_some())
            .field("urgent", &self.urgent)
            .finish()
    }
}

// === impl Fetched ===

impl<V> fmt::Debug for Fetched<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}
