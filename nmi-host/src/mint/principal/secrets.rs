//! Secrets of the identities' own namespaces, read when a token is needed. Not watched: a watch
//! would hold every Secret of the cluster.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::watched::ObjectKey;

/// Reads Secrets, and keeps them for a moment.
pub(crate) struct Secrets {
    client: Client,
    kept: Mutex<HashMap<ObjectKey, Kept>>,
}

/// One state of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretState {
    /// Its resource version.
    pub(crate) version: String,
    /// What it holds.
    pub(crate) data: SecretData,
}

/// What a Secret holds. `Debug` shows the names of the keys only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretData(Arc<BTreeMap<String, ByteString>>);

struct Kept {
    at: Instant,
    state: SecretState,
}

/// Why a Secret cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretError {
    /// It is not there.
    #[error("spec.clientPassword names the Secret {0}, which does not exist")]
    Missing(ObjectKey),
    /// No Secret can have this name.
    #[error("spec.clientPassword.name is not the name of a Secret")]
    BadName,
    /// Not allowed.
    #[error(
        "the node agent may not read the Secret {0}: set the chart value nmiHost.allowAccessToSecrets to true"
    )]
    Forbidden(ObjectKey),
    /// The API server does not say.
    #[error("the Secret {0} cannot be read: the API server does not answer")]
    Unavailable(ObjectKey),
}

/// So soon is a rotation noticed.
const KEEP: Duration = Duration::from_secs(60);

const READ_TIMEOUT: Duration = Duration::from_secs(5);

// === impl Secrets ===

impl Secrets {
    /// A reader for which nothing is known yet.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, kept: Mutex::default() }
    }

    /// The Secret as it was a moment ago, if that is known.
    pub(crate) fn kept(&self, key: &ObjectKey) -> Option<SecretState> {
        let kept = self.kept.lock();
        let kept = kept.get(key).filter(|kept| kept.at.elapsed() < KEEP)?;
        Some(kept.state.clone())
    }

    /// The Secret as it is now.
    pub(crate) async fn read(&self, key: &ObjectKey) -> Result<SecretState, SecretError> {
        // Both become parts of a URL.
        if !is_name(&key.namespace) || !is_name(&key.name) {
            return Err(SecretError::BadName);
        }
        let api = Api::<Secret>::namespaced(self.client.clone(), &key.namespace);
        let answer = timeout(READ_TIMEOUT, api.get(&key.name)).await;
        let mut kept = self.kept.lock();
        kept.retain(|other, kept| other != key && kept.at.elapsed() < KEEP);
        let secret = answer
            .map_err(|_| SecretError::Unavailable(key.clone()))?
            .map_err(|error| SecretError::of(key, &error))?;
        let state = SecretState {
            version: secret.metadata.resource_version.unwrap_or_default(),
            data: SecretData(Arc::new(secret.data.unwrap_or_default())),
        };
        kept.insert(key.clone(), Kept { at: Instant::now(), state: state.clone() });
        Ok(state)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// Whether the API server would accept it as the name of a namespace or Secret.
fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(plain);
    text.len() <= 253 && text.split('.').all(is_part)
}

// === impl SecretError ===

impl SecretError {
    fn of(key: &ObjectKey, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 404 => Self::Missing(key.clone()),
            kube::Error::Api(status) if status.code == 403 => Self::Forbidden(key.clone()),
            error => {
                // The client's words say nothing of what a Secret holds: there was none.
                tracing::warn!(secret = %key, error = %cause(error), "Secret cannot be read");
                Self::Unavailable(key.clone())
            }
        }
    }

    /// Whether it may work in a moment.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// What kind of failure it was. A parser's own words might quote what it could not parse.
fn cause(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("HTTP {}", status.code),
        kube::Error::SerdeError(_) => "the answer is not a Secret".to_owned(),
        other => other.to_string(),
    }
}

// === impl SecretData ===

impl SecretData {
    /// The value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(|value| value.0.as_slice())
    }

    /// The only value, if there is exactly one.
    pub(crate) fn only(&self) -> Option<&[u8]> {
        let mut values = self.0.values();
        let only = values.next()?;
        values.next().is_none().then_some(only.0.as_slice())
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    pub(crate) fn data(entries: &[(&str, &[u8])]) -> SecretData {
        let entry = |(key, value): &(&str, &[u8])| ((*key).to_owned(), ByteString(value.to_vec()));
        SecretData(Arc::new(entries.iter().map(entry).collect()))
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower_test::mock::Handle;

    use super::*;

    type ApiServer = Handle<Request<Body>, Response<Body>>;

    fn secrets() -> (Secrets, ApiServer) {
        let (service, handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        (Secrets::new(Client::new(service, "default")), handle)
    }

    fn key() -> ObjectKey {
        ObjectKey::new("team", "s")
    }

    /// A read that the server answers.
    async fn exchange(
        secrets: &Secrets,
        server: &mut ApiServer,
        status: u16,
        body: &Value,
    ) -> Result<SecretState, SecretError> {
        let key = key();
        tokio::join!(secrets.read(&key), answer(server, status, body)).0
    }

    async fn answer(server: &mut ApiServer, status: u16, body: &Value) {
        let (request, send) = server.next_request().await.expect("a read");
        assert_eq!(request.uri().path(), "/api/v1/namespaces/team/secrets/s");
        let body = Body::from(serde_json::to_vec(body).unwrap());
        let status = StatusCode::from_u16(status).unwrap();
        send.send_response(Response::builder().status(status).body(body).unwrap());
    }

    async fn read(status: u16, body: Value) -> Result<SecretState, SecretError> {
        let (secrets, mut server) = secrets();
        exchange(&secrets, &mut server, status, &body).await
    }

    fn failure(code: u16) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "m", "reason": "r"})
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_is_kept_for_a_minute() {
        let (secrets, mut server) = secrets();
        let body = json!({"metadata": {"resourceVersion": "7"}, "data": {"k": "cDRzcw=="}});
        assert_eq!(secrets.kept(&key()), None);
        let state = exchange(&secrets, &mut server, 200, &body).await;
        let state = state.unwrap();
        assert_eq!((state.version.as_str(), state.data.get("k")), ("7", Some(&b"p4ss"[..])));
        tokio::time::advance(KEEP - Duration::from_secs(1)).await;
        assert_eq!(secrets.kept(&key()), Some(state.clone()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(secrets.kept(&key()), None);
        assert!(!format!("{state:?} {secrets:?}").contains("p4ss"), "{state:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_read_forgets_what_was_kept() {
        let (secrets, mut server) = secrets();
        let body = json!({"metadata": {}, "data": {"k": "cDRzcw=="}});
        let state = exchange(&secrets, &mut server, 200, &body).await;
        state.unwrap();
        let gone = failure(404);
        let state = exchange(&secrets, &mut server, 404, &gone).await;
        assert_eq!(state, Err(SecretError::Missing(key())));
        assert_eq!(secrets.kept(&key()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_told_apart() {
        for (status, expected, passes) in [
            (404, SecretError::Missing(key()), false),
            (403, SecretError::Forbidden(key()), false),
            (500, SecretError::Unavailable(key()), true),
            (429, SecretError::Unavailable(key()), true),
        ] {
            let error = read(status, failure(status)).await.unwrap_err();
            assert_eq!((error.passes(), &error), (passes, &expected), "{status}");
        }
        let (secrets, _silent) = secrets();
        assert_eq!(secrets.read(&key()).await, Err(SecretError::Unavailable(key())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_cannot_lead_out_of_the_namespace() {
        let (secrets, mut server) = secrets();
        for (namespace, name) in [
            ("team", "../../other/secrets/s"),
            ("team", "..%2f"),
            ("team", ".."),
            ("team", ""),
            ("team", "s?x=y"),
            ("../other", "s"),
        ] {
            let error = secrets.read(&ObjectKey::new(namespace, name)).await.unwrap_err();
            assert_eq!(error, SecretError::BadName, "{namespace} {name}");
        }
        drop(secrets);
        assert!(server.next_request().await.is_none(), "the API server was asked");
    }
}
