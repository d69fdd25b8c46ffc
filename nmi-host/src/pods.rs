//! The pods of this node, as far as the agent needs them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use api::slim::Readable;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;

/// What is read of a pod.
#[derive(Resource, Clone, Debug)]
#[resource(inherit = Pod)]
pub(crate) struct NodePod {
    metadata: ObjectMeta,
    spec: Option<PodSpec>,
    status: Option<PodStatus>,
}

/// What is read of a pod's spec.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodSpec {
    host_network: Option<bool>,
}

/// What is read of a pod's status.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodAddress>>,
}

/// One of a pod's addresses.
#[derive(Clone, Debug, Deserialize)]
struct PodAddress {
    ip: Option<String>,
}

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodView {
    /// Tells it from earlier pods of the same name.
    pub(crate) uid: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its IPv4 addresses.
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// Whether its addresses are those of the node.
    pub(crate) host_network: bool,
    /// Whether it is pending or running: its addresses are its own only as long.
    pub(crate) live: bool,
}

/// A pod by all that tells it from every other: what an authenticated caller is, and what the
/// host endpoint looks up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodRef {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its uid.
    pub(crate) uid: String,
}

// === impl NodePod ===

impl Readable for NodePod {
    type Spec = Option<PodSpec>;
    type Status = Option<PodStatus>;

    fn of(metadata: ObjectMeta, spec: Self::Spec, status: Self::Status) -> Self {
        Self { metadata, spec, status }
    }
}

// === impl PodView ===

impl PodView {
    /// What is kept of a pod.
    pub(crate) fn read(pod: NodePod) -> Option<Self> {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        let all = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
        let first = status.and_then(|status| status.pod_ip.as_deref());
        let mut addresses: Vec<Ipv4Addr> = all
            .iter()
            .filter_map(|address| address.ip.as_deref())
            .chain(first)
            .filter_map(|text| text.parse().ok())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        Some(Self {
            live: matches!(phase, "Pending" | "Running"),
            uid: pod.metadata.uid?,
            labels: pod.metadata.labels.unwrap_or_default(),
            addresses,
            host_network: pod.spec.and_then(|spec| spec.host_network).unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use api::Slim;
    use kube::ResourceExt;
    use kube::core::{DeserializeGuard, ObjectList, WatchEvent};
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Option<PodView> {
        let Slim(pod) = serde_json::from_value(value).unwrap();
        PodView::read(pod)
    }

    /// A pod with something of everything.
    fn rich() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web-0", "generateName": "web-", "namespace": "team", "uid": "u",
                "resourceVersion": "7", "creationTimestamp": "2025-01-01T00:00:00Z",
                "deletionTimestamp": "2025-01-02T00:00:00Z", "deletionGracePeriodSeconds": 30,
                "labels": {"app": "web", "aadpodidbinding": "db"}, "annotations": {"a": "b"},
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "o",
                    "controller": true
                }],
                "finalizers": ["example.com/f"],
                "managedFields": [{
                    "manager": "kubelet", "operation": "Update", "apiVersion": "v1",
                    "time": "2025-01-01T00:00:00Z", "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:status": {"f:podIPs": {".": {}}}}, "subresource": "status"
                }]
            },
            "spec": {
                "nodeName": "node-1", "serviceAccountName": "web", "hostNetwork": true,
                "hostPID": false, "restartPolicy": "Always", "priority": 0,
                "containers": [{
                    "name": "web", "image": "web:1", "env": [{"name": "phase", "value": "Failed"}],
                    "resources": {"limits": {"cpu": "1", "memory": "64Mi"}},
                    "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                    "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 9}
                }],
                "volumes": [{"name": "v", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}
                ]}}],
                "tolerations": [{"operator": "Exists"}], "securityContext": {"runAsUser": 65532}
            },
            "status": {
                "phase": "Running", "hostIP": "10.0.0.4", "hostIPs": [{"ip": "10.0.0.4"}],
                "podIP": "10.0.0.4", "podIPs": [{"ip": "10.0.0.4"}, {"ip": "fd00::4"}],
                "qosClass": "Burstable", "startTime": "2025-01-01T00:00:00Z",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{
                    "name": "web", "image": "web:1", "imageID": "i", "ready": true,
                    "restartCount": 0, "state": {"running": {"startedAt": "2025-01-01T00:00:01Z"}}
                }]
            }
        })
    }

    /// A list as the API server writes it: its pods' names, and whether they can be read.
    fn readable(pods: &[Value]) -> Vec<(String, bool)> {
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
        let list: ObjectList<DeserializeGuard<Slim<NodePod>>> =
            serde_json::from_str(&list.to_string()).unwrap();
        list.items.into_iter().map(|pod| (pod.name_any(), pod.0.is_ok())).collect()
    }

    #[test]
    fn a_pod_with_something_of_everything_is_read() {
        let expected = PodView {
            uid: "u".to_owned(),
            labels: [("aadpodidbinding", "db"), ("app", "web")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            addresses: vec![Ipv4Addr::new(10, 0, 0, 4)],
            host_network: true,
            live: true,
        };
        serde_json::from_value::<Pod>(rich()).expect("it is such as the API server knows them");
        assert_eq!(read(rich()), Some(expected));
    }

    #[test]
    fn what_is_missing_or_not_looked_at_breaks_nothing() {
        let bare = PodView { uid: "u".to_owned(), live: true, ..PodView::default() };
        for pod in [
            json!({"metadata": {"uid": "u"}}),
            json!({"metadata": {"uid": "u", "labels": null}, "spec": null, "status": null}),
            json!({"metadata": {"uid": "u"}, "spec": {}, "status": {}}),
            json!({"metadata": {"uid": "u"}, "spec": {"hostNetwork": null},
                "status": {"phase": null, "podIP": null, "podIPs": null}}),
            json!({"metadata": {"uid": "u"},
                "status": {"podIP": "", "podIPs": [{}, {"ip": null}]}}),
            json!({"metadata": {"uid": "u", "managedFields": 7, "new": {}},
                "spec": {"containers": "odd", "new": [1]}, "status": {"conditions": {}}, "new": 1}),
        ] {
            assert_eq!(read(pod.clone()), Some(bare.clone()), "{pod}");
        }
    }

    #[test]
    fn a_pod_that_cannot_be_read_does_not_hide_others() {
        let odd = |name: &str, part: &str, field: &str, value: Value| {
            let mut pod = rich();
            pod["metadata"]["name"] = name.into();
            pod[part][field] = value;
            pod
        };
        // Rather no pod than one that is wrongly said to have addresses of its own.
        let listed = readable(&[
            odd("a", "spec", "hostNetwork", "yes".into()),
            odd("b", "status", "podIPs", json!([null])),
            odd("c", "status", "phase", json!({})),
            json!({"metadata": {"name": "d"}, "spec": 7}),
            rich(),
        ]);
        let listed: Vec<_> = listed.iter().map(|(name, read)| (name.as_str(), *read)).collect();
        assert_eq!(
            listed,
            [("a", false), ("b", false), ("c", false), ("d", false), ("web-0", true)]
        );
    }

    #[test]
    fn events_of_a_watch_are_read() {
        let event = format!(r#"{{"type":"MODIFIED","object":{}}}"#, rich());
        let event =
            serde_json::from_str::<WatchEvent<DeserializeGuard<Slim<NodePod>>>>(&event).unwrap();
        let WatchEvent::Modified(pod) = event else { panic!("not what it is: {event:?}") };
        assert_eq!(pod.resource_version().as_deref(), Some("7"), "the watch goes on from there");
        assert_eq!(PodView::read(pod.0.unwrap().0), read(rich()));
    }

    #[test]
    fn addresses_are_ipv4_and_counted_once() {
        let pod = read(json!({
            "metadata": {"uid": "u", "labels": {"a": "b"}},
            "spec": {"containers": []},
            "status": {"phase": "Running", "podIP": "10.0.0.9",
                "podIPs": [{"ip": "fd00::9"}, {"ip": "10.0.0.9"}]}
        }))
        .unwrap();
        assert_eq!(pod.addresses, [Ipv4Addr::new(10, 0, 0, 9)]);
        assert!(pod.live && !pod.host_network);
    }

    #[test]
    fn ended_pods_are_not_live() {
        for (phase, live) in
            [("Pending", true), ("Running", true), ("Succeeded", false), ("Failed", false)]
        {
            let pod = read(json!({
                "metadata": {"uid": "u"}, "status": {"phase": phase}
            }));
            assert_eq!(pod.unwrap().live, live, "{phase}");
        }
        assert_eq!(read(json!({"metadata": {}})), None, "no uid, no pod");
    }
}
