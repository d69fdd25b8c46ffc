//! Which objects are to be written next: in the order of their rank, none twice at a time, and none
//! that failed or was written a moment ago. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::backoff::Backoff;
use crate::clock::{after, since};
use crate::plan::Rank;
use crate::snapshot::ObjectKey;

const FAILED: Backoff = Backoff::new(Duration::from_millis(500), 2, Duration::from_secs(60));
/// A failure that is this long past counts no more.
const FORGIVEN: Duration = Duration::from_secs(300);

/// The object that a write is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Target {
    Assigned(ObjectKey),
    Identity(ObjectKey),
    Binding(ObjectKey),
}

/// Who waits for a turn.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    wanted: HashMap<Target, Rank>,
    /// Those of `wanted` that nothing holds up.
    ready: BTreeSet<(Rank, Target)>,
    busy: HashSet<Target>,
    resting: HashMap<Target, Timestamp>,
    ends: BTreeSet<(Timestamp, Target)>,
    failures: BTreeMap<Target, (u32, Timestamp)>,
}

// === impl Turns ===

impl Turns {
    /// A target wants to be written, or does not any more.
    pub(crate) fn want(&mut self, target: Target, rank: Option<Rank>) {
        let before = match rank {
            Some(rank) => self.wanted.insert(target.clone(), rank),
            None => self.wanted.remove(&target),
        };
        if before == rank {
            return;
        }
        let target = match before {
            Some(before) => {
                let entry = (before, target);
                self.ready.remove(&entry);
                entry.1
            }
            None => target,
        };
        if let Some(rank) = rank
            && self.is_free(&target)
        {
            self.ready.insert((rank, target));
        }
    }

    /// Like `want`, of a target of which more will be to tell in a moment: one that waits for
    /// nothing yet waits for `pause`.
    pub(crate) fn want_after(
        &mut self,
        target: Target,
        rank: Rank,
        (pause, now): (Duration, Timestamp),
    ) {
        if self.is_free(&target) && !self.wanted.contains_key(&target) {
            self.rest(&target, pause, now);
        }
        self.want(target, Some(rank));
    }

    /// Whose turn it is. It is busy until it is finished.
    pub(crate) fn next(&mut self) -> Option<Target> {
        let (_, target) = self.ready.pop_first()?;
        self.wanted.remove(&target);
        self.busy.insert(target.clone());
        Some(target)
    }

    /// There was nothing to write after all, or it is written. It is left alone for `rest`.
    pub(crate) fn finished(&mut self, target: &Target, rest: Duration, now: Timestamp) {
        self.failures.remove(target);
        self.release(target, rest, now);
    }

    /// It could not be written. It is left alone the longer the more often that happened.
    pub(crate) fn failed(&mut self, target: &Target, now: Timestamp) {
        let before = self.failures.get(target).filter(|(_, at)| since(now, *at) < FORGIVEN);
        let count = before.map_or(0, |(count, _)| *count).saturating_add(1);
        let rest = FAILED.delay(count);
        self.failures.insert(target.clone(), (count, after(now, rest)));
        self.release(target, rest, now);
    }

    /// Lets those go on whose rest is over.
    pub(crate) fn wake(&mut self, now: Timestamp) {
        let mut any = false;
        while let Some((end, target)) = self.ends.pop_first() {
            if end > now {
                self.ends.insert((end, target));
                break;
            }
            any = true;
            self.resting.remove(&target);
            if let Some(rank) = self.wanted.get(&target)
                && !self.busy.contains(&target)
            {
                self.ready.insert((*rank, target));
            }
        }
        if any {
            self.failures.retain(|_, (_, at)| since(now, *at) < FORGIVEN);
        }
    }

    /// When the next rest is over.
    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// How many wait or are being written.
    pub(crate) fn len(&self) -> usize {
        self.wanted.len() + self.busy.len()
    }

    /// All that wait, by rank.
    #[cfg(test)]
    pub(crate) fn wanted(&self) -> BTreeSet<(Rank, Target)> {
        self.wanted.iter().map(|(target, rank)| (*rank, target.clone())).collect()
    }

    fn release(&mut self, target: &Target, rest: Duration, now: Timestamp) {
        self.busy.remove(target);
        if !rest.is_zero() {
            self.rest(target, rest, now);
        } else if let Some(rank) = self.wanted.get(target) {
            self.ready.insert((*rank, target.clone()));
        }
    }

    fn rest(&mut self, target: &Target, rest: Duration, now: Timestamp) {
        let end = after(now, rest);
        self.resting.insert(target.clone(), end);
        self.ends.insert((end, target.clone()));
    }

    fn is_free(&self, target: &Target) -> bool {
        !self.busy.contains(target) && !self.resting.contains_key(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> Target {
        Target::Assigned(ObjectKey::new("apps", name))
    }

    fn at(seconds: u64) -> Timestamp {
        after(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds))
    }

    #[test]
    fn turns_go_by_rank_and_a_new_rank_replaces_the_old() {
        let mut turns = Turns::default();
        turns.want(target("a"), Some(Rank::Announce));
        turns.want(target("b"), Some(Rank::Grant));
        turns.want(target("c"), Some(Rank::Withdraw));
        turns.want(target("a"), Some(Rank::Withdraw));
        turns.want(target("b"), None);
        assert_eq!(turns.next(), Some(target("a")));
        assert_eq!(turns.next(), Some(target("c")));
        assert_eq!(turns.next(), None);
    }

    #[test]
    fn nothing_is_written_twice_at_a_time() {
        let mut turns = Turns::default();
        turns.want(target("a"), Some(Rank::Announce));
        assert_eq!(turns.next(), Some(target("a")));
        turns.want(target("a"), Some(Rank::Grant));
        assert_eq!((turns.next(), turns.len()), (None, 2));
        turns.finished(&target("a"), Duration::ZERO, at(0));
        assert_eq!(turns.next(), Some(target("a")));
    }

    #[test]
    fn what_fails_rests_longer_every_time_and_holds_up_nobody() {
        let mut turns = Turns::default();
        let mut now = at(0);
        for expected in [500, 1000, 2000] {
            turns.want(target("a"), Some(Rank::Withdraw));
            turns.wake(now);
            assert_eq!(turns.next(), Some(target("a")));
            turns.failed(&target("a"), now);
            turns.want(target("a"), Some(Rank::Withdraw));
            turns.want(target("b"), Some(Rank::Announce));
            assert_eq!(turns.next(), Some(target("b")));
            turns.finished(&target("b"), Duration::ZERO, now);
            let wake = turns.wake_at().unwrap();
            assert_eq!(since(wake, now), Duration::from_millis(expected));
            now = wake;
        }
        turns.wake(now);
        assert_eq!(turns.next(), Some(target("a")));
        turns.finished(&target("a"), Duration::ZERO, now);
        assert!(turns.failures.is_empty() && turns.wake_at().is_none());
    }

    #[test]
    fn a_failure_is_forgiven_after_a_while() {
        let mut turns = Turns::default();
        turns.failed(&target("a"), at(0));
        turns.failed(&target("a"), at(1000));
        assert_eq!(turns.failures[&target("a")].0, 1);
        turns.wake(at(2000));
        assert!(turns.failures.is_empty() && turns.resting.is_empty());
    }

    #[test]
    fn what_rests_is_written_when_it_wakes() {
        let mut turns = Turns::default();
        turns.want(target("a"), Some(Rank::Status));
        turns.next();
        turns.finished(&target("a"), Duration::from_secs(2), at(0));
        turns.want(target("a"), Some(Rank::Status));
        turns.wake(at(1));
        assert_eq!(turns.next(), None);
        turns.wake(at(2));
        assert_eq!(turns.next(), Some(target("a")));
    }

    #[test]
    fn what_is_to_be_told_waits_once_for_what_else_there_is_to_tell() {
        let mut turns = Turns::default();
        let pause = Duration::from_secs(1);
        turns.want_after(target("a"), Rank::Status, (pause, at(0)));
        turns.want_after(target("a"), Rank::Status, (pause, at(1)));
        assert_eq!((turns.next(), turns.wake_at()), (None, Some(at(1))), "the first counts");
        turns.wake(at(1));
        turns.want_after(target("a"), Rank::Status, (pause, at(1)));
        assert_eq!(turns.next(), Some(target("a")), "no second pause");
        turns.want_after(target("a"), Rank::Status, (pause, at(1)));
        turns.finished(&target("a"), Duration::from_secs(5), at(2));
        turns.want_after(target("a"), Rank::Status, (pause, at(2)));
        turns.wake(at(6));
        assert_eq!(turns.next(), None, "the rest after a write is longer");
        turns.wake(at(7));
        assert_eq!(turns.next(), Some(target("a")));
    }
}
