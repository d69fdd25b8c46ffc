//! The API server as the node agent uses it: lists, watches in which nothing happens, and reviews
//! of tokens.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::stream;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;
use super::tls::TlsListener;
use super::{Fakes, kube_objects as objects, token};

/// What runs on the node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cluster {
    /// Pods, each with one assigned identity.
    pub(crate) pods: usize,
}

/// A running API server.
pub(crate) struct KubeApi {
    address: SocketAddr,
    authority: String,
}

struct Objects {
    assigned: Vec<Value>,
    pods: Vec<Value>,
    daemonset: Value,
    certificate: Value,
}

/// A watch that does not say how long it wants to last.
const WATCH_SECONDS: u64 = 300;

// === impl Cluster ===

impl Cluster {
    /// Name of the node.
    pub(crate) const NODE: &'static str = objects::NODE;

    /// Bearer token of sidecar number `serial`: the sidecars are spread over the pods.
    pub(crate) fn sidecar_token(self, serial: usize) -> String {
        objects::sidecar_token(serial % self.pods, serial)
    }

    /// Namespace and name of a pod, for the host endpoint.
    pub(crate) fn pod(self, pod: usize) -> (&'static str, String) {
        (objects::NAMESPACE, objects::pod_name(pod % self.pods))
    }
}

// === impl KubeApi ===

impl KubeApi {
    /// Starts one on a free port of loopback.
    pub(crate) fn start(fakes: &Fakes, authority: &Authority, cluster: Cluster) -> Result<Self> {
        let (tcp, address) = fakes.listen()?;
        let objects = Arc::new(Objects {
            assigned: (0..cluster.pods).map(objects::assigned).collect(),
            pods: (0..cluster.pods).map(objects::pod).collect(),
            daemonset: objects::daemonset(),
            certificate: objects::certificate(&authority.leaf()?),
        });
        let router = Router::new()
            .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))
            .fallback(get(list))
            .with_state(objects);
        let acceptor = TlsAcceptor::from(authority.leaf()?.server()?);
        fakes.spawn(async move {
            drop(axum::serve(TlsListener { tcp, acceptor }, router).await);
        });
        Ok(Self { address, authority: authority.pem().to_owned() })
    }

    /// Writes the kubeconfig with which the agent comes here.
    pub(crate) fn write_kubeconfig(&self, file: &Path) -> Result<()> {
        let cluster = json!({
            "server": format!("https://{}", self.address),
            "certificate-authority-data": STANDARD.encode(&self.authority),
        });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "bench", "cluster": cluster}],
            "users": [{"name": "bench", "user": {"token": "bench"}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
            "current-context": "bench",
        });
        std::fs::write(file, config.to_string()).context("cannot write the kubeconfig")
    }
}

// === impl Objects ===

impl Objects {
    /// Kind and objects of a collection, by the last part of its path.
    fn collection(&self, path: &str) -> Option<(&'static str, &'static str, Vec<Value>)> {
        let ours = "aadpodidentity.k8s.io/v1";
        Some(match path.rsplit('/').next()? {
            "azureassignedidentities" => (ours, "AzureAssignedIdentityList", self.assigned.clone()),
            "azurepodidentityexceptions" => (ours, "AzurePodIdentityExceptionList", vec![]),
            "pods" => ("v1", "PodList", self.pods.clone()),
            "secrets" => ("v1", "SecretList", vec![self.certificate.clone()]),
            "daemonsets" => ("apps/v1", "DaemonSetList", vec![self.daemonset.clone()]),
            _ => return None,
        })
    }
}

async fn list(
    State(objects): State<Arc<Objects>>,
    uri: Uri,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let parameter = |wanted: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let Some((version, kind, items)) = objects.collection(uri.path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if parameter("watch").is_some_and(|value| value == "true" || value == "1") {
        let seconds = parameter("timeoutSeconds").and_then(|text| text.parse().ok());
        return silence(Duration::from_secs(seconds.unwrap_or(WATCH_SECONDS)));
    }
    let metadata = json!({"resourceVersion": "1"});
    Json(json!({"apiVersion": version, "kind": kind, "metadata": metadata, "items": items}))
        .into_response()
}

/// A watch without events.
fn silence(duration: Duration) -> Response {
    let nothing = stream::once(async move {
        tokio::time::sleep(duration).await;
        Ok::<_, std::convert::Infallible>(Bytes::new())
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(nothing)).into_response()
}

async fn review(Json(review): Json<Value>) -> Response {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    match token::claims(token) {
        Some(claims) => (StatusCode::CREATED, Json(objects::review(&claims))).into_response(),
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}
