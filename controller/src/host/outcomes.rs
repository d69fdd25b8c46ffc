//! What the model learns from the outcome of each step.

use std::sync::Arc;
use std::time::Duration;

use api::IdentityId;
use jiff::Timestamp;

use super::failure::{Failure, IDENTITY, RECORDS, hold, host_backoff};
use super::model::{HostModel, Known};
use super::record::{Record, RecordError};
use super::telling::Status;
use super::view::Trouble;
use crate::clock::after;
use crate::compute::{ArmError, HostIdentities, IdentityDelta, Patched};

/// What is stored keeps a host waiting for no longer, whoever wrote it.
const LONGEST_HEEDED: Duration = Duration::from_secs(3600);

impl HostModel {
    /// The record was read.
    pub(crate) fn on_loaded(&mut self, record: Record, now: Timestamp) {
        let first = self.record.is_none() && self.known.is_none() && self.reading.is_none();
        if let Some(said) = record.status.as_ref().filter(|_| first) {
            self.heed(said, now);
        }
        // Writes that failed before are not forgiven: they would be tried without a pause.
        self.record = Some(record);
        self.in_doubt = false;
    }

    /// What ARM told a former leader of when to come back counts for this one, too.
    fn heed(&mut self, said: &Status, now: Timestamp) {
        let reason = said.reason.as_deref();
        let at = said.next_attempt.as_deref().and_then(|at| at.parse::<Timestamp>().ok());
        let at = at.map(|at| at.min(after(now, LONGEST_HEEDED)));
        if let (Some("Throttled"), Some(at)) = (reason, at.filter(|at| *at > now)) {
            let trouble = Trouble {
                code: "throttled",
                message: said.message.clone().unwrap_or_default(),
                remedy: None,
                next_attempt: None,
            };
            self.not_before = at;
            self.reading = Some(Failure::until(at, trouble));
        }
    }

    /// The record was written.
    pub(crate) fn on_saved(&mut self, record: Record) {
        let before = self.record.take().unwrap_or_default();
        let known_before = |id: &&IdentityId| before.entries.contains_key(*id);
        let new = record.entries.keys().filter(|id| !known_before(id));
        self.intended.extend(new.filter(|id| !self.claimed.contains(*id)).cloned());
        self.intended.retain(|id| record.entries.contains_key(id));
        self.others.retain(|id| record.entries.contains_key(id));
        // It says what it said, unless it is another object.
        let status = before.status.filter(|_| before.version.is_some() && record.version.is_some());
        self.record = Some(Record { status, ..record });
        self.recording = None;
    }

    /// The record could not be read or written.
    pub(crate) fn on_record_error(&mut self, error: &RecordError, now: Timestamp) {
        self.record = None;
        self.in_doubt = false;
        let trouble = Trouble {
            code: "record",
            message: error.to_string(),
            remedy: error.remedy().map(str::to_owned),
            next_attempt: None,
        };
        self.recording = Some(Failure::again(self.recording.take(), RECORDS, now, trouble));
    }

    /// ARM said what is attached.
    pub(crate) fn on_identities(&mut self, identities: HostIdentities, now: Timestamp) {
        self.called = now;
        self.gone = false;
        self.reading = None;
        self.refused
            .retain(|id, _| self.needed.contains(id) != identities.attached.contains_key(id));
        if self.needed.iter().all(|id| identities.attached.contains_key(id)) {
            self.writing = None;
        }
        // Recorded for a change that was certainly not made yet: somebody else attached it.
        let there = self.intended.iter().filter(|id| identities.attached.contains_key(*id));
        self.others.extend(there.cloned());
        self.intended.retain(|id| !identities.attached.contains_key(id));
        self.known = Some(Known { identities: Arc::new(identities), at: Some(now) });
    }

    /// ARM did not say what is attached.
    pub(crate) fn on_get_error(&mut self, error: &ArmError, now: Timestamp) {
        self.called = now;
        self.gone = matches!(error, ArmError::HostNotFound { .. });
        if self.gone {
            self.known = None;
        }
        let failure = Failure::again(self.reading.take(), host_backoff(error), now, error.into());
        self.not_before = hold(error, failure.until, now);
        self.reading = Some(failure);
    }

    /// ARM throttles the whole subscription, as another of its hosts was told.
    pub(crate) fn on_held(&mut self, until: Timestamp) {
        self.not_before = self.not_before.max(until);
        let trouble = Trouble {
            code: "throttled",
            message: "ARM throttles the subscription".to_owned(),
            remedy: None,
            next_attempt: None,
        };
        self.writing = Some(Failure::until(until, trouble));
    }

    /// ARM took the change and said what is attached after it.
    pub(crate) fn on_patched(&mut self, patched: Patched, delta: &IdentityDelta, now: Timestamp) {
        let Patched { identities, found } = patched;
        // Recorded for this change only, and there before it: somebody else attached it since we
        // last looked, and may rely on it.
        self.others.extend(self.intended.intersection(&found).cloned());
        self.intended.retain(|id| !delta.attach.contains(id));
        let missed = delta.attach.iter().filter(|id| !identities.attached.contains_key(id));
        let kept = delta.detach.iter().filter(|id| identities.attached.contains_key(id));
        let undone: Vec<IdentityId> = missed.chain(kept).cloned().collect();
        self.writing = None;
        self.on_identities(identities, now);
        for id in undone {
            // Without a pause this would be one request after the other for ever.
            let message = "ARM accepted the change but did not make it".to_owned();
            self.refuse(
                id,
                Trouble { code: "not_made", message, remedy: None, next_attempt: None },
                now,
            );
        }
        self.end_one_by_one(now);
    }

    /// ARM did not take the change, or not all of it.
    pub(crate) fn on_patch_error(
        &mut self,
        error: &ArmError,
        delta: &IdentityDelta,
        now: Timestamp,
    ) {
        self.called = now;
        if !error.changed_nothing() {
            // It may have been made after all, and who was first nobody knows any more.
            self.intended.retain(|id| !delta.attach.contains(id));
        }
        let changed: Vec<&IdentityId> = delta.attach.iter().chain(&delta.detach).collect();
        let mut named: Vec<IdentityId> = match error.cause() {
            ArmError::IdentityRefused { identities, .. } => {
                changed.iter().copied().filter(|id| identities.contains(id)).cloned().collect()
            }
            _ => Vec::new(),
        };
        if let (ArmError::Rejected { .. }, [only]) = (error.cause(), changed.as_slice()) {
            named.push((*only).clone());
        }
        // Refusals for lack of access or of anything else to do changed nothing; after every other
        // error the host may look different.
        let unchanged = match error {
            ArmError::Forbidden { .. }
            | ArmError::Authentication { .. }
            | ArmError::Throttled { .. } => true,
            _ => named.len() == changed.len(),
        };
        if let (false, Some(known)) = (unchanged, &mut self.known) {
            known.at = None;
        }
        if !named.is_empty() {
            self.writing = None;
            for id in named {
                self.refuse(id, error.into(), now);
            }
        } else if matches!(error.cause(), ArmError::Rejected { .. }) && !self.one_by_one {
            self.one_by_one = true;
        } else {
            let failure =
                Failure::again(self.writing.take(), host_backoff(error), now, error.into());
            self.not_before = hold(error, failure.until, now);
            self.writing = Some(failure);
        }
        self.end_one_by_one(now);
    }

    fn refuse(&mut self, id: IdentityId, trouble: Trouble, now: Timestamp) {
        let failure = Failure::again(self.refused.remove(&id), IDENTITY, now, trouble);
        self.refused.insert(id, failure);
    }

    fn end_one_by_one(&mut self, now: Timestamp) {
        if let (true, Some(record), Some(known)) = (self.one_by_one, &self.record, &self.known) {
            self.one_by_one = !self.pending(record, known, now).is_empty();
        }
    }
}
