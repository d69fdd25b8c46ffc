//! IMDS's own limits, per machine: requests per second and requests at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

const PER_SECOND: f64 = 20.0;
const AT_A_TIME: u32 = 5;

/// The limits of all machines.
pub(crate) struct ImdsLimit {
    started: Instant,
    machines: Mutex<HashMap<String, Bucket>>,
}

/// A place among the requests that a machine may have at a time.
pub(crate) struct Place {
    limit: Arc<ImdsLimit>,
    machine: String,
}

struct Bucket {
    tokens: f64,
    filled: Duration,
    in_flight: u32,
}

impl ImdsLimit {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), machines: Mutex::default() }
    }

    /// A place for one request, or `None` if the machine has to be throttled.
    pub(crate) fn enter(self: &Arc<Self>, machine: &str) -> Option<Place> {
        let now = self.started.elapsed();
        let mut machines = self.machines.lock();
        let bucket = machines.entry(machine.to_owned()).or_insert_with(|| Bucket::full(now));
        bucket.admit(now).then(|| Place { limit: Arc::clone(self), machine: machine.to_owned() })
    }

    pub(crate) fn clear(&self) {
        for bucket in self.machines.lock().values_mut() {
            bucket.tokens = PER_SECOND;
        }
    }
}

impl Bucket {
    fn full(now: Duration) -> Self {
        Self { tokens: PER_SECOND, filled: now, in_flight: 0 }
    }

    fn admit(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * PER_SECOND).min(PER_SECOND);
        self.filled = now;
        let admitted = self.tokens >= 1.0 && self.in_flight < AT_A_TIME;
        if admitted {
            self.tokens -= 1.0;
            self.in_flight += 1;
        }
        admitted
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(bucket) = self.limit.machines.lock().get_mut(&self.machine) {
            bucket.in_flight = bucket.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Bucket, ImdsLimit};

    #[test]
    fn a_machine_has_twenty_requests_and_gains_one_each_fifty_ms() {
        let mut bucket = Bucket::full(Duration::ZERO);
        let mut ask = |ms: u64| {
            let admitted = bucket.admit(Duration::from_millis(ms));
            bucket.in_flight = 0;
            admitted
        };
        assert_eq!((0..25).filter(|_| ask(0)).count(), 20);
        assert!(ask(50));
        assert!(!ask(51));
        assert_eq!((0..100).filter(|_| ask(60_000)).count(), 20, "it does not save up");
    }

    #[test]
    fn the_sixth_request_at_a_time_is_refused_and_machines_do_not_share() {
        let limit = Arc::new(ImdsLimit::new());
        let places: Vec<_> = (0..5).map(|_| limit.enter("a").unwrap()).collect();
        assert!(limit.enter("a").is_none());
        assert!(limit.enter("b").is_some());
        drop(places);
        assert!(limit.enter("a").is_some());
    }
}
