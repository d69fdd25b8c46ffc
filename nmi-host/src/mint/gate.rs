//! The pace at which an issuer of tokens is asked, kept here so that it never has to enforce it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// How many calls there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// At a time.
    pub(crate) at_a_time: usize,
    /// That start within a second.
    pub(crate) per_second: usize,
}

/// Lets calls through at a pace, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Gate {
    pace: Pace,
    places: Arc<Semaphore>,
    started: Mutex<VecDeque<Instant>>,
}

/// The right to make one call, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _place: Option<OwnedSemaphorePermit>,
}

const WINDOW: Duration = Duration::from_secs(1);

// === impl Pace ===

impl Pace {
    /// What the metadata service documents for the tokens of a whole VM.
    pub(crate) const IMDS: Self = Self { at_a_time: 5, per_second: 20 };

    /// Entra has no such limit for one caller; this keeps a node with many applications from being
    /// noticed as a flood.
    pub(crate) const ENTRA: Self = Self { at_a_time: 8, per_second: 20 };
}

// === impl Gate ===

impl Gate {
    /// A gate through which nobody has gone.
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, places: Arc::new(Semaphore::new(pace.at_a_time)), started: Mutex::default() }
    }

    /// Waits for a turn.
    pub(crate) async fn turn(&self) -> Turn {
        // The semaphore is never closed.
        let place = self.places.clone().acquire_owned().await.ok();
        let mut started = self.started.lock().await;
        if started.len() == self.pace.per_second
            && let Some(oldest) = started.front()
        {
            // With the lock held: tokio's lock is fair, so the order is kept. Forgotten only
            // afterwards: who gives up here has not made a call.
            sleep_until(*oldest + WINDOW).await;
            started.pop_front();
        }
        started.push_back(Instant::now());
        Turn { _place: place }
    }

    /// A turn for a call that can do without one: if more than half of the places are free, and
    /// nobody waits.
    pub(crate) fn spare_turn(&self) -> Option<Turn> {
        let mut started = self.started.try_lock().ok()?;
        let now = Instant::now();
        let full = started.len() == self.pace.per_second;
        if full && started.front().is_some_and(|oldest| now < *oldest + WINDOW) {
            return None;
        }
        if self.places.available_permits() <= self.pace.at_a_time / 2 {
            return None;
        }
        let place = self.places.clone().try_acquire_owned().ok()?;
        if full {
            started.pop_front();
        }
        started.push_back(now);
        Some(Turn { _place: Some(place) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const AT_A_TIME: usize = Pace::IMDS.at_a_time;
    const PER_WINDOW: usize = Pace::IMDS.per_second;

    /// When each of `calls` calls started, if each takes `length`.
    async fn starts(calls: usize, length: Duration) -> Vec<Duration> {
        let (gate, begun) = (Arc::new(Gate::new(Pace::IMDS)), Instant::now());
        let calls = (0..calls).map(|_| {
            let gate = gate.clone();
            async move {
                let _turn = gate.turn().await;
                let start = begun.elapsed();
                tokio::time::sleep(length).await;
                start
            }
        });
        let mut starts = futures::future::join_all(calls).await;
        starts.sort_unstable();
        starts
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_sees_more_than_twenty_starts() {
        let starts = starts(70, Duration::ZERO).await;
        for window in starts.windows(PER_WINDOW + 1) {
            let span = window[PER_WINDOW] - window[0];
            assert!(span >= WINDOW, "{window:?}");
        }
        let last = starts.last().unwrap();
        assert!(*last < Duration::from_secs(4), "no slower than it has to be: {last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_five_calls_are_under_way() {
        let length = Duration::from_secs(10);
        let starts = starts(12, length).await;
        for window in starts.windows(AT_A_TIME + 1) {
            assert!(window[AT_A_TIME] - window[0] >= length, "{window:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_spare_turn_takes_nothing_from_others() {
        let gate = Gate::new(Pace::IMDS);
        let taken = [gate.spare_turn(), gate.spare_turn(), gate.spare_turn()];
        assert!(taken.iter().all(Option::is_some));
        assert!(gate.spare_turn().is_none(), "the other places are for those who need them");
        drop(taken);
        for _ in 3..PER_WINDOW {
            gate.turn().await;
        }
        assert!(gate.spare_turn().is_none(), "the second is full");
        tokio::time::sleep(WINDOW).await;
        assert!(gate.spare_turn().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_leaves_the_way_free() {
        let gate = Gate::new(Pace::IMDS);
        let turns = futures::future::join_all((0..AT_A_TIME).map(|_| gate.turn())).await;
        let impatient = tokio::time::timeout(Duration::from_secs(1), gate.turn()).await;
        assert!(impatient.is_err());
        drop(turns);
        gate.turn().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_does_not_let_the_next_one_through_early() {
        let (gate, begun) = (Gate::new(Pace::IMDS), Instant::now());
        for _ in 0..PER_WINDOW {
            gate.turn().await;
        }
        let impatient = tokio::time::timeout(WINDOW / 2, gate.turn()).await;
        assert!(impatient.is_err());
        gate.turn().await;
        assert_eq!(begun.elapsed(), WINDOW);
    }
}
