//! The metadata service's limits for tokens, kept here so that it never has to enforce them: five
//! calls at a time and twenty a second for the whole VM.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

/// Lets calls through at the documented pace, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Gate {
    places: Semaphore,
    started: Mutex<VecDeque<Instant>>,
}

/// The right to make one call, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _place: Option<SemaphorePermit<'a>>,
}

const AT_A_TIME: usize = 5;
const PER_WINDOW: usize = 20;
const WINDOW: Duration = Duration::from_secs(1);

// === impl Gate ===

impl Gate {
    /// A gate through which nobody has gone.
    pub(crate) fn new() -> Self {
        Self { places: Semaphore::new(AT_A_TIME), started: Mutex::default() }
    }

    /// Waits for a turn.
    pub(crate) async fn turn(&self) -> Turn<'_> {
        // The semaphore is never closed.
        let place = self.places.acquire().await.ok();
        let mut started = self.started.lock().await;
        if started.len() == PER_WINDOW
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
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// When each of `calls` calls started, if each takes `length`.
    async fn starts(calls: usize, length: Duration) -> Vec<Duration> {
        let (gate, begun) = (Arc::new(Gate::new()), Instant::now());
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
    async fn who_gives_up_waiting_leaves_the_way_free() {
        let gate = Gate::new();
        let turns = futures::future::join_all((0..AT_A_TIME).map(|_| gate.turn())).await;
        let impatient = tokio::time::timeout(Duration::from_secs(1), gate.turn()).await;
        assert!(impatient.is_err());
        drop(turns);
        gate.turn().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_does_not_let_the_next_one_through_early() {
        let (gate, begun) = (Gate::new(), Instant::now());
        for _ in 0..PER_WINDOW {
            gate.turn().await;
        }
        let impatient = tokio::time::timeout(WINDOW / 2, gate.turn()).await;
        assert!(impatient.is_err());
        gate.turn().await;
        assert_eq!(begun.elapsed(), WINDOW);
    }
}
