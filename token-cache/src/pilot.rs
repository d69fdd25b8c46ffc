//! Flights from start to landing: the attempts at a fetch, and what is written down of its end.

use std::sync::Arc;
use std::time::Duration;

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
    /// When the first began.
    begun: Instant,
    /// When the last began.
    asked: Instant,
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

    /// How long to pause before the next attempt, if there is to be one: there is none when a
    /// living token makes the failure harmless.
    fn pause(&self, key: &S::Key, error: &FetchError<S::Error>, tried: Tried) -> Option<Duration> {
        if self.has_token(key) {
            return None;
        }
        let longest = self.policy.retry_pause(tried.attempts);
        let distance = longest.mul_f64(rand::random_range(0.0..=1.0));
        let pause = distance.saturating_sub(tried.asked.elapsed()).max(retry_after(error));
        let left = self.source.patience(error).checked_sub(tried.begun.elapsed())?;
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
        let outcome = self.fetch().await;
        self.inner.settle(&self.key, &outcome);
        self.landed = true;
        // Nobody may be waiting.
        drop(landing.send(Some(outcome)));
    }

    /// The end of all attempts.
    async fn fetch(&self) -> Outcome<S::Value, S::Error> {
        let inner = &self.inner;
        let mut attempts = 0;
        let begun = Instant::now();
        loop {
            let asked = Instant::now();
            let call = Call { urgent: !inner.has_token(&self.key), ..self.call.clone() };
            let error = match inner.source.fetch(self.key.clone(), call).await {
                Ok(fetched) => return Ok(Kept::new(fetched, asked, Jitter::random())),
                Err(error) => error,
            };
            inner.counters.failures.add_one();
            attempts += 1;
            let tried = Tried { attempts, begun, asked };
            let Some(pause) = inner.pause(&self.key, &error, tried) else { return Err(error) };
            sleep(pause).await;
            inner.counters.retries.add_one();
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
