//! The journal: what was asked and what was answered, bounded, without any credential.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::arm_id::ArmId;
use crate::clock::now_ms;

/// The doors of the fake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// The instance metadata service.
    Imds,
    /// The token endpoint.
    Entra,
    /// The resource manager.
    Arm,
    /// The key vaults.
    Vault,
    /// The control API. Its requests are not recorded.
    Control,
}

/// One request and its answer. Fields that do not apply are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Counts up from 1, never reused in one run.
    pub seq: u64,
    /// When the answer was complete, ms since the epoch.
    pub time_ms: u64,
    /// How long the answer took.
    pub duration_ms: u64,
    /// `imds`, `entra`, `arm`, `vault`, or `operation` for the end of an asynchronous ARM write.
    pub service: String,
    /// The HTTP method.
    pub method: String,
    /// The path as it was sent.
    pub path: String,
    /// The query as it was sent; not recorded for Entra.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The caller's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The HTTP status; 499 if the caller went away before the answer.
    pub status: u16,
    /// The error code of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The host that was asked for, or that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<ArmId>,
    /// The instance of the host that asked IMDS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Whose token was given, or which identity was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<ArmId>,
    /// The application id that asked Entra, ARM or a vault, or whose token IMDS gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The audience of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// `client_secret`, `certificate` or `federated`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The subject of a federated assertion, also of one that was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Whether a federated assertion's signature could be checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature_checked: Option<bool>,
    /// The identity type that an ARM write asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_type: Option<String>,
    /// Identities that the ARM write attaches and that were not attached before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<ArmId>,
    /// Identities that the ARM write detaches and that were attached before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detached: Vec<ArmId>,
    /// The asynchronous operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// `x-ms-client-request-id` or `client-request-id` of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// `x-ms-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// An excerpt of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page {
    /// The entries, oldest first.
    #[serde(with = "shared")]
    pub entries: Vec<Arc<Entry>>,
    /// Ask with `since` of this value for what comes after.
    pub next: u64,
    /// How many entries were pushed out by newer ones since the last clearing.
    pub dropped: u64,
    /// Answers by service and status since the last clearing, also of dropped entries.
    pub totals: BTreeMap<String, BTreeMap<u16, u64>>,
}

/// A bounded journal.
pub(crate) struct Journal {
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: VecDeque<Arc<Entry>>,
    last: u64,
    dropped: u64,
    totals: BTreeMap<String, BTreeMap<u16, u64>>,
}

/// One request under way; recorded when finished, and also when its caller goes away.
pub(crate) struct Recording {
    journal: Arc<Journal>,
    started: Instant,
    pub(crate) entry: Entry,
}

/// What nginx answers, as it were, to a client that has closed the connection.
const CLIENT_CLOSED_REQUEST: u16 = 499;

mod shared {
    //! The entries of a page are those of the journal itself: only counted, not copied.

    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::Entry;

    pub(super) fn serialize<S: Serializer>(
        entries: &[Arc<Entry>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(entries.iter().map(Arc::as_ref))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<Entry>>, D::Error> {
        let entries = Vec::<Entry>::deserialize(deserializer)?;
        Ok(entries.into_iter().map(Arc::new).collect())
    }
}

impl Service {
    /// The service's name in the journal.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::Entra => "entra",
            Self::Arm => "arm",
            Self::Vault => "vault",
            Self::Control => "control",
        }
    }
}

impl Journal {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::default() }
    }

    pub(crate) fn begin(self: &Arc<Self>, service: Service, source: IpAddr) -> Recording {
        let entry = Entry {
            service: service.as_str().to_owned(),
            source: Some(source),
            status: CLIENT_CLOSED_REQUEST,
            ..Entry::default()
        };
        Recording { journal: Arc::clone(self), started: Instant::now(), entry }
    }

    pub(crate) fn record(&self, mut entry: Entry) {
        entry.time_ms = now_ms();
        let mut inner = self.inner.lock();
        inner.last += 1;
        entry.seq = inner.last;
        match inner.totals.get_mut(&entry.service) {
            Some(by_status) => *by_status.entry(entry.status).or_default() += 1,
            None => {
                let by_status = BTreeMap::from([(entry.status, 1)]);
                inner.totals.insert(entry.service.clone(), by_status);
            }
        }
        if inner.entries.len() >= self.capacity {
            inner.entries.pop_front();
            inner.dropped += 1;
        }
        inner.entries.push_back(Arc::new(entry));
    }

    /// The entries after `since`, at most `limit`; of one service if one is named.
    pub(crate) fn page(&self, since: u64, limit: usize, service: Option<&str>) -> Page {
        let inner = self.inner.lock();
        let first = inner.entries.partition_point(|entry| entry.seq <= since);
        let entries: Vec<_> = inner
            .entries
            .range(first..)
            .filter(|entry| service.is_none_or(|service| entry.service == service))
            .take(limit)
            .cloned()
            .collect();
        let next = match entries.last() {
            Some(last) if entries.len() == limit => last.seq,
            _ => inner.last.max(since),
        };
        Page { entries, next, dropped: inner.dropped, totals: inner.totals.clone() }
    }

    /// Forgets everything but the numbering, so that a reader's `since` stays valid.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        *inner = Inner { last: inner.last, ..Inner::default() };
    }
}

impl Recording {
    pub(crate) fn finish(mut self, status: u16) {
        self.entry.status = status;
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let mut entry = std::mem::take(&mut self.entry);
        entry.duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.journal.record(entry);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use super::{Entry, Journal, Service};

    fn entry(service: &str, status: u16) -> Entry {
        Entry { service: service.to_owned(), status, ..Entry::default() }
    }

    #[test]
    fn the_oldest_entries_give_way_and_the_totals_stay() {
        let journal = Journal::new(2);
        for _ in 0..3 {
            journal.record(entry("imds", 200));
        }
        let page = journal.page(0, 10, None);
        assert_eq!(page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2, 3]);
        assert_eq!((page.dropped, page.totals["imds"][&200]), (1, 3));
    }

    #[test]
    fn a_reader_sees_every_entry_once() {
        let journal = Journal::new(100);
        for index in 0..5 {
            journal.record(entry(if index % 2 == 0 { "arm" } else { "imds" }, 200));
        }
        let first = journal.page(0, 2, Some("arm"));
        assert_eq!(first.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 3]);
        let second = journal.page(first.next, 2, Some("arm"));
        assert_eq!(second.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [5]);
        assert!(journal.page(second.next, 2, None).entries.is_empty());
    }

    #[test]
    fn clearing_keeps_the_numbering() {
        let journal = Journal::new(100);
        journal.record(entry("arm", 200));
        journal.clear();
        journal.record(entry("arm", 404));
        let page = journal.page(0, 10, None);
        assert_eq!(page.entries[0].seq, 2);
        assert!(!page.totals["arm"].contains_key(&200));
    }

    #[test]
    fn a_request_whose_caller_went_away_is_recorded() {
        let journal = Arc::new(Journal::new(10));
        drop(journal.begin(Service::Imds, IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert_eq!(journal.page(0, 10, None).entries[0].status, 499);
    }
}
