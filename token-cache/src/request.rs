//! What a request says besides the key that it is for.

use std::fmt;
use std::sync::Arc;

/// What a request says besides the key that it is for. By default nothing.
///
/// ```
/// # use token_cache::Request;
/// let stale = |token: &&str| *token == "the one that was refused";
/// let request = Request::default().traced("7e9c…").rejecting(&stale);
/// ```
pub struct Request<'a, V> {
    trace: Option<Arc<str>>,
    rejects: Option<Rejects<'a, V>>,
}

type Rejects<'a, V> = &'a (dyn Fn(&V) -> bool + Send + Sync);

// === impl Request ===

impl<'a, V> Request<'a, V> {
    /// With a correlation id, which the source gets if this request begins a fetch.
    #[must_use]
    pub fn traced(self, id: impl Into<Arc<str>>) -> Self {
        Self { trace: Some(id.into()), ..self }
    }

    /// Has no use for tokens of which `rejects` is true, for example because the one who was shown
    /// it did not take it. If such a token is cached, the source is asked for another, but only
    /// once in [`crate::Policy::reject_pause`] for a key: within it, and if the source has no other
    /// or does not answer in time, the cached token is the answer all the same.
    #[must_use]
    pub fn rejecting(self, rejects: Rejects<'a, V>) -> Self {
        Self { rejects: Some(rejects), ..self }
    }

    pub(crate) fn trace(&self) -> Option<Arc<str>> {
        self.trace.clone()
    }

    pub(crate) fn rejects(&self, value: &V) -> bool {
        self.rejects.is_some_and(|rejects| rejects(value))
    }
}

impl<V> Default for Request<'_, V> {
    fn default() -> Self {
        Self { trace: None, rejects: None }
    }
}

impl<V> fmt::Debug for Request<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("trace", &self.trace)
            .field("rejects", &self.rejects.is_some())
            .finish()
    }
}
