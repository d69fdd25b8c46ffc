//! The bounded number of connections. When all seats are taken, the connection that has kept the
//! server waiting longest gives way: half-open connections cannot lock the application out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// All connections.
#[derive(Clone)]
pub(super) struct Seats(Arc<Inner>);

struct Inner {
    seats: Mutex<HashMap<u64, Arc<Seat>>>,
    most: usize,
}

/// A connection's place; given back when dropped.
pub(super) struct Guest {
    seats: Arc<Inner>,
    number: u64,
    seat: Arc<Seat>,
}

struct Seat {
    state: Mutex<(Phase, Instant)>,
    leave: Notify,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing was sent since the last answer.
    Idle,
    /// A head has begun to arrive.
    Reading,
    /// A request is being answered.
    Busy,
    /// An answer does not fit into the socket, or the rest of a bad request is being discarded.
    Flushing,
}

/// How long a connection may stay in a phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) idle: Duration,
    pub(super) reading: Duration,
    pub(super) flushing: Duration,
}

// === impl Seats ===

impl Seats {
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Inner { seats: Mutex::default(), most }))
    }

    /// A seat for connection `number`; none if all are taken by connections that are being served.
    pub(super) fn admit(&self, number: u64) -> Option<Guest> {
        let mut seats = self.0.seats.lock();
        if seats.len() >= self.0.most {
            let longest = seats
                .iter()
                .map(|(number, seat)| (*number, *seat.state.lock()))
                .filter(|(_, (phase, _))| *phase != Phase::Busy)
                .min_by_key(|(_, (_, since))| *since);
            let (victim, _) = longest?;
            if let Some(seat) = seats.remove(&victim) {
                seat.leave.notify_one();
            }
        }
        let seat = Arc::new(Seat {
            state: Mutex::new((Phase::Idle, Instant::now())),
            leave: Notify::new(),
        });
        seats.insert(number, seat.clone());
        Some(Guest { seats: self.0.clone(), number, seat })
    }

    /// Asks those to leave that have been waited for too long.
    pub(super) fn dismiss(&self, patience: Patience) {
        for seat in self.0.seats.lock().values() {
            let (phase, since) = *seat.state.lock();
            let limit = match phase {
                Phase::Busy => continue,
                Phase::Idle => patience.idle,
                Phase::Reading => patience.reading,
                Phase::Flushing => patience.flushing,
            };
            if since.elapsed() > limit {
                seat.leave.notify_one();
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.seats.lock().is_empty()
    }
}

// === impl Guest ===

impl Guest {
    /// Enters a phase.
    pub(super) fn enter(&self, phase: Phase, now: Instant) {
        *self.seat.state.lock() = (phase, now);
    }

    /// Resolves when the connection is to be closed.
    pub(super) async fn asked_to_leave(&self) {
        loop {
            self.seat.leave.notified().await;
            // A request that arrived in the same moment is still answered.
            if self.seat.state.lock().0 != Phase::Busy {
                return;
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.seats.seats.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn patience() -> Patience {
        Patience { idle: 75 * SECOND, reading: 5 * SECOND, flushing: 10 * SECOND }
    }

    async fn must_leave(guest: &Guest) -> bool {
        tokio::time::timeout(Duration::ZERO, guest.asked_to_leave()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_house_dismisses_who_keeps_it_waiting_longest() {
        let seats = Seats::new(2);
        let busy = seats.admit(1).unwrap();
        busy.enter(Phase::Busy, Instant::now());
        tokio::time::advance(SECOND).await;
        let idle = seats.admit(2).unwrap();
        let third = seats.admit(3).unwrap();
        assert!(must_leave(&idle).await);
        assert!(!must_leave(&busy).await);
        third.enter(Phase::Busy, Instant::now());
        assert!(seats.admit(4).is_none(), "those who are served stay");
        drop(idle);
        drop(third);
        assert!(seats.admit(5).is_some());
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_limit() {
        let seats = Seats::new(9);
        let rows = [
            (Phase::Idle, 75, true),
            (Phase::Reading, 5, true),
            (Phase::Flushing, 10, true),
            (Phase::Busy, 3600, false),
        ];
        for (phase, seconds, leaves) in rows {
            let guest = seats.admit(1).unwrap();
            guest.enter(phase, Instant::now());
            tokio::time::advance(seconds * SECOND).await;
            seats.dismiss(patience());
            assert!(!must_leave(&guest).await, "{phase:?}");
            tokio::time::advance(SECOND).await;
            seats.dismiss(patience());
            assert_eq!(must_leave(&guest).await, leaves, "{phase:?}");
        }
        assert!(seats.is_empty());
    }
}
