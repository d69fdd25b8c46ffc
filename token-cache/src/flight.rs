//! One fetch in the air and those who wait for it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::kept::Kept;
use crate::source::FetchError;

/// How a flight ended.
pub(crate) type Outcome<V, E> = Result<Kept<V>, FetchError<E>>;

/// A fetch in the air, as those who wait see it.
pub(crate) struct Flight<V, E> {
    outcome: watch::Receiver<Option<Outcome<V, E>>>,
    seats: Arc<Semaphore>,
    begun: Instant,
    /// Whether a request wants the result.
    pub(crate) wanted: bool,
}

/// A place among those who wait.
pub(crate) struct Waiting<V, E> {
    outcome: watch::Receiver<Option<Outcome<V, E>>>,
    /// When the flight began.
    pub(crate) begun: Instant,
    _seat: OwnedSemaphorePermit,
}

/// The end of a flight that its pilot holds.
pub(crate) type Landing<V, E> = watch::Sender<Option<Outcome<V, E>>>;

// === impl Flight ===

impl<V: Clone, E: Clone> Flight<V, E> {
    pub(crate) fn new(seats: usize, wanted: bool) -> (Self, Landing<V, E>) {
        let (landing, outcome) = watch::channel(None);
        let seats = Arc::new(Semaphore::new(seats.max(1)));
        (Self { outcome, seats, begun: Instant::now(), wanted }, landing)
    }

    /// A place to wait, unless all are taken.
    pub(crate) fn board(&mut self) -> Option<Waiting<V, E>> {
        let seat = self.seats.clone().try_acquire_owned().ok()?;
        self.wanted = true;
        Some(Waiting { outcome: self.outcome.clone(), begun: self.begun, _seat: seat })
    }
}

// === impl Waiting ===

impl<V: Clone, E: Clone> Waiting<V, E> {
    /// The outcome; none if the pilot was lost.
    pub(crate) async fn landed(&mut self) -> Option<Outcome<V, E>> {
        self.outcome.wait_for(Option::is_some).await.ok()?.clone()
    }
}
