//! What to do next on one host. Pure: knowledge goes in, one step at a time comes out. What the
//! outcome of a step means is in `outcomes`.
//!
//! The order that makes a crash harmless: know what is attached, record what is about to be
//! attached, attach it; detach, see that it is gone, forget it. What is attached already when it is
//! first needed belongs to somebody else: it is not recorded, and so never detached. Except what
//! is claimed: it is recorded as if we had attached it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::IdentityId;
use jiff::Timestamp;

use super::failure::Failure;
use super::immutable::Immutable;
use super::record::{Entries, Record};
use super::telling::Status;
use super::view::HostView;
use crate::clock::{after, since};
use crate::compute::{HostIdentities, IdentityDelta};

/// How soon to look again at a host that somebody is changing, when something waits for the end.
const UPDATING: Duration = Duration::from_secs(15);
/// How old a view may be from which it is concluded that nobody else attached an identity. Where
/// ARM keeps ETags a mistake shows at the change itself, see `others`.
const FIRST_USE: Duration = Duration::from_secs(60);

/// The rules for all hosts.
#[derive(Clone, Debug)]
pub(crate) struct HostSettings {
    /// How long an identity stays attached after its last user left.
    pub(crate) linger: Duration,
    /// How often to look for what something outside removed.
    pub(crate) recheck: Duration,
    /// What is never detached.
    pub(crate) immutable: Immutable,
}

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read the record.
    Load,
    /// Store these entries in place of those of the version.
    Save(Entries, Option<String>),
    /// Ask ARM what is attached.
    Get,
    /// Have ARM change what is attached.
    Patch(Arc<HostIdentities>, IdentityDelta),
    /// Say in the record, in place of what that version says, how the host stands.
    Tell(Arc<Status>, String),
    /// Nothing until then, unless the needs change.
    Wait(Timestamp),
    /// Nothing ever, unless the needs change: nothing is needed and nothing is ours.
    Done,
}

/// One host.
pub(crate) struct HostModel {
    pub(super) settings: Arc<HostSettings>,
    pub(super) needed: BTreeSet<IdentityId>,
    /// What another controller attached and left to us.
    pub(super) claimed: BTreeSet<IdentityId>,
    pub(super) record: Option<Record>,
    /// Recorded by this process for a change that ARM has not made yet.
    pub(super) intended: BTreeSet<IdentityId>,
    /// Recorded, but attached by others first: to be taken off the record.
    pub(super) others: BTreeSet<IdentityId>,
    pub(super) known: Option<Known>,
    pub(super) refused: BTreeMap<IdentityId, Failure>,
    pub(super) reading: Option<Failure>,
    pub(super) writing: Option<Failure>,
    pub(super) recording: Option<Failure>,
    pub(super) telling: Option<Failure>,
    /// The record may have another version by now.
    pub(super) in_doubt: bool,
    /// When ARM was last called.
    pub(super) called: Timestamp,
    /// ARM is not called before.
    pub(super) not_before: Timestamp,
    /// The host does not exist in ARM.
    pub(super) gone: bool,
    /// Identities are tried one by one, because ARM refused several without saying which.
    pub(super) one_by_one: bool,
}

/// What ARM last said.
pub(super) struct Known {
    pub(super) identities: Arc<HostIdentities>,
    /// When ARM said so; `None` if it may have changed since.
    pub(super) at: Option<Timestamp>,
}

// === impl HostModel ===

impl HostModel {
    /// A host of which nothing is known.
    pub(crate) fn new(settings: Arc<HostSettings>) -> Self {
        Self {
            settings,
            needed: BTreeSet::new(),
            claimed: BTreeSet::new(),
            record: None,
            intended: BTreeSet::new(),
            others: BTreeSet::new(),
            known: None,
            refused: BTreeMap::new(),
            reading: None,
            writing: None,
            recording: None,
            telling: None,
            in_doubt: false,
            called: Timestamp::MIN,
            not_before: Timestamp::MIN,
            gone: false,
            one_by_one: false,
        }
    }

    /// Says what the pods of the host need now.
    pub(crate) fn set_needed(&mut self, needed: BTreeSet<IdentityId>) {
        self.needed = needed;
        let record = self.record.as_ref();
        self.refused.retain(|id, _| {
            self.needed.contains(id) || record.is_some_and(|record| record.entries.contains_key(id))
        });
    }

    /// Says what another controller attached and left to us.
    pub(crate) fn set_claimed(&mut self, claimed: BTreeSet<IdentityId>) {
        self.claimed = claimed;
    }

    /// Whether it is recorded for a change that was certainly not made yet.
    #[cfg(test)]
    pub(crate) fn intends(&self, id: &IdentityId) -> bool {
        self.intended.contains(id)
    }

    /// What others may see.
    pub(crate) fn view(&self) -> HostView {
        // Once is usual: the record changed.
        let recording = self.recording.as_ref().filter(|failure| failure.is_repeated());
        let recording = recording.map(|failure| failure.trouble.until(failure.until));
        let trouble = self.reading.as_ref().or(self.writing.as_ref());
        let trouble = trouble.map(|failure| failure.trouble.until(self.not_before));
        HostView {
            identities: self.known.as_ref().map(|known| known.identities.clone()),
            refused: self
                .refused
                .iter()
                .map(|(id, failure)| {
                    (id.clone(), failure.trouble.until(failure.until.max(self.not_before)))
                })
                .collect(),
            trouble: recording.or(trouble),
        }
    }

    /// What to do next. Asking again without an outcome in between gives the same answer.
    pub(crate) fn next(&self, now: Timestamp) -> Step {
        if let Some(failure) = self.recording.as_ref().filter(|failure| now < failure.until) {
            return Step::Wait(failure.until);
        }
        let Some(record) = &self.record else { return Step::Load };
        let save = |entries| match self.in_doubt {
            true => Step::Load,
            false => Step::Save(entries, record.version.clone()),
        };
        let wanted = !self.needed.is_empty() || !self.claimed.is_empty();
        if !wanted && (record.entries.is_empty() || self.gone) {
            let stored = record.version.is_some();
            return match stored {
                true => save(Entries::new()),
                // Whoever asks about the host next has to wait as long.
                false if now < self.not_before => Step::Wait(self.not_before),
                false => Step::Done,
            };
        }
        let marked = self.marked(&record.entries, now);
        if marked != record.entries {
            return save(marked);
        }
        if now < self.not_before {
            return self.rest(record, self.not_before, now);
        }
        let fresh = self.known.as_ref().filter(|known| now < self.fresh_until(record, known, now));
        let Some(known) = fresh else { return Step::Get };
        let delta = self.delta(record, known, now);
        let entries = self.entries_around(record, known, &delta, now);
        if entries != record.entries {
            return save(entries);
        }
        if !delta.is_empty() {
            return Step::Patch(known.identities.clone(), delta);
        }
        self.rest(record, self.wake(record, known, now), now)
    }

    /// The entries and what is claimed, with the time at which each one's last user left.
    fn marked(&self, entries: &Entries, now: Timestamp) -> Entries {
        let mark = |(id, unused): (&IdentityId, &Option<Timestamp>)| {
            let unused = (!self.needed.contains(id)).then(|| unused.map_or(now, |at| at.min(now)));
            (id.clone(), unused)
        };
        let new = self.claimed.iter().filter(|id| !entries.contains_key(*id));
        let ours = entries.iter().filter(|(id, _)| !self.others.contains(*id));
        ours.chain(new.map(|id| (id, &None))).map(mark).collect()
    }

    /// Everything that is to change and not being held back.
    pub(super) fn pending(&self, record: &Record, known: &Known, now: Timestamp) -> IdentityDelta {
        let attached = &known.identities.attached;
        let ready = |id: &&IdentityId| self.refused.get(*id).is_none_or(|f| f.until <= now);
        let attach = self.needed.iter().filter(|id| !attached.contains_key(*id)).filter(ready);
        let detach = self.lapsed(record, now).filter(|id| self.detachable(id, known)).filter(ready);
        IdentityDelta { attach: attach.cloned().collect(), detach: detach.cloned().collect() }
    }

    /// What the next request asks for.
    fn delta(&self, record: &Record, known: &Known, now: Timestamp) -> IdentityDelta {
        let mut delta = self.pending(record, known, now);
        if self.one_by_one {
            delta.attach = delta.attach.into_iter().take(1).collect();
            if !delta.attach.is_empty() {
                delta.detach.clear();
            }
            delta.detach = delta.detach.into_iter().take(1).collect();
        }
        delta
    }

    /// The record as it has to be before the request: with what it attaches, and without what is
    /// seen to be gone.
    fn entries_around(
        &self,
        record: &Record,
        known: &Known,
        delta: &IdentityDelta,
        now: Timestamp,
    ) -> Entries {
        let mut entries = record.entries.clone();
        for id in &delta.attach {
            entries.entry(id.clone()).or_insert(None);
        }
        // An operation in flight may be a former leader's, about to attach it.
        if !is_updating(known) {
            for id in self.lapsed(record, now) {
                if !known.identities.attached.contains_key(id) {
                    entries.remove(id);
                }
            }
        }
        entries
    }

    /// Recorded identities whose last user left more than the linger ago.
    pub(super) fn lapsed<'a>(
        &'a self,
        record: &'a Record,
        now: Timestamp,
    ) -> impl Iterator<Item = &'a IdentityId> {
        let linger = self.settings.linger;
        record
            .entries
            .iter()
            .filter(move |(_, unused)| unused.is_some_and(|at| since(now, at) >= linger))
            .map(|(id, _)| id)
            .filter(|id| !self.needed.contains(id))
    }

    pub(super) fn detachable(&self, id: &IdentityId, known: &Known) -> bool {
        let immutable = &self.settings.immutable;
        let details = known.identities.attached.get(id);
        details.is_some_and(|details| !immutable.holds(id, details.client_id.as_ref()))
    }

    fn fresh_until(&self, record: &Record, known: &Known, now: Timestamp) -> Timestamp {
        let Some(at) = known.at else { return Timestamp::MIN };
        let attached = &known.identities.attached;
        let in_flight =
            is_updating(known) && self.lapsed(record, now).any(|id| !attached.contains_key(id));
        let new = |id: &IdentityId| !attached.contains_key(id) && !record.entries.contains_key(id);
        let lifetime = if in_flight {
            UPDATING
        } else if self.needed.iter().any(new) {
            FIRST_USE
        } else {
            self.settings.recheck
        };
        after(at, lifetime.min(self.settings.recheck))
    }

    /// When time alone makes something to do.
    fn wake(&self, record: &Record, known: &Known, now: Timestamp) -> Timestamp {
        let linger = self.settings.linger;
        let lapses = record.entries.values().flatten().map(|at| after(*at, linger));
        let retries = self.refused.values().map(|failure| failure.until);
        let first = lapses.chain(retries).filter(|at| *at > now).min();
        let stale = self.fresh_until(record, known, now);
        first.map_or(stale, |first| first.min(stale))
    }
}

pub(super) fn is_updating(known: &Known) -> bool {
    let state = known.identities.provisioning_state.as_deref();
    state.is_some_and(|state| state.eq_ignore_ascii_case("updating"))
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
