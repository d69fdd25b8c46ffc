//! Pods, namespaces and a configuration that the tests start from.

use std::sync::Arc;

use clap::Parser;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use runtime::{Metrics, Readiness, Shutdown};
use serde_json::{Value, json};
use webhook::{
    Args, Config, Injector, InjectorConfig, NamespaceView, Namespaces, ReviewMetrics, Verdict,
    decide, patch,
};

pub(crate) const INJECT: &str = "aadpodidentity.k8s.io/inject";

/// The configuration that the chart's defaults give.
pub(crate) fn config() -> InjectorConfig {
    let args = Args::parse_from([
        "webhook",
        "--namespace=pod-identity-system",
        "--sidecar-image=registry.example/nmi-sidecar:1.0.0",
        "--init-image=registry.example/init-redirect:1.0.0",
    ]);
    // The version is in every golden: a release must not change them.
    InjectorConfig { version: "1.0.0", ..Config::try_from(args).unwrap().injector }
}

/// A namespace that is opted in, with more labels and annotations.
pub(crate) fn namespace(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> NamespaceView {
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let mut labels = labels.to_vec();
    if !labels.iter().any(|(key, _)| *key == INJECT) {
        labels.push((INJECT, "enabled"));
    }
    NamespaceView::known(owned(&labels), owned(annotations))
}

/// A pod that asks for an identity.
pub(crate) fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "labels": {"aadpodidbinding": "shop"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]}
    })
}

/// The pod with a change.
pub(crate) fn pod_with(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = pod();
    change(&mut pod);
    pod
}

/// The decision in an opted-in namespace under the default configuration.
pub(crate) fn decided(pod: &Value) -> Verdict {
    decide(pod, &namespace(&[], &[]), &config())
}

/// The pod after injection.
pub(crate) fn injected(pod: &Value) -> Value {
    let webhook::Decision::Inject(plan) = decided(pod).decision else {
        panic!("not injected: {pod}")
    };
    let mut injected = pod.clone();
    json_patch::patch(&mut injected, &patch(pod, &plan, &config()).unwrap()).unwrap();
    injected
}

/// What an API server would post.
pub(crate) fn review(namespace: &str, pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "5f1e", "operation": "CREATE", "namespace": namespace, "dryRun": false,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "userInfo": {"username": "system:admin"},
            "object": pod, "oldObject": null
        }
    })
}

/// A namespace as the API server lists its metadata.
pub(crate) fn listed(name: &str, opt_in: Option<&str>) -> Value {
    let labels = opt_in.map_or(json!({}), |value| json!({INJECT: value}));
    json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": name, "labels": labels, "resourceVersion": "1"}
    })
}

pub(crate) type Server = tower_test::mock::Handle<Request<Body>, Response<Body>>;

/// Namespaces whose watch runs against an API server that the test plays.
pub(crate) fn watched(shutdown: &Shutdown) -> (Namespaces, runtime::Latch, Server) {
    let (service, server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let (namespaces, watch) = Namespaces::new();
    let ready = Readiness::default().latch("namespaces");
    let client = Client::new(service, "default");
    tokio::spawn(watch.run(client, ready.clone(), shutdown.clone()));
    (namespaces, ready, server)
}

/// An injector that has seen the namespaces `shop` (opted in) and `plain`, and its metrics. The
/// server has to be kept: without it the watch fails.
pub(crate) async fn injector() -> (Arc<Injector>, Metrics, Server) {
    let (namespaces, ready, mut server) = watched(&Shutdown::manual());
    let items = json!([listed("shop", Some("enabled")), listed("plain", None)]);
    answer_list(&mut server, &items).await;
    until(|| ready.is_set()).await;
    let metrics = Metrics::new("webhook", "0");
    let injector = Injector::new(config(), namespaces, ReviewMetrics::new(&metrics));
    (Arc::new(injector), metrics, server)
}

/// Answers the list call, which must come next.
pub(crate) async fn answer_list(server: &mut Server, items: &Value) {
    let (request, send) = server.next_request().await.unwrap();
    assert_eq!(request.uri().path(), "/api/v1/namespaces");
    let accept = request.headers()["accept"].to_str().unwrap();
    assert!(accept.contains("PartialObjectMetadataList"), "{accept}");
    let list = json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
        "metadata": {"resourceVersion": "1"}, "items": items
    });
    send.send_response(Response::new(Body::from(list.to_string().into_bytes())));
}

/// Waits for a condition that other tasks bring about.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), wait).await.expect("condition");
}
