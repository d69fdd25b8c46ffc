//! The cache: answers from what it holds, or with what a flight brings.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use crate::budget::Budget;
use crate::flight::{Flight, Waiting};
use crate::kept::{Kept, Step};
use crate::policy::Policy;
use crate::request::Request;
use crate::shelf::{Content, Held, Shelf};
use crate::source::{Call, FetchError, Source};
use crate::stats::{Counters, Stats};

/// How often [`TokenCache::keep_fresh`] looks around.
const ROUND: Duration = Duration::from_secs(30);

/// A cache of tokens. Clones are the same cache.
pub struct TokenCache<S: Source>(Arc<Inner<S>>);

/// A living token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hit<V> {
    /// The token. Not part of this type's `Debug`.
    pub value: V,
    /// How long it lives from now; never zero.
    pub remaining: Duration,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GetError<E> {
    /// The source has none.
    #[error("{0}")]
    Source(E),
    /// [`Policy::max_waiters`] wait already.
    #[error("too many requests wait for this token already; ask again in a second")]
    Overloaded,
    /// The fetch panicked, or its token was dead on arrival.
    #[error("the fetch of this token ended without a result; ask again in a second")]
    Lost,
}

pub(crate) struct Inner<S: Source> {
    pub(crate) source: S,
    pub(crate) policy: Policy,
    pub(crate) counters: Counters,
    pub(crate) retries: Budget,
    pub(crate) state: Mutex<State<S>>,
}

pub(crate) struct State<S: Source> {
    pub(crate) shelf: Shelf<S::Key, S::Value, S::Error>,
    pub(crate) flights: HashMap<S::Key, Flight<S::Value, S::Error>>,
}

/// What a look at the cache found.
enum Look<S: Source> {
    Done(Result<Hit<S::Value>, GetError<S::Error>>),
    Wait(Waiting<S::Value, S::Error>, Option<Fallback<S::Value>>),
}

/// A token to answer with when a flight does not land in time.
struct Fallback<V> {
    kept: Kept<V>,
    patience: Duration,
}

// === impl TokenCache ===

impl<S: Source> TokenCache<S> {
    /// An empty cache.
    pub fn new(source: S, policy: Policy) -> Self {
        let shelf = Shelf::new(policy.capacity);
        let retries = Budget::new(policy.retry_burst, policy.retry_every);
        let state = Mutex::new(State { shelf, flights: HashMap::new() });
        Self(Arc::new(Inner { source, policy, counters: Counters::default(), retries, state }))
    }

    /// The token of `key`: a cached one as long as the policy allows, else one from the source.
    ///
    /// May be dropped at any time: the fetch that it started goes on for the others.
    pub async fn get(&self, key: &S::Key) -> Result<Hit<S::Value>, GetError<S::Error>> {
        self.get_with(key, &Request::default()).await
    }

    /// The same for a request that says more.
    pub async fn get_with(
        &self,
        key: &S::Key,
        request: &Request<'_, S::Value>,
    ) -> Result<Hit<S::Value>, GetError<S::Error>> {
        let answer = self.0.answer(key, request).await;
        match answer {
            // What the request waited for had begun before, or the cache was empty: now that the
            // rejected token is known, another can be asked for.
            Ok(hit) if request.rejects(&hit.value) => self.0.answer(key, request).await,
            answer => answer,
        }
    }

    /// The token of `key` if it can be had without waiting for anything; it then counts as asked
    /// for, and is replaced behind the answer if that is due.
    pub fn get_now(&self, key: &S::Key) -> Option<Hit<S::Value>> {
        self.0.at_once(key)
    }

    /// The token of `key`, of whatever age, if one lives. Asks nobody, and does not count as a use.
    pub fn peek(&self, key: &S::Key) -> Option<Hit<S::Value>> {
        let mut state = self.0.state.lock();
        let kept = state.shelf.token(key)?;
        Hit::of(kept.clone(), Instant::now())
    }

    /// Replaces aging tokens that were asked for since they came, although nobody asks right now:
    /// what an application fetched once outlives an outage that begins later. Runs until dropped.
    pub async fn keep_fresh(&self) {
        loop {
            sleep(ROUND).await;
            self.0.refresh_due();
        }
    }

    /// What the cache has done so far.
    pub fn stats(&self) -> Stats {
        let now = Instant::now();
        let (counters, state) = (&self.0.counters, self.0.state.lock());
        let mut stats = Stats {
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            refreshes: counters.refreshes.get(),
            failures: counters.failures.get(),
            retries: counters.retries.get(),
            size: state.shelf.len(),
            ..Stats::default()
        };
        for (_, slot) in state.shelf.iter() {
            if let Content::Token(kept) = &slot.content {
                stats.count(kept.freshness(now), kept.remaining(now));
            }
        }
        stats
    }

    /// The source.
    pub fn source(&self) -> &S {
        &self.0.source
    }
}

impl<S: Source> Clone for TokenCache<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: Source> std::fmt::Debug for TokenCache<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache").field("stats", &self.stats()).finish()
    }
}

// === impl Inner ===

impl<S: Source> Inner<S> {
    fn at_once(self: &Arc<Self>, key: &S::Key) -> Option<Hit<S::Value>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let held = state.shelf.touch(key)?.held(&self.policy, now)?;
        let Held::Token(kept, step @ (Step::Answer | Step::AnswerAndRefresh)) = held else {
            return None;
        };
        let hit = Hit::of(kept, now)?;
        self.counters.hits.add_one();
        if step == Step::AnswerAndRefresh {
            self.flight(&mut state, key, true, Call::default());
        }
        Some(hit)
    }

    async fn answer(
        self: &Arc<Self>,
        key: &S::Key,
        request: &Request<'_, S::Value>,
    ) -> Result<Hit<S::Value>, GetError<S::Error>> {
        match self.look(key, request) {
            Look::Done(result) => result,
            Look::Wait(waiting, None) => Self::await_landing(waiting).await,
            Look::Wait(waiting, Some(fallback)) => {
                self.await_or_fall_back(key, waiting, fallback).await
            }
        }
    }

    fn look(self: &Arc<Self>, key: &S::Key, request: &Request<'_, S::Value>) -> Look<S> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let in_the_air = state.flights.contains_key(key);
        let mut call = Call { trace: request.trace(), ..Call::default() };
        let mut fallback = None;
        if let Some(slot) = state.shelf.touch(key) {
            match slot.held(&self.policy, now) {
                Some(Held::Failure(error)) => {
                    self.counters.misses.add_one();
                    return Look::Done(Err(GetError::Source(error)));
                }
                Some(Held::Token(kept, _)) if !kept.is_alive(now) => {}
                Some(Held::Token(kept, step)) => {
                    self.counters.hits.add_one();
                    let rejected = request.rejects(&kept.value)
                        && (in_the_air || slot.reject(&self.policy, now));
                    let patience = match step {
                        _ if rejected => self.policy.critical_wait,
                        Step::AskFirst(patience) => patience,
                        Step::Answer | Step::AnswerAndRefresh | Step::Fetch => {
                            if step == Step::AnswerAndRefresh {
                                self.flight(&mut state, key, true, call);
                            }
                            return Look::Done(Hit::of(kept, now).ok_or(GetError::Lost));
                        }
                    };
                    call.rejected = rejected.then(|| kept.value.clone());
                    fallback = Some(Fallback { kept, patience });
                }
                None => {}
            }
        }
        if fallback.is_none() {
            self.counters.misses.add_one();
        }
        match self.flight(&mut state, key, true, call).board() {
            Some(waiting) => Look::Wait(waiting, fallback),
            None => {
                let hit = fallback.and_then(|fallback| Hit::of(fallback.kept, now));
                Look::Done(hit.ok_or(GetError::Overloaded))
            }
        }
    }

    async fn await_landing(
        mut waiting: Waiting<S::Value, S::Error>,
    ) -> Result<Hit<S::Value>, GetError<S::Error>> {
        match waiting.landed().await {
            Some(Ok(kept)) => Hit::of(kept, Instant::now()).ok_or(GetError::Lost),
            Some(Err(error)) => Err(GetError::Source(error.error().clone())),
            None => Err(GetError::Lost),
        }
    }

    async fn await_or_fall_back(
        &self,
        key: &S::Key,
        mut waiting: Waiting<S::Value, S::Error>,
        fallback: Fallback<S::Value>,
    ) -> Result<Hit<S::Value>, GetError<S::Error>> {
        // Those who come late wait as long as the first one, not longer.
        let deadline = waiting.begun + fallback.patience;
        let outcome = timeout_at(deadline, waiting.landed()).await;
        let now = Instant::now();
        let fresh = match outcome {
            Ok(Some(Ok(kept))) => Hit::of(kept, now),
            Ok(Some(Err(FetchError::Revoked(error)))) => return Err(GetError::Source(error)),
            Ok(Some(Err(_)) | None) => None,
            Err(_) => {
                if let Some(kept) = self.state.lock().shelf.token(key) {
                    kept.unanswered(&self.policy, now);
                }
                None
            }
        };
        match fresh.or_else(|| Hit::of(fallback.kept, now)) {
            Some(hit) => Ok(hit),
            None => Self::await_landing(waiting).await,
        }
    }
}

// === impl Hit ===

impl<V> Hit<V> {
    /// The token as it is now, if it lives.
    fn of(kept: Kept<V>, now: Instant) -> Option<Self> {
        let remaining = kept.remaining(now);
        (!remaining.is_zero()).then_some(Self { value: kept.value, remaining })
    }
}

impl<V> std::fmt::Debug for Hit<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hit").field("remaining", &self.remaining).finish_non_exhaustive()
    }
}
