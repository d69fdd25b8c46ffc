//! A node as tests of outages need it: the agent's cache in front of a source that the test plays,
//! and the caches of sidecars in front of the agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::{Call, FetchError, Fetched, GetError, Policy, Source, TokenCache};

/// The agent as a sidecar meets it. Clones are the same agent.
pub struct Agent<S: Source> {
    /// Its own cache.
    pub cache: TokenCache<S>,
    up: Arc<AtomicBool>,
}

/// What a sidecar waits for one call.
const CALL: Duration = Duration::from_secs(10);

/// How long a sidecar goes on asking, from the first call on.
const PATIENCE: Duration = Duration::from_secs(22);

// === impl Agent ===

impl<S: Source<Error = &'static str>> Agent<S> {
    /// An agent with an empty cache.
    pub fn of(source: S) -> Self {
        let policy = Policy {
            capacity: 1024,
            retry_burst: 50,
            retry_every: Duration::from_millis(200),
            ..Policy::default()
        };
        Self { cache: TokenCache::new(source, policy), up: Arc::new(AtomicBool::new(true)) }
    }

    /// A sidecar of this agent's node.
    pub fn sidecar(&self) -> TokenCache<Self> {
        let verify_after = Some(Duration::from_secs(10));
        TokenCache::new(self.clone(), Policy { verify_after, ..Policy::default() })
    }

    /// No sidecar reaches it from now on.
    pub fn goes_down(&self) {
        self.up.store(false, Ordering::Relaxed);
    }

    /// They do again.
    pub fn comes_back(&self) {
        self.up.store(true, Ordering::Relaxed);
    }
}

impl<S: Source> Clone for Agent<S> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), up: self.up.clone() }
    }
}

impl<S: Source<Error = &'static str>> Source for Agent<S> {
    type Key = S::Key;
    type Value = S::Value;
    type Error = &'static str;

    async fn fetch(
        &self,
        key: S::Key,
        _: Call<S::Value>,
    ) -> Result<Fetched<S::Value>, FetchError<&'static str>> {
        if !self.up.load(Ordering::Relaxed) {
            return Err(FetchError::transient("unreachable"));
        }
        match timeout(CALL, self.cache.get(&key)).await {
            Ok(Ok(hit)) => Ok(Fetched { value: hit.value, lifetime: hit.remaining }),
            Ok(Err(GetError::Source(error))) => Err(FetchError::transient(error)),
            Ok(Err(GetError::Overloaded | GetError::Lost)) | Err(_) => {
                Err(FetchError::transient("no answer"))
            }
        }
    }

    fn patience(&self, _: &FetchError<&'static str>) -> Duration {
        PATIENCE
    }
}
