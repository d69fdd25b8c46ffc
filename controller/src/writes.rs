//! Executes writes to the API server: many at once, one an object, none without the lease.
//!
//! Decides nothing: what cannot be written now comes back as an outcome, and the next plan sees.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use api::crd::{AzureIdentityBindingStatus, AzureIdentityStatus};
use api::{AssignedState, AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding};
use jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::clock::{after, since};
use crate::lease::Leadership;
use crate::metrics::ControllerMetrics;
use crate::plan::Change;
use crate::snapshot::ObjectKey;

const TIMEOUT: Duration = Duration::from_secs(10);
const IN_FLIGHT: usize = 32;
/// A failure that is this long past counts no more.
const FORGIVEN: Duration = Duration::from_secs(300);
const FAILED: Backoff = Backoff::new(Duration::from_millis(500), 2, Duration::from_secs(60));

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write {
    /// To an `AzureAssignedIdentity`.
    Assigned(Change),
    /// To the status of an `AzureIdentity`.
    Identity(ObjectKey, AzureIdentityStatus),
    /// To the status of an `AzureIdentityBinding`.
    Binding(ObjectKey, AzureIdentityBindingStatus),
}

/// The object that a write is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Assigned(ObjectKey),
    Identity(ObjectKey),
    Binding(ObjectKey),
}

/// What came of a write.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) write: Write,
    pub(crate) result: Result<Written, WriteError>,
}

/// What a write left behind.
#[derive(Debug)]
pub(crate) enum Written {
    /// The object as it is stored now.
    Assigned(Box<AzureAssignedIdentity>),
    /// No object.
    Deleted,
    /// A status.
    Status,
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The object is not what the plan was made for; the cache will show it.
    #[error("the object has changed")]
    Stale,
    /// This replica does not lead any more.
    #[error("not leading any more")]
    NotLeading,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The API server refused.
    #[error("{0}")]
    Refused(String),
}

/// A write panicked.
#[derive(Debug, thiserror::Error)]
#[error("a write panicked")]
pub(crate) struct WritePanicked;

/// The writes in flight and those that wait. Dropping it cancels them.
pub(crate) struct Writes {
    client: Client,
    leadership: Leadership,
    metrics: ControllerMetrics,
    queue: VecDeque<Write>,
    in_flight: JoinSet<Finished>,
    busy: HashSet<Target>,
    failed: HashMap<Target, (u32, Timestamp)>,
}

// === impl Finished ===

impl Finished {
    /// The object, if the write made an identity usable that was not before.
    pub(crate) fn newly_assigned(&self) -> Option<&AzureAssignedIdentity> {
        let (Write::Assigned(change), Ok(Written::Assigned(object))) = (&self.write, &self.result)
        else {
            return None;
        };
        let usable = |state| state == AssignedState::Assigned;
        (usable(object.state()) && !change.was().is_some_and(usable)).then_some(&**object)
    }
}

// === impl Write ===

impl Write {
    /// The object that it is about.
    pub(crate) fn target(&self) -> Target {
        match self {
            Self::Assigned(change) => Target::Assigned(change.key()),
            Self::Identity(key, _) => Target::Identity(key.clone()),
            Self::Binding(key, _) => Target::Binding(key.clone()),
        }
    }

    /// A name from a closed set, for metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::Assigned(Change::Create(_)) => "assigned_create",
            Self::Assigned(Change::Replace { .. }) => "assigned_replace",
            Self::Assigned(Change::Move { .. }) => "assigned_move",
            Self::Assigned(Change::Delete { .. }) => "assigned_delete",
            Self::Identity(..) => "identity_status",
            Self::Binding(..) => "binding_status",
        }
    }
}

// === impl WriteError ===

impl WriteError {
    fn name(&self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::NotLeading => "not_leading",
            Self::TimedOut(_) => "timed_out",
            Self::Refused(_) => "refused",
        }
    }
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status)
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                Self::Stale
            }
            other => Self::Refused(other.to_string()),
        }
    }
}

// === impl Writes ===

impl Writes {
    /// No writes yet.
    pub(crate) fn new(client: Client, leadership: Leadership, metrics: ControllerMetrics) -> Self {
        Self {
            client,
            leadership,
            metrics,
            queue: VecDeque::new(),
            in_flight: JoinSet::new(),
            busy: HashSet::new(),
            failed: HashMap::new(),
        }
    }

    /// Puts a new plan in place of what was still waiting. Objects that are being written, or
    /// whose last write failed a moment ago, are left to a later plan.
    pub(crate) fn submit(&mut self, writes: impl IntoIterator<Item = Write>, now: Timestamp) {
        self.failed.retain(|_, (_, until)| since(now, *until) < FORGIVEN);
        let free = |write: &Write| {
            let target = write.target();
            let held = self.failed.get(&target).is_some_and(|(_, until)| now < *until);
            !held && !self.busy.contains(&target)
        };
        self.queue = writes.into_iter().filter(free).collect();
        self.fill();
    }

    /// Whether nothing is waiting; writes may still be in flight.
    pub(crate) fn is_drained(&self) -> bool {
        self.queue.is_empty()
    }

    /// When a write that failed may be tried again.
    pub(crate) fn retry_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.failed.values().map(|(_, until)| *until).filter(|until| *until > now).min()
    }

    /// The next outcome; never, while nothing is in flight.
    pub(crate) async fn finished(
        &mut self,
        now: impl Fn() -> Timestamp,
    ) -> Result<Finished, WritePanicked> {
        let Some(joined) = self.in_flight.join_next().await else {
            return std::future::pending().await;
        };
        let finished = joined.map_err(|_| WritePanicked)?;
        let target = finished.write.target();
        self.busy.remove(&target);
        match &finished.result {
            Ok(_) => drop(self.failed.remove(&target)),
            Err(_) => {
                let count = self.failed.get(&target).map_or(0, |(count, _)| *count) + 1;
                self.failed.insert(target, (count, after(now(), FAILED.delay(count))));
            }
        }
        let outcome = finished.result.as_ref().map_or_else(WriteError::name, |_| "ok");
        self.metrics.wrote(finished.write.name(), outcome);
        self.fill();
        Ok(finished)
    }

    fn fill(&mut self) {
        while self.in_flight.len() < IN_FLIGHT
            && let Some(write) = self.queue.pop_front()
        {
            self.busy.insert(write.target());
            let (client, leadership) = (self.client.clone(), self.leadership.clone());
            self.in_flight.spawn(async move {
                let result = execute(&client, &leadership, &write).await;
                Finished { write, result }
            });
        }
        self.metrics.pending_writes(self.queue.len() + self.in_flight.len());
    }
}

async fn execute(
    client: &Client,
    leadership: &Leadership,
    write: &Write,
) -> Result<Written, WriteError> {
    // Checked here and not when the plan was made: minutes may lie between the two.
    let remaining = leadership.remaining().ok_or(WriteError::NotLeading)?;
    let patience = TIMEOUT.min(remaining);
    let call = async {
        match write {
            Write::Assigned(change) => change_assigned(client, change).await,
            Write::Identity(key, status) => {
                let api: Api<AzureIdentity> = Api::namespaced(client.clone(), &key.namespace);
                patch_status(&api, key, serde_json::json!({"status": status})).await
            }
            Write::Binding(key, status) => {
                let api: Api<AzureIdentityBinding> =
                    Api::namespaced(client.clone(), &key.namespace);
                patch_status(&api, key, serde_json::json!({"status": status})).await
            }
        }
    };
    match tokio::time::timeout(patience, call).await {
        Ok(result) => result,
        Err(_) => Err(WriteError::TimedOut(patience)),
    }
}

async fn change_assigned(client: &Client, change: &Change) -> Result<Written, WriteError> {
    let key = change.key();
    let api: Api<AzureAssignedIdentity> = Api::namespaced(client.clone(), &key.namespace);
    let stored = match change {
        Change::Create(object) => api.create(&PostParams::default(), object).await?,
        Change::Replace { object, .. } => {
            api.replace(&key.name, &PostParams::default(), object).await?
        }
        Change::Move { version, status, .. } => {
            // Every field: what is absent now has to go from the stored object.
            let patch = serde_json::json!({
                "metadata": {"resourceVersion": version},
                "status": {
                    "status": status.status,
                    "message": status.message,
                    "clientID": status.client_id,
                    "objectID": status.object_id,
                },
            });
            api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?
        }
        Change::Delete { uid, .. } => {
            let precondition = Preconditions { uid: uid.clone(), resource_version: None };
            let params = DeleteParams::default().preconditions(precondition);
            return match api.delete(&key.name, &params).await {
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Written::Deleted),
                // Another object took its name: the one that was meant is gone.
                Err(kube::Error::Api(status)) if status.is_conflict() => Ok(Written::Deleted),
                Err(error) => Err(error.into()),
                Ok(_) => Ok(Written::Deleted),
            };
        }
    };
    Ok(Written::Assigned(Box::new(stored)))
}

async fn patch_status<K>(
    api: &Api<K>,
    key: &ObjectKey,
    patch: serde_json::Value,
) -> Result<Written, WriteError>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(Written::Status)
}

#[cfg(test)]
#[path = "writes_tests.rs"]
mod tests;
