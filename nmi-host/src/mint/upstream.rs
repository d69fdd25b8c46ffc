//! The way to one issuer of tokens: paced, left in peace while it fails, and asked a second time
//! where somebody waits for an answer that is slow.

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::circuit::{Change, Circuit};
use super::gate::{Gate, Pace, Turn};
use crate::metrics::{HostMetrics, Issuer, Withheld};

/// The way to one issuer. Clones are the same way.
#[derive(Clone, Debug)]
pub(crate) struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    issuer: Issuer,
    gate: Gate,
    circuit: Circuit,
    metrics: HostMetrics,
}

/// A call was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{issuer} {reason}")]
pub(crate) struct NotCalled {
    issuer: Issuer,
    reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// All calls of late failed; the next may be made after so long.
    CircuitOpen(Duration),
    /// Others have to go first, for longer than it pays to wait.
    NoTurn,
}

/// What a call is, besides the call itself.
#[derive(Clone, Copy)]
pub(crate) struct Manner<T> {
    /// Whether somebody waits for the answer.
    pub(crate) urgent: bool,
    /// Whether an answer is none.
    pub(crate) failed: fn(&T) -> bool,
}

/// For the turn: who is not let through by then would only answer a caller that has left.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// After so long a second call is made beside an urgent one; the first to succeed counts. IMDS and
/// Entra usually take some ten milliseconds.
const SLOW: Duration = Duration::from_millis(500);

// === impl Upstream ===

impl Upstream {
    /// The way to `issuer` at this pace.
    pub(crate) fn new(issuer: Issuer, pace: Pace, metrics: HostMetrics) -> Self {
        let (gate, circuit) = (Gate::new(pace), Circuit::default());
        Self(Arc::new(Inner { issuer, gate, circuit, metrics }))
    }

    /// Makes a call when it is its turn, unless it is sure to fail.
    pub(crate) async fn call<F, T>(
        &self,
        call: impl Fn() -> F,
        manner: Manner<T>,
    ) -> Result<T, NotCalled>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        if let Some(left) = self.0.circuit.is_closed_to_all(Instant::now()) {
            return Err(self.withheld(Reason::CircuitOpen(left)));
        }
        let Ok(turn) = timeout(TURN_TIMEOUT, self.0.gate.turn()).await else {
            return Err(self.withheld(Reason::NoTurn));
        };
        // It may have opened while this call waited.
        let started = self.start(turn, call(), manner.failed);
        let mut first = started.map_err(|left| self.withheld(Reason::CircuitOpen(left)))?;
        if !manner.urgent {
            return Ok(landed(&mut first).await);
        }
        tokio::select! {
            answer = landed(&mut first) => return Ok(answer),
            () = sleep(SLOW) => {}
        }
        let spare = self.0.gate.spare_turn();
        let second = spare.and_then(|turn| self.start(turn, call(), manner.failed).ok());
        let Some(mut second) = second else { return Ok(landed(&mut first).await) };
        let (answer, mut other) = tokio::select! {
            answer = landed(&mut first) => (answer, second),
            answer = landed(&mut second) => (answer, first),
        };
        Ok(if (manner.failed)(&answer) { landed(&mut other).await } else { answer })
    }

    /// A call in a task of its own, which holds its turn to the end: what is asked counts a call
    /// that was given up as a call.
    fn start<T: Send + 'static>(
        &self,
        turn: Turn,
        call: impl Future<Output = T> + Send + 'static,
        failed: fn(&T) -> bool,
    ) -> Result<JoinHandle<T>, Duration> {
        let pass = self.0.circuit.enter(Instant::now())?;
        let inner = self.0.clone();
        Ok(tokio::spawn(async move {
            let _turn = turn;
            let answer = call.await;
            let now = Instant::now();
            inner.tell(if failed(&answer) { pass.failed(now) } else { pass.answered() });
            answer
        }))
    }

    fn withheld(&self, reason: Reason) -> NotCalled {
        let issuer = self.0.issuer;
        let label = match reason {
            Reason::CircuitOpen(_) => Withheld::CircuitOpen,
            Reason::NoTurn => Withheld::NoTurn,
        };
        self.0.metrics.call_withheld(issuer, label);
        NotCalled { issuer, reason }
    }
}

impl Inner {
    fn tell(&self, change: Option<Change>) {
        let issuer = self.issuer.as_str();
        match change {
            Some(Change::Opened) => {
                self.metrics.circuit(self.issuer, true);
                tracing::warn!(issuer, "Issuer does not answer and is asked only now and then");
            }
            Some(Change::Closed) => {
                self.metrics.circuit(self.issuer, false);
                tracing::info!(issuer, "Issuer answers again");
            }
            None => {}
        }
    }
}

async fn landed<T>(call: &mut JoinHandle<T>) -> T {
    match call.await {
        Ok(answer) => answer,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is ending, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

// === impl NotCalled ===

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CircuitOpen(left) => {
                write!(f, "has not answered of late; it is asked again in {} s", left.as_secs())
            }
            Self::NoTurn => f.write_str("is being asked by too many at a time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn upstream() -> Upstream {
        Upstream::new(Issuer::Imds, Pace::IMDS, HostMetrics::detached())
    }

    const URGENT: Manner<bool> = Manner { urgent: true, failed: |answered| !answered };
    const AT_LEISURE: Manner<bool> = Manner { urgent: false, ..URGENT };

    /// Calls whose answers come from a list, each after `latency`.
    fn calls(
        answers: &'static [bool],
        latency: Duration,
    ) -> (Arc<AtomicUsize>, impl Fn() -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let call = move || {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            let answer = answers[number % answers.len()];
            Box::pin(async move {
                sleep(latency).await;
                answer
            }) as std::pin::Pin<Box<dyn Future<Output = bool> + Send>>
        };
        (count, call)
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_that_fails_is_probed_and_not_stormed() {
        let (upstream, begun) = (upstream(), Instant::now());
        let (count, failing) = calls(&[false], Duration::ZERO);
        // A call each 10 ms for a minute.
        while begun.elapsed() < Duration::from_secs(60) {
            assert_ne!(upstream.call(&failing, AT_LEISURE).await, Ok(true));
            sleep(Duration::from_millis(10)).await;
        }
        let made = count.load(Ordering::Relaxed);
        assert!((25..=30).contains(&made), "20, and then a probe each 10 s at last: {made}");
        let (_, working) = calls(&[true], Duration::ZERO);
        sleep(Duration::from_secs(10)).await;
        for _ in 0..9 {
            assert_eq!(upstream.call(&working, AT_LEISURE).await, Ok(true), "one is enough");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_call_gets_a_second_one_beside_it_only_if_somebody_waits() {
        let seconds = Duration::from_secs(2);
        for (manner, answers, made, took) in [
            (AT_LEISURE, &[true][..], 1, seconds),
            (URGENT, &[true], 2, seconds),
            (URGENT, &[false, true], 2, seconds + SLOW),
            (URGENT, &[true, false], 2, seconds),
        ] {
            let begun = Instant::now();
            let (count, call) = calls(answers, seconds);
            assert_eq!(upstream().call(call, manner).await, Ok(true));
            assert_eq!((count.load(Ordering::Relaxed), begun.elapsed()), (made, took));
        }
        let (count, quick) = calls(&[false], Duration::from_millis(400));
        assert_eq!(upstream().call(quick, URGENT).await, Ok(false));
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn second_calls_take_no_turns_from_first_ones() {
        let upstream = upstream();
        let (count, call) = calls(&[true], Duration::from_secs(2));
        let calls = (0..5).map(|_| upstream.call(&call, URGENT));
        let begun = Instant::now();
        futures::future::join_all(calls).await;
        assert_eq!(count.load(Ordering::Relaxed), 5);
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_get_a_turn_is_told_why() {
        let upstream = upstream();
        let (_, call) = calls(&[true], Duration::from_secs(60));
        let hanging: Vec<_> = (0..Pace::IMDS.at_a_time)
            .map(|_| {
                let (upstream, call) = (upstream.clone(), call());
                tokio::spawn(async move {
                    let call = parking_lot::Mutex::new(Some(call));
                    upstream.call(|| call.lock().take().unwrap(), AT_LEISURE).await
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let begun = Instant::now();
        let error = upstream.call(&call, AT_LEISURE).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "Azure's metadata service is being asked by too many at a time"
        );
        assert_eq!(begun.elapsed(), TURN_TIMEOUT);
        drop(hanging);
    }
}
