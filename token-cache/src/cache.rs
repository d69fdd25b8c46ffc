//! The cache: answers from what it holds, starts and joins flights, settles their outcomes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use crate::flight::{Flight, Landing, Outcome, Waiting};
use crate::freshness::Jitter;
use crate::kept::{Kept, Step};
use crate::policy::{Policy, failure_life, retry_after};
use crate::shelf::{Content, Held, Shelf};
use crate::source::{FetchError, Source};
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

struct Inner<S: Source> {
    source: S,
    policy: Policy,
    counters: Counters,
    state: Mutex<State<S>>,
}

struct State<S: Source> {
    shelf: Shelf<S::Key, S::Value, S::Error>,
    flights: HashMap<S::Key, Flight<S::Value, S::Error>>,
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
        let state = Mutex::new(State { shelf, flights: HashMap::new() });
        Self(Arc::new(Inner { source, policy, counters: Counters::default(), state }))
    }

    /// The token of `key`: a cached one as long as the policy allows, else one from the source.
    ///
    /// May be dropped at any time: the fetch that it started goes on for the others.
    pub async fn get(&self, key: &S::Key) -> Result<Hit<S::Value>, GetError<S::Error>> {
        match self.0.look(key) {
            Look::Done(result) => result,
            Look::Wait(waiting, None) => Inner::<S>::await_landing(waiting).await,
            Look::Wait(waiting, Some(fallback)) => {
                self.0.await_or_fall_back(key, waiting, fallback).await
            }
        }
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
        let tokens = state.shelf.iter().filter_map(|(_, slot)| match &slot.content {
            Content::Token(kept) => Some(kept.remaining(now)),
            Content::Failure(..) => None,
        });
        Stats {
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            refreshes: counters.refreshes.get(),
            failures: counters.failures.get(),
            soonest_expiry: tokens.filter(|left| !left.is_zero()).min(),
            size: state.shelf.len(),
        }
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

// === impl Inner: requests ===

impl<S: Source> Inner<S> {
    fn look(self: &Arc<Self>, key: &S::Key) -> Look<S> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let held = state.shelf.touch(key).and_then(|slot| slot.held(&self.policy, now));
        let fallback = match held {
            Some(Held::Failure(error)) => {
                self.counters.misses.add_one();
                return Look::Done(Err(GetError::Source(error)));
            }
            Some(Held::Token(kept, Step::AskFirst(patience))) => Some(Fallback { kept, patience }),
            Some(Held::Token(kept, step)) => match Hit::of(&kept, now) {
                Some(hit) => {
                    self.counters.hits.add_one();
                    if step == Step::AnswerAndRefresh {
                        self.flight(&mut state, key, true);
                    }
                    return Look::Done(Ok(hit));
                }
                None => None,
            },
            None => None,
        };
        let count = if fallback.is_some() { &self.counters.hits } else { &self.counters.misses };
        count.add_one();
        match self.flight(&mut state, key, true).board() {
            Some(waiting) => Look::Wait(waiting, fallback),
            None => {
                let hit = fallback.and_then(|fallback| Hit::of(&fallback.kept, now));
                Look::Done(hit.ok_or(GetError::Overloaded))
            }
        }
    }

    async fn await_landing(
        mut waiting: Waiting<S::Value, S::Error>,
    ) -> Result<Hit<S::Value>, GetError<S::Error>> {
        match waiting.landed().await {
            Some(Ok(kept)) => Hit::of(&kept, Instant::now()).ok_or(GetError::Lost),
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
            Ok(Some(Ok(kept))) => Hit::of(&kept, now),
            Ok(Some(Err(FetchError::Revoked(error)))) => return Err(GetError::Source(error)),
            Ok(Some(Err(_)) | None) => None,
            Err(_) => {
                if let Some(kept) = self.state.lock().shelf.token(key) {
                    kept.unanswered(&self.policy, now);
                }
                None
            }
        };
        match fresh.or_else(|| Hit::of(&fallback.kept, now)) {
            Some(hit) => Ok(hit),
            None => Self::await_landing(waiting).await,
        }
    }
}

// === impl Inner: flights ===

impl<S: Source> Inner<S> {
    /// The flight for a key: the one in the air, or a new one.
    fn flight<'a>(
        self: &Arc<Self>,
        state: &'a mut State<S>,
        key: &S::Key,
        wanted: bool,
    ) -> &'a mut Flight<S::Value, S::Error> {
        state.flights.entry(key.clone()).or_insert_with(|| {
            let (flight, landing) = Flight::new(self.policy.max_waiters, wanted);
            let pilot = Pilot { inner: self.clone(), key: key.clone(), landed: false };
            // Its own task: nobody who waits can take it down by leaving.
            drop(tokio::spawn(pilot.fly(landing)));
            flight
        })
    }

    fn refresh_due(self: &Arc<Self>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.shelf.tidy(now);
        let due: Vec<S::Key> = state
            .shelf
            .iter()
            .filter(|(_, slot)| match &slot.content {
                Content::Token(kept) => slot.wanted && kept.refresh_is_due(now),
                Content::Failure(..) => false,
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.flight(&mut state, &key, false);
        }
    }

    /// How long to pause before the next attempt, if there is to be one: there is none when a
    /// living token makes the failure harmless.
    fn pause(&self, key: &S::Key, error: &FetchError<S::Error>, tried: Tried) -> Option<Duration> {
        let now = Instant::now();
        if self.state.lock().shelf.token(key).is_some_and(|kept| kept.is_alive(now)) {
            return None;
        }
        let longest = self.policy.retry_pause(tried.attempts);
        let pause = longest.mul_f64(rand::random_range(0.0..=1.0)).max(retry_after(error));
        (tried.since.elapsed() + pause <= self.source.patience(error)).then_some(pause)
    }

    /// Writes down what a flight brought.
    fn settle(&self, key: &S::Key, outcome: &Outcome<S::Value, S::Error>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let wanted = state.flights.remove(key).is_none_or(|flight| flight.wanted);
        let shelf = &mut state.shelf;
        let kept = shelf.token(key).filter(|kept| kept.is_alive(now));
        match outcome {
            Ok(fresh) if fresh.is_alive(now) => {
                if kept.is_some() {
                    self.counters.refreshes.add_one();
                }
                shelf.put(key.clone(), Content::Token(fresh.clone()), wanted);
            }
            Ok(_) => match kept {
                Some(kept) => kept.unanswered(&self.policy, now),
                None => shelf.remove(key),
            },
            Err(error) => match (kept, error) {
                (Some(kept), FetchError::Refused(_) | FetchError::Transient { .. }) => {
                    kept.failed(error, &self.policy, now);
                }
                _ => {
                    let until = now + failure_life(error);
                    let failure = Content::Failure(error.error().clone(), until);
                    shelf.put(key.clone(), failure, wanted);
                }
            },
        }
    }
}

/// The attempts of a flight so far.
#[derive(Clone, Copy)]
struct Tried {
    attempts: usize,
    since: Instant,
}

/// Carries a flight out. Dropped before it landed, by a panic of the source, it clears the way for
/// the next one.
struct Pilot<S: Source> {
    inner: Arc<Inner<S>>,
    key: S::Key,
    landed: bool,
}

impl<S: Source> Pilot<S> {
    async fn fly(mut self, landing: Landing<S::Value, S::Error>) {
        let outcome = self.fetch().await;
        self.inner.settle(&self.key, &outcome);
        self.landed = true;
        // Nobody may be waiting.
        drop(landing.send(Some(outcome)));
    }

    async fn fetch(&self) -> Outcome<S::Value, S::Error> {
        let inner = &self.inner;
        let mut tried = Tried { attempts: 0, since: Instant::now() };
        loop {
            let asked = Instant::now();
            let error = match inner.source.fetch(self.key.clone()).await {
                Ok(fetched) => return Ok(Kept::new(fetched, asked, Jitter::random())),
                Err(error) => error,
            };
            inner.counters.failures.add_one();
            tried.attempts += 1;
            match inner.pause(&self.key, &error, tried) {
                Some(pause) => sleep(pause).await,
                None => return Err(error),
            }
        }
    }
}

impl<S: Source> Drop for Pilot<S> {
    fn drop(&mut self) {
        if !self.landed {
            self.inner.state.lock().flights.remove(&self.key);
        }
    }
}

// === impl Hit ===

impl<V: Clone> Hit<V> {
    /// The token as it is now, if it lives.
    fn of(kept: &Kept<V>, now: Instant) -> Option<Self> {
        let remaining = kept.remaining(now);
        (!remaining.is_zero()).then(|| Self { value: kept.value.clone(), remaining })
    }
}

impl<V> std::fmt::Debug for Hit<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hit").field("remaining", &self.remaining).finish_non_exhaustive()
    }
}
