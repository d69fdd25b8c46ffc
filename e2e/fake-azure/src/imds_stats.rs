//! How hard IMDS is asked: requests at a time and in one second, per machine and altogether.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

const WINDOW: Duration = Duration::from_secs(1);

/// The counts since the start or the last clearing.
pub(crate) struct ImdsStats {
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    all: Count,
    machines: BTreeMap<String, Count>,
}

/// The counts of one machine, or of all.
#[derive(Default)]
struct Count {
    peak: Peak,
    /// The arrivals within the last second.
    recent: VecDeque<Duration>,
}

/// What was most at any time. Requests that were throttled count too: they were asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Peak {
    requests: u64,
    throttled: u64,
    in_flight: u32,
    max_in_flight: u32,
    max_per_second: u32,
}

/// All counts.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct View {
    all: Peak,
    machines: BTreeMap<String, Peak>,
}

/// A request under way.
pub(crate) struct Visit {
    stats: Arc<ImdsStats>,
    machine: String,
}

impl ImdsStats {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), inner: Mutex::default() }
    }

    /// A request of `machine` begins; it ends when the visit is dropped.
    pub(crate) fn enter(self: &Arc<Self>, machine: &str) -> Visit {
        let now = self.started.elapsed();
        self.each(machine, |count| count.arrive(now));
        Visit { stats: Arc::clone(self), machine: machine.to_owned() }
    }

    /// The counts.
    pub(crate) fn view(&self) -> View {
        let inner = self.inner.lock();
        let machines = inner.machines.iter();
        View {
            all: inner.all.peak,
            machines: machines.map(|(name, count)| (name.clone(), count.peak)).collect(),
        }
    }

    /// Counts anew. What is under way stays under way.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.all.clear();
        inner.machines.values_mut().for_each(Count::clear);
        inner.machines.retain(|_, count| count.peak.in_flight > 0);
    }

    fn each(&self, machine: &str, change: impl Fn(&mut Count)) {
        let mut inner = self.inner.lock();
        change(&mut inner.all);
        change(inner.machines.entry(machine.to_owned()).or_default());
    }
}

impl Count {
    fn arrive(&mut self, now: Duration) {
        while self.recent.front().is_some_and(|first| now.saturating_sub(*first) >= WINDOW) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let recent = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        let peak = &mut self.peak;
        peak.requests += 1;
        peak.in_flight += 1;
        peak.max_in_flight = peak.max_in_flight.max(peak.in_flight);
        peak.max_per_second = peak.max_per_second.max(recent);
    }

    fn clear(&mut self) {
        let in_flight = self.peak.in_flight;
        self.peak = Peak { in_flight, max_in_flight: in_flight, ..Peak::default() };
        self.recent.clear();
    }
}

impl Visit {
    /// The request was one too many.
    pub(crate) fn throttled(&self) {
        self.stats.each(&self.machine, |count| count.peak.throttled += 1);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.stats.each(&self.machine, |count| {
            count.peak.in_flight = count.peak.in_flight.saturating_sub(1);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Count, ImdsStats};

    #[test]
    fn the_busiest_second_may_begin_at_any_moment() {
        let mut count = Count::default();
        for ms in [0, 900, 950, 1000, 1850, 1960] {
            count.arrive(Duration::from_millis(ms));
        }
        // 900, 950, 1000 and 1850 are within one second; 0 and 1000 are not.
        assert_eq!((count.peak.requests, count.peak.max_per_second), (6, 4));
    }

    #[test]
    fn machines_are_counted_apart_and_together() {
        let stats = Arc::new(ImdsStats::new());
        let (one, two) = (stats.enter("a"), stats.enter("b"));
        one.throttled();
        drop((one, two));
        drop(stats.enter("a"));
        let view = stats.view();
        assert_eq!((view.all.max_in_flight, view.all.in_flight, view.all.requests), (2, 0, 3));
        let a = view.machines["a"];
        assert_eq!((a.max_in_flight, a.requests, a.throttled), (1, 2, 1));
        stats.clear();
        assert!(stats.view().machines.is_empty());
    }
}
