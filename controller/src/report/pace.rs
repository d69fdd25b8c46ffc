//! Status writes at a bearable rate: an object that keeps changing is written once a while.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::status;
use super::tally::Tallies;
use crate::clock::{after, since};
use crate::snapshot::Index;
use crate::writes::{Target, Write};

/// At most one write an object within this time.
const INTERVAL: Duration = Duration::from_secs(2);

/// When each object's status was written last.
#[derive(Debug, Default)]
pub(crate) struct Pace(HashMap<Target, Timestamp>);

// === impl Pace ===

impl Pace {
    /// The status writes that are due now, and when the next ones will be.
    pub(crate) fn due(
        &mut self,
        index: &Index<'_>,
        tallies: &Tallies<'_>,
        now: Timestamp,
    ) -> (Vec<Write>, Option<Timestamp>) {
        self.0.retain(|_, written| since(now, *written) < INTERVAL);
        let (held, due): (Vec<Write>, Vec<Write>) = status::due(index, tallies, now)
            .into_iter()
            .partition(|write| self.0.contains_key(&write.target()));
        let next = held.iter().filter_map(|write| self.0.get(&write.target())).min();
        (due, next.map(|written| after(*written, INTERVAL)))
    }

    /// The status of an object was written.
    pub(crate) fn written(&mut self, target: Target, now: Timestamp) {
        self.0.insert(target, now);
    }
}
