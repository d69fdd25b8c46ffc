//! Flights from start to landing: the attempts at a fetch, and what is written down of its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::cache::{Inner, State};
use crate::flight::{Flight, Landing, Outcome};
use crate::freshness::Jitter;
use crate::kept::Kept;
use crate::policy::{failure_life, retry_after};
use crate::shelf::Content;
use crate::source::{Call, FetchError, Source};

/// Carries a flight out. Dropped before it landed, by a panic of the source, it clears the way for
/// the next one.
struct Pilot<S: Source> {
    inner: Arc<Inner<S>>,
    key: S::Key,
    call: Call<S::Value>,
    landed: bool,
}

/// The attempts of a flight so far.
#[derive(Clone, Copy)]
struct Tried {
    attempts: usize,
    since: Instant,
}

// === impl Inner ===

impl<S: Source> Inner<S> {
    /// The flight for a key: the one in the air, or a new one.
    pub(crate) fn flight<'a>(
        self: &Arc<Self>,
        state: &'a mut State<S>,
        key: &S::Key,
        wanted: bool,
        call: Call<S::Value>,
    ) -> &'a mut Flight<S::Value, S::Error> {
        state.flights.entry(key.clone()).or_insert_with(|| {
            let (flight, landing) = Flight::new(self.policy.max_waiters, wanted);
            let pilot = Pilot { inner: self.clone(), key: key.clone(), call, landed: false };
            // Its own task: nobody who waits can take it down by leaving.
            drop(tokio::spawn(pilot.fly(landing)));
            flight
        })
    }

    /// Starts a flight for every token that should be replaced.
    pub(crate) fn refresh_due(self: &Arc<Self>) {
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
            self.flight(&mut state, &key, false, Call::default());
        }
    }

    /// One attempt.
    async fn attempt(&self, key: S::Key, call: Call<S::Value>) -> Outcome<S::Value, S::Error> {
        let asked = Instant::now();
        let outcome = self.source.fetch(key, call).await;
        if outcome.is_err() {
            self.counters.failures.add_one();
        }
        outcome.map(|fetched| Kept::new(fetched, asked, Jitter::random()))
    }

    /// How long to pause before the next attempt, if there is to be one: there is none when a
    /// living token makes the failure harmless.
    fn pause(&self, key: &S::Key, error: &FetchError<S::Error>, tried: Tried) -> Option<Duration> {
        if self.has_token(key) {
            return None;
        }
        let longest = self.policy.retry_pause(tried.attempts);
        let pause = longest.mul_f64(rand::random_range(0.0..=1.0)).max(retry_after(error));
        let left = self.source.patience(error).checked_sub(tried.since.elapsed())?;
        if pause > left {
            return None;
        }
        let turn = self.retries.reserve(Instant::now(), left)?;
        Some(pause.max(turn))
    }

    fn has_token(&self, key: &S::Key) -> bool {
        let now = Instant::now();
        self.state.lock().shelf.token(key).is_some_and(|kept| kept.is_alive(now))
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

// === impl Pilot ===

impl<S: Source> Pilot<S> {
    async fn fly(mut self, landing: Landing<S::Value, S::Error>) {
        let Some(outcome) = self.fetch().await else { return };
        self.inner.settle(&self.key, &outcome);
        self.landed = true;
        // Nobody may be waiting.
        drop(landing.send(Some(outcome)));
    }

    /// The end of all attempts; none if one panicked.
    async fn fetch(&self) -> Option<Outcome<S::Value, S::Error>> {
        let inner = &self.inner;
        let mut tried = Tried { attempts: 0, since: Instant::now() };
        loop {
            let error = match self.try_once().await? {
                Ok(kept) => return Some(Ok(kept)),
                Err(error) => error,
            };
            tried.attempts += 1;
            let Some(pause) = inner.pause(&self.key, &error, tried) else {
                return Some(Err(error));
            };
            sleep(pause).await;
            inner.counters.retries.add_one();
        }
    }

    /// One attempt, and a second one beside it if it is slow and nobody can be answered meanwhile.
    async fn try_once(&self) -> Option<Outcome<S::Value, S::Error>> {
        let inner = &self.inner;
        let hedge_after = inner.policy.hedge_after.filter(|_| !inner.has_token(&self.key));
        let Some(after) = hedge_after else {
            return Some(inner.attempt(self.key.clone(), self.call.clone()).await);
        };
        let mut first = self.begin();
        tokio::select! {
            landed = &mut first => return landed.ok(),
            () = sleep(after) => {}
        }
        if !inner.retries.take(Instant::now()) {
            return first.await.ok();
        }
        inner.counters.retries.add_one();
        let mut second = self.begin();
        let (landed, other) = tokio::select! {
            landed = &mut first => (landed, second),
            landed = &mut second => (landed, first),
        };
        match landed.ok()? {
            Err(FetchError::Transient { .. }) => other.await.ok(),
            decided => Some(decided),
        }
    }

    /// An attempt in a task of its own: the one that loses ends by itself, as what is upstream
    /// counts calls that are given up as calls.
    fn begin(&self) -> JoinHandle<Outcome<S::Value, S::Error>> {
        let (inner, key, call) = (self.inner.clone(), self.key.clone(), self.call.clone());
        tokio::spawn(async move { inner.attempt(key, call).await })
    }
}

impl<S: Source> Drop for Pilot<S> {
    fn drop(&mut self) {
        if !self.landed {
            self.inner.state.lock().flights.remove(&self.key);
        }
    }
}
