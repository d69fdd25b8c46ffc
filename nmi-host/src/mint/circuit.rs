//! Whether somebody who keeps failing is asked at all: after many failures in a row only now and
//! then, by one call at a time, until one is answered. Pure: the time is a parameter.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The memory of how calls ended. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Circuit(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    probe_at: Instant,
    pause: Duration,
    probing: bool,
}

/// The right to make one call. Dropped without a word on how it ended, it says nothing.
#[derive(Debug)]
pub(crate) struct Pass {
    circuit: Circuit,
    probe: bool,
}

/// What the end of a call changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// From now on calls are only made now and then.
    Opened,
    /// From now on all calls are made.
    Closed,
}

/// So many failures in a row are an outage. With every second call failing by chance, it takes a
/// million calls until so many come in a row.
const FAILURES: u32 = 20;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

// === impl Circuit ===

impl Circuit {
    /// The right to make a call at `now`; if there is none, the time until the next one may be
    /// made.
    pub(crate) fn enter(&self, now: Instant) -> Result<Pass, Duration> {
        let pass = |probe| Pass { circuit: self.clone(), probe };
        let mut state = self.0.lock();
        let Some(open) = &mut state.open else { return Ok(pass(false)) };
        if open.probing || now < open.probe_at {
            return Err(open.probe_at.saturating_duration_since(now).max(FIRST_PAUSE));
        }
        open.probing = true;
        Ok(pass(true))
    }

    /// Whether [`Circuit::enter`] would say no.
    pub(crate) fn is_closed_to_all(&self, now: Instant) -> Option<Duration> {
        let state = self.0.lock();
        let open = state.open.as_ref()?;
        let refused = open.probing || now < open.probe_at;
        refused.then(|| open.probe_at.saturating_duration_since(now).max(FIRST_PAUSE))
    }
}

// === impl Pass ===

impl Pass {
    /// The call was answered, be it with a refusal.
    pub(crate) fn answered(self) -> Option<Change> {
        let mut state = self.circuit.0.lock();
        state.failures = 0;
        state.open.take().map(|_| Change::Closed)
    }

    /// The call failed at `now`.
    pub(crate) fn failed(self, now: Instant) -> Option<Change> {
        let mut state = self.circuit.0.lock();
        state.failures = state.failures.saturating_add(1);
        if let Some(open) = &mut state.open {
            // Calls from before it opened say nothing new.
            if self.probe {
                open.pause = (open.pause * 2).min(LONGEST_PAUSE);
                open.probe_at = now + open.pause;
            }
            return None;
        }
        if state.failures < FAILURES {
            return None;
        }
        let pause = FIRST_PAUSE;
        state.open = Some(Open { probe_at: now + pause, pause, probing: false });
        Some(Change::Opened)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe
            && let Some(open) = &mut self.circuit.0.lock().open
        {
            open.probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(circuit: &Circuit, now: Instant) -> Option<Change> {
        circuit.enter(now).unwrap().failed(now)
    }

    fn opened(now: Instant) -> Circuit {
        let circuit = Circuit::default();
        for _ in 1..FAILURES {
            assert_eq!(fail(&circuit, now), None);
        }
        assert_eq!(fail(&circuit, now), Some(Change::Opened));
        circuit
    }

    fn refused(circuit: &Circuit, now: Instant) -> bool {
        let refused = circuit.enter(now).is_err();
        assert_eq!(refused, circuit.is_closed_to_all(now).is_some());
        refused
    }

    #[tokio::test(start_paused = true)]
    async fn many_failures_in_a_row_open_it_and_one_answer_closes_it() {
        let now = Instant::now();
        let circuit = opened(now);
        assert!(refused(&circuit, now));
        let later = now + FIRST_PAUSE;
        assert_eq!(circuit.enter(later).unwrap().answered(), Some(Change::Closed));
        assert!(!refused(&circuit, later));
        assert_eq!(circuit.enter(later).unwrap().answered(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_that_are_not_in_a_row_do_not_open_it() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..100 {
            for _ in 1..FAILURES {
                assert_eq!(fail(&circuit, now), None);
            }
            assert_eq!(circuit.enter(now).unwrap().answered(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_probed_by_one_call_at_a_time_and_ever_less_often() {
        let mut now = Instant::now();
        let circuit = opened(now);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let Err(pause) = circuit.enter(now) else { panic!("too early") };
            assert!(refused(&circuit, now + pause - Duration::from_millis(1)));
            now += pause;
            let probe = circuit.enter(now).unwrap();
            assert!(refused(&circuit, now), "a second one beside it");
            assert_eq!(probe.failed(now), None);
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_given_up_leaves_the_way_to_the_next_one() {
        let now = Instant::now();
        let circuit = opened(now);
        let later = now + FIRST_PAUSE;
        drop(circuit.enter(later).unwrap());
        assert!(circuit.enter(later).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_began_before_it_opened_do_not_delay_the_probe() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        let passes: Vec<_> = (0..FAILURES + 5).map(|_| circuit.enter(now).unwrap()).collect();
        let changes = passes.into_iter().filter_map(|pass| pass.failed(now)).count();
        assert_eq!(changes, 1);
        assert!(!refused(&circuit, now + FIRST_PAUSE));
    }
}
