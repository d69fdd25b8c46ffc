//! What the record says of how the host stands, and when it is said. For people, and nothing waits
//! for it; a new leader heeds only until when ARM throttles the host.

use std::sync::Arc;
use std::time::Duration;

use api::IdentityId;
use api::crd::{AzureIdentityAttachmentStatus, FailingIdentity, HostState};
use jiff::Timestamp;

use super::failure::{Failure, TELLING};
use super::model::{HostModel, Step, is_updating};
use super::record::{Record, RecordError};
use super::view::{HostView, Trouble};
use crate::clock::after;

/// How long ARM was not called when the host counts as at rest: a burst is told of once.
const SETTLED: Duration = Duration::from_secs(1);
/// Characters of a text: more than ARM's errors have, less than what may be stored.
const LONGEST: usize = 1000;

/// What is said of a host.
pub(crate) type Status = AzureIdentityAttachmentStatus;

impl HostModel {
    /// Says how the host stands, unless that is known, or waits until something is to be done.
    pub(super) fn rest(&self, record: &Record, until: Timestamp, now: Timestamp) -> Step {
        let Some((version, status)) = self.unsaid(record, now) else { return Step::Wait(until) };
        let held = self.telling.as_ref().map_or(Timestamp::MIN, |failure| failure.until);
        let due = after(self.called, SETTLED).max(held);
        if now < due {
            Step::Wait(until.min(due))
        } else if self.in_doubt {
            Step::Load
        } else {
            Step::Tell(Arc::new(status), version)
        }
    }

    /// What to say while ARM takes its time with a change, and in place of which version.
    pub(crate) fn say_meanwhile(&self, now: Timestamp) -> Option<(Status, String)> {
        let (version, status) = self.unsaid(self.record.as_ref()?, now)?;
        (!self.in_doubt && self.telling.is_none()).then_some((status, version))
    }

    /// The record says so now.
    pub(crate) fn on_told(&mut self, status: Status, version: String) {
        self.telling = None;
        if let Some(record) = &mut self.record {
            // Not what came back: were that something else, there would be no end of it.
            *record = Record { version: Some(version), status: Some(status), ..record.clone() };
        }
    }

    /// The record perhaps does not say so: it is read again before it is next written.
    pub(crate) fn on_tell_error(&mut self, error: &RecordError, now: Timestamp) {
        self.in_doubt = true;
        let trouble = Trouble {
            code: "status",
            message: error.to_string(),
            remedy: None,
            next_attempt: None,
        };
        self.telling = Some(Failure::again(self.telling.take(), TELLING, now, trouble));
    }

    /// What the record does not say, and its version; without a record there is nowhere to say it.
    fn unsaid(&self, record: &Record, now: Timestamp) -> Option<(String, Status)> {
        let version = record.version.clone()?;
        let said = record.status.as_ref();
        let status = self.status(record, now);
        let news = said.is_none_or(|said| !same(said, &status));
        let since = said.filter(|said| said.state == status.state);
        let since = since.and_then(|said| said.last_transition_time.clone());
        let now = text(now);
        let last_transition_time = since.or_else(|| Some(now.clone()));
        let observed_at = Some(now);
        news.then_some((version, Status { last_transition_time, observed_at, ..status }))
    }

    /// How the host stands, without its name and when that was found.
    fn status(&self, record: &Record, now: Timestamp) -> Status {
        let HostView { refused, trouble, .. } = self.view();
        // What is neither to be attached nor there to be detached is not tried again.
        let refused = refused.into_iter().filter(|(id, _)| self.concerns(id));
        let failing: Vec<FailingIdentity> =
            refused.map(|(id, trouble)| failing(&id, trouble)).collect();
        let unfinished = self.is_unfinished(record, now);
        let trouble = trouble.filter(|_| self.reading.is_some() || unfinished);
        let state = match &trouble {
            Some(_) if self.gone => HostState::HostNotFound,
            Some(_) => HostState::Failing,
            None if !failing.is_empty() => HostState::Failing,
            None if unfinished => HostState::Updating,
            None => HostState::Ready,
        };
        let of_identities = failing.iter().filter_map(|failing| failing.next_attempt.clone()).min();
        let next_attempt = trouble.as_ref().and_then(|trouble| trouble.next_attempt.map(text));
        let count = record.entries.len();
        let message = match failing.len() {
            0 => None,
            number => Some(format!("{number} of {count} identities: see failing")),
        };
        Status {
            state: state.as_str().to_owned(),
            host: None,
            identity_count: i32::try_from(count).ok(),
            reason: match &trouble {
                Some(trouble) => Some(word(trouble.code)),
                None => failing.first().map(|failing| failing.reason.clone()),
            },
            message: trouble.map(words).or(message),
            next_attempt: next_attempt.or(of_identities),
            failing,
            last_transition_time: None,
            observed_at: None,
        }
    }

    fn concerns(&self, id: &IdentityId) -> bool {
        let known = self.known.as_ref();
        self.needed.contains(id)
            || known.is_none_or(|known| known.identities.attached.contains_key(id))
    }

    /// Whether something is still to be changed, now or after a pause.
    fn is_unfinished(&self, record: &Record, now: Timestamp) -> bool {
        let Some(known) = &self.known else { return true };
        let is_there = |id: &IdentityId| known.identities.attached.contains_key(id);
        let left = |id: &IdentityId| match is_there(id) {
            true => self.detachable(id, known),
            false => is_updating(known),
        };
        !self.needed.iter().all(is_there) || self.lapsed(record, now).any(left)
    }
}

/// Whether they say the same; when they did is no news, nor is the host's name.
fn same(said: &Status, now: &Status) -> bool {
    let bare = |status: &Status| Status {
        host: None,
        last_transition_time: None,
        observed_at: None,
        ..status.clone()
    };
    bare(said) == bare(now)
}

fn failing(id: &IdentityId, trouble: Trouble) -> FailingIdentity {
    FailingIdentity {
        resource_id: id.as_str().to_owned(),
        reason: word(trouble.code),
        next_attempt: trouble.next_attempt.map(text),
        message: words(trouble),
    }
}

/// What to do and what happened; the next attempt has a field of its own.
fn words(trouble: Trouble) -> String {
    let text = Trouble { next_attempt: None, ..trouble }.to_string();
    format!("{text:.LONGEST$}")
}

/// A code as Kubernetes writes reasons: `TimedOut`.
fn word(code: &str) -> String {
    let capital = |part: &str| {
        let mut letters = part.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    code.split('_').map(capital).collect()
}

/// To the second.
fn text(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

#[cfg(test)]
#[path = "telling_tests.rs"]
mod tests;
