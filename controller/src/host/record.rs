//! The record of what is ours on a host: read and written before ARM is asked for anything.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use api::crd::{
    AttachedIdentity, AzureIdentityAttachment, AzureIdentityAttachmentSpec, attachment_name,
};
use api::{Host, IdentityId};
use jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};

use super::telling::Status;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Of what is only said: something to do may have come up.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);

/// The identities that are ours, each with the time when its last user left.
pub(crate) type Entries = BTreeMap<IdentityId, Option<Timestamp>>;

/// What is stored of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The identities.
    pub(crate) entries: Entries,
    /// Resource version of the stored object; `None` if there is none.
    pub(crate) version: Option<String>,
    /// What it says of the host.
    pub(crate) status: Option<Status>,
}

/// Why a record could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    /// Somebody else wrote it: it has to be read again.
    #[error("the record has changed")]
    Conflict,
    /// The API server did not do it.
    #[error("cannot store the record: {0}")]
    Unavailable(String),
}

// === impl RecordError ===

impl RecordError {
    /// A name from a closed set, for metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Conflict => "stale",
            Self::Unavailable(_) => "refused",
        }
    }

    /// What to do about it.
    pub(super) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Conflict => None,
            Self::Unavailable(_) => Some(
                "see that the controller may write AzureIdentityAttachments in its namespace, and that the CRDs are those of its chart",
            ),
        }
    }
}

/// Where records are kept.
pub(crate) trait Records: Send + Sync + 'static {
    /// Reads the record of a host.
    fn load(&self, host: &Host) -> impl Future<Output = Result<Record, RecordError>> + Send;

    /// Stores entries in place of those of `version`; removes the object if there are none.
    fn save(
        &self,
        host: &Host,
        entries: &Entries,
        version: Option<&str>,
    ) -> impl Future<Output = Result<Record, RecordError>> + Send;

    /// Says in the record how the host stands, in place of what `version` says. Returns the
    /// version after it.
    fn tell(
        &self,
        host: &Host,
        status: &Status,
        version: &str,
    ) -> impl Future<Output = Result<String, RecordError>> + Send;
}

/// Records as `AzureIdentityAttachment` objects.
#[derive(Clone)]
pub(crate) struct ApiRecords(Api<AzureIdentityAttachment>);

// === impl ApiRecords ===

impl ApiRecords {
    /// Keeps records in `namespace`.
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self(Api::namespaced(client, namespace))
    }

    async fn write(
        &self,
        host: &Host,
        entries: &Entries,
        version: Option<&str>,
    ) -> Result<Record, kube::Error> {
        let name = attachment_name(host);
        let spec = spec(host, entries);
        let stored = match version {
            None if entries.is_empty() => return Ok(Record::default()),
            None => {
                let object = AzureIdentityAttachment::new(&name, spec);
                self.0.create(&PostParams::default(), &object).await?
            }
            Some(version) if entries.is_empty() => {
                let precondition =
                    Preconditions { resource_version: Some(version.to_owned()), uid: None };
                let params = DeleteParams::default().preconditions(precondition);
                match self.0.delete(&name, &params).await {
                    Err(kube::Error::Api(status)) if status.is_not_found() => {}
                    result => drop(result?),
                }
                return Ok(Record::default());
            }
            Some(version) => {
                // The version makes a write of a deposed leader fail instead of undoing ours.
                let patch = serde_json::json!({
                    "metadata": {"resourceVersion": version},
                    "spec": spec,
                });
                self.0.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?
            }
        };
        let (version, status) = (stored.resource_version(), stored.status);
        Ok(Record { entries: entries.clone(), version, status })
    }
}

impl Records for ApiRecords {
    async fn load(&self, host: &Host) -> Result<Record, RecordError> {
        let name = attachment_name(host);
        let stored = within(self.0.get_opt(&name)).await?;
        Ok(stored.map_or_else(Record::default, |object| read(&object)))
    }

    async fn save(
        &self,
        host: &Host,
        entries: &Entries,
        version: Option<&str>,
    ) -> Result<Record, RecordError> {
        within(self.write(host, entries, version)).await
    }

    async fn tell(
        &self,
        host: &Host,
        status: &Status,
        version: &str,
    ) -> Result<String, RecordError> {
        let status = Status { host: Some(host.short()), ..status.clone() };
        // What there is nothing of is null, which removes what was said of it before.
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": version},
            "status": status,
        });
        let (name, params) = (attachment_name(host), PatchParams::default());
        let patch = Patch::Merge(patch);
        let call = self.0.patch_status(&name, &params, &patch);
        match tokio::time::timeout(TELL_TIMEOUT, call).await {
            Ok(Ok(stored)) => Ok(stored.resource_version().unwrap_or_else(|| version.to_owned())),
            Ok(Err(error)) => Err(RecordError::Unavailable(error.to_string())),
            Err(elapsed) => Err(RecordError::Unavailable(elapsed.to_string())),
        }
    }
}

async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, RecordError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        // A record that went away or appeared is a change like any other.
        Ok(Err(kube::Error::Api(status)))
            if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
        {
            Err(RecordError::Conflict)
        }
        Ok(Err(error)) => Err(RecordError::Unavailable(error.to_string())),
        // It may have been stored: the version has to be read again.
        Err(_) => Err(RecordError::Conflict),
    }
}

fn spec(host: &Host, entries: &Entries) -> AzureIdentityAttachmentSpec {
    let identities = entries
        .iter()
        .map(|(id, unused_since)| AttachedIdentity {
            resource_id: id.as_str().to_owned(),
            unused_since: unused_since.map(|time| time.to_string()),
        })
        .collect();
    AzureIdentityAttachmentSpec { host: host.to_string(), identities }
}

fn read(object: &AzureIdentityAttachment) -> Record {
    let mut entries = Entries::new();
    for entry in &object.spec.identities {
        match entry.resource_id.parse() {
            Ok(id) => {
                // A time that cannot be read restarts the linger: later is the safe side.
                let unused = entry.unused_since.as_deref().and_then(|time| time.parse().ok());
                entries.insert(id, unused);
            }
            Err(error) => {
                tracing::warn!(record = object.name_any(), %error, "Ignored a recorded identity");
            }
        }
    }
    Record { entries, version: object.resource_version(), status: object.status.clone() }
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use tower_test::mock;

    use super::*;
    use crate::testing::{host, id};

    type Handle = mock::Handle<Request<Body>, Response<Body>>;

    fn records() -> (ApiRecords, Handle) {
        let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
        (ApiRecords::new(Client::new(service, "default"), "system"), handle)
    }

    /// Answers the next request and returns its method, path and body.
    async fn answer(
        handle: &mut Handle,
        code: u16,
        body: serde_json::Value,
    ) -> (Method, String, serde_json::Value) {
        let (request, send) = handle.next_request().await.expect("a request");
        let (parts, sent) = request.into_parts();
        let sent = sent.collect().await.unwrap().to_bytes();
        let sent = serde_json::from_slice(&sent).unwrap_or_default();
        let response = Response::builder().status(code);
        send.send_response(response.body(Body::from(body.to_string().into_bytes())).unwrap());
        (parts.method, parts.uri.path().to_owned(), sent)
    }

    fn stored(version: &str) -> serde_json::Value {
        serde_json::json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentityAttachment",
            "metadata": {"name": attachment_name(&host("a")), "namespace": "system", "resourceVersion": version},
            "spec": {"host": host("a").to_string(), "identities": [
                {"resourceID": id("db").as_str(), "unusedSince": "2025-01-01T00:00:00Z"},
                {"resourceID": id("queue").as_str(), "unusedSince": "yesterday"},
                {"resourceID": "nonsense"},
            ]},
        })
    }

    fn failure(code: u16, reason: &str) -> serde_json::Value {
        serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "reason": reason, "code": code, "message": reason})
    }

    #[tokio::test]
    async fn unreadable_parts_of_a_record_do_not_hide_the_others() {
        let (records, mut handle) = records();
        let load = tokio::spawn(async move { records.load(&host("a")).await });
        answer(&mut handle, 200, stored("7")).await;
        let record = load.await.unwrap().unwrap();
        assert_eq!(record.version.as_deref(), Some("7"));
        let known = "2025-01-01T00:00:00Z".parse().unwrap();
        let expected = Entries::from([(id("db"), Some(known)), (id("queue"), None)]);
        assert_eq!(record.entries, expected);
    }

    #[tokio::test]
    async fn a_record_is_created_patched_at_its_version_and_removed_when_empty() {
        let (records, mut handle) = records();
        let entries = Entries::from([(id("db"), None)]);
        let cases = [
            (None, entries.clone(), Method::POST),
            (Some("7"), entries, Method::PATCH),
            (Some("7"), Entries::new(), Method::DELETE),
        ];
        for (version, entries, expected) in cases {
            let (records, given) = (records.clone(), entries.clone());
            let save = tokio::spawn(async move { records.save(&host("a"), &given, version).await });
            let (method, _, body) = answer(&mut handle, 200, stored("8")).await;
            assert_eq!(method, expected);
            let at = match method {
                Method::PATCH => body.pointer("/metadata/resourceVersion"),
                Method::DELETE => body.pointer("/preconditions/resourceVersion"),
                _ => None,
            };
            assert_eq!(at.and_then(|at| at.as_str()), version, "{body}");
            let saved = save.await.unwrap().unwrap();
            assert_eq!(saved.version.as_deref(), (!entries.is_empty()).then_some("8"));
        }
    }

    #[tokio::test]
    async fn a_status_is_written_at_its_version_and_replaces_all_that_was_said() {
        let (records, mut handle) = records();
        let status = Status { state: "Ready".to_owned(), ..Status::default() };
        let tell = tokio::spawn(async move { records.tell(&host("a"), &status, "7").await });
        let (method, path, body) = answer(&mut handle, 200, stored("8")).await;
        assert_eq!(method, Method::PATCH);
        assert!(path.ends_with("/status"), "{path}");
        let expected = serde_json::json!({
            "metadata": {"resourceVersion": "7"},
            "status": {
                "state": "Ready", "host": "vmss/a", "failing": [], "identityCount": null,
                "reason": null, "message": null, "nextAttempt": null,
                "lastTransitionTime": null, "observedAt": null,
            },
        });
        assert_eq!(body, expected);
        assert_eq!(tell.await.unwrap().as_deref(), Ok("8"));
    }

    #[tokio::test]
    async fn a_write_against_a_changed_record_is_a_conflict() {
        for (code, reason) in [(409, "Conflict"), (409, "AlreadyExists"), (404, "NotFound")] {
            let (records, mut handle) = records();
            let entries = Entries::from([(id("db"), None)]);
            let save =
                tokio::spawn(async move { records.save(&host("a"), &entries, Some("7")).await });
            answer(&mut handle, code, failure(code, reason)).await;
            assert_eq!(save.await.unwrap(), Err(RecordError::Conflict), "{reason}");
        }
    }
}
