//! Executes writes to the API server: many at once, one an object, none without the lease.
//!
//! Decides nothing: what cannot be written now comes back as an outcome, and the next plan sees.

use std::sync::Arc;
use std::time::Duration;

use api::crd::{AzureIdentityBindingStatus, AzureIdentityStatus};
use api::{AssignedState, AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, Request};
use kube::{Api, Client};
use tokio::task::{JoinError, JoinSet};

use crate::fault::fault_point;
use crate::lease::Leadership;
use crate::metrics::ControllerMetrics;
use crate::plan::Change;
use crate::snapshot::ObjectKey;
use crate::turns::Target;
use crate::watch::{Cached, Slim};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Enough to keep an API server busy, few enough not to queue there; each costs a connection.
const IN_FLIGHT: usize = 24;

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
    Assigned(Arc<AzureAssignedIdentity>),
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

/// The writes in flight. Dropping it cancels them.
pub(crate) struct Writes {
    client: Client,
    leadership: Leadership,
    metrics: ControllerMetrics,
    in_flight: JoinSet<Finished>,
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
        Self { client, leadership, metrics, in_flight: JoinSet::new() }
    }

    /// Whether another write may start.
    pub(crate) fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT
    }

    /// Starts a write.
    pub(crate) fn start(&mut self, write: Write) {
        let (client, leadership) = (self.client.clone(), self.leadership.clone());
        self.in_flight.spawn(async move {
            let result = execute(&client, &leadership, &write).await;
            Finished { write, result }
        });
    }

    /// The next outcome; never, while nothing is in flight.
    pub(crate) async fn finished(&mut self) -> Result<Finished, WritePanicked> {
        let Some(joined) = self.in_flight.join_next().await else {
            return std::future::pending().await;
        };
        self.count(joined)
    }

    /// An outcome that need not be waited for.
    pub(crate) fn finished_already(&mut self) -> Result<Option<Finished>, WritePanicked> {
        self.in_flight.try_join_next().map(|joined| self.count(joined)).transpose()
    }

    fn count(&self, joined: Result<Finished, JoinError>) -> Result<Finished, WritePanicked> {
        let finished = joined.map_err(|_| WritePanicked)?;
        let outcome = finished.result.as_ref().map_or_else(WriteError::name, |_| "ok");
        self.metrics.wrote(finished.write.name(), outcome);
        Ok(finished)
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
    fault_point!(write.name(), "before");
    let call = async {
        match write {
            Write::Assigned(change) => change_assigned(client, change).await,
            Write::Identity(key, status) => {
                let api: Api<Slim<AzureIdentity>> = Api::namespaced(client.clone(), &key.namespace);
                patch_status(&api, key, serde_json::json!({"status": status})).await
            }
            Write::Binding(key, status) => {
                let api: Api<Slim<AzureIdentityBinding>> =
                    Api::namespaced(client.clone(), &key.namespace);
                patch_status(&api, key, serde_json::json!({"status": status})).await
            }
        }
    };
    let outcome = tokio::time::timeout(patience, leadership.fenced(call)).await;
    fault_point!(write.name(), "after");
    match outcome {
        Ok(outcome) => outcome.unwrap_or(Err(WriteError::NotLeading)),
        Err(_) => Err(WriteError::TimedOut(patience)),
    }
}

async fn change_assigned(client: &Client, change: &Change) -> Result<Written, WriteError> {
    let key = change.key();
    let api: Api<Slim<AzureAssignedIdentity>> = Api::namespaced(client.clone(), &key.namespace);
    let requests = Request::new(api.resource_url());
    let params = PostParams::default();
    let Slim(mut stored) = match change {
        Change::Create(object) => {
            let request = requests.create(&params, json(object)?);
            client.request(request.map_err(kube::Error::BuildRequest)?).await?
        }
        Change::Replace { object, .. } => {
            let request = requests.replace(&key.name, &params, json(object)?);
            client.request(request.map_err(kube::Error::BuildRequest)?).await?
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
                    "host": status.host,
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
    stored.trim();
    Ok(Written::Assigned(Arc::new(stored)))
}

fn json(object: &AzureAssignedIdentity) -> Result<Vec<u8>, kube::Error> {
    serde_json::to_vec(object).map_err(kube::Error::SerdeError)
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
