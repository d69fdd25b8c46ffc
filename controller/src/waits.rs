//! Since when pods wait for identities that they cannot use yet. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::since;
use crate::snapshot::ObjectKey;

/// Pods say in whole seconds when they were scheduled: what is younger than this was seen sooner
/// than it can be told from that.
const SEEN_AT_ONCE: Duration = Duration::from_secs(2);

/// Who waits, by `AzureAssignedIdentity`.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    all: HashMap<ObjectKey, Wait>,
    /// How many began when: the first is the longest.
    begins: BTreeMap<Timestamp, usize>,
}

/// One pod's wait for one identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) since: Timestamp,
    /// Whether the pod could not use the identity before either.
    pub(crate) first: bool,
}

// === impl Wait ===

impl Wait {
    /// Of a pod that is seen for the first time.
    pub(crate) fn of_newcomer(scheduled: Option<Timestamp>, now: Timestamp) -> Self {
        let before = scheduled.filter(|at| since(now, *at) >= SEEN_AT_ONCE);
        Self { since: before.unwrap_or(now), first: true }
    }
}

// === impl Waits ===

impl Waits {
    /// A pod waits like this, unless it did already; or it does not. Returns since when it had
    /// waited, if it can use the identity for the first time now.
    pub(crate) fn follow(&mut self, assigned: &ObjectKey, wait: Option<Wait>) -> Option<Timestamp> {
        let Some(wait) = wait else {
            return self.end(assigned).filter(|wait| wait.first).map(|wait| wait.since);
        };
        self.begin(assigned, wait);
        None
    }

    fn begin(&mut self, assigned: &ObjectKey, wait: Wait) {
        if self.all.contains_key(assigned) {
            return;
        }
        self.all.insert(assigned.clone(), wait);
        *self.begins.entry(wait.since).or_default() += 1;
    }

    /// It does not wait any more.
    pub(crate) fn end(&mut self, assigned: &ObjectKey) -> Option<Wait> {
        let wait = self.all.remove(assigned)?;
        if let Some(count) = self.begins.get_mut(&wait.since) {
            *count -= 1;
            if *count == 0 {
                self.begins.remove(&wait.since);
            }
        }
        Some(wait)
    }

    /// When the longest of them began.
    pub(crate) fn longest(&self) -> Option<Timestamp> {
        self.begins.first_key_value().map(|(since, _)| *since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::after;

    #[test]
    fn the_longest_wait_is_the_one_that_began_first_and_has_not_ended() {
        let at = |seconds| after(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds));
        let key = |name| ObjectKey::new("apps", name);
        let mut waits = Waits::default();
        for (name, since) in [("a", 7), ("b", 5), ("c", 5), ("b", 1)] {
            waits.begin(&key(name), Wait { since: at(since), first: true });
        }
        assert_eq!(waits.longest(), Some(at(5)), "a wait begins once");
        assert!(waits.end(&key("b")).is_some() && waits.end(&key("b")).is_none());
        assert_eq!(waits.longest(), Some(at(5)), "the other one's");
        assert!(waits.end(&key("c")).is_some());
        assert_eq!(waits.longest(), Some(at(7)));
        assert!(waits.end(&key("a")).is_some());
        assert_eq!((waits.longest(), waits.all.len(), waits.begins.len()), (None, 0, 0));
    }
}
