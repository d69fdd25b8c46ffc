//! The objects of a node as the API server holds them, as large as real ones are: what a watch
//! costs is mostly reading them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::authority::Leaf;
use super::token::{client_id, jwt, now, resource_id};

pub(super) const NAMESPACE: &str = "team";
pub(super) const NODE: &str = "node-1";
const SYSTEM: &str = "pod-identity-system";

/// Identities that the pods share.
const IDENTITIES: usize = 10;

/// So long are projected service-account tokens.
const SIDECAR_TOKEN: usize = 1100;

const AUDIENCE: &str = "nmi-host.aadpodidentity.k8s.io";

/// Name of a pod.
pub(super) fn pod_name(pod: usize) -> String {
    format!("web-6d4b75cb6d-{pod:05}")
}

/// Differs from others at its beginning, as real ones do.
fn uid(number: usize) -> String {
    let mixed = u32::try_from(number).unwrap_or(0).wrapping_mul(0x9e37_79b1);
    format!("{mixed:08x}-0000-4000-8000-{number:012}")
}

/// The projected token of caller number `serial`, which is a sidecar of `pod`.
pub(super) fn sidecar_token(pod: usize, serial: usize) -> String {
    let claims = json!({
        "aud": [AUDIENCE],
        "exp": now() + 3600,
        "iat": now(),
        "iss": "https://kubernetes.default.svc",
        "jti": format!("60000000-0000-0000-0000-{serial:012}"),
        "kubernetes.io": {
            "namespace": NAMESPACE,
            "node": {"name": NODE, "uid": uid(999_999)},
            "pod": {"name": pod_name(pod), "uid": uid(pod)},
            "serviceaccount": {"name": "web", "uid": uid(999_998)},
        },
        "sub": format!("system:serviceaccount:{NAMESPACE}:web"),
    });
    jwt(&claims, SIDECAR_TOKEN)
}

/// What the API server answers to a review of such a token.
pub(super) fn review(claims: &Value) -> Value {
    let bound = &claims["kubernetes.io"];
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "metadata": {},
        "spec": {},
        "status": {
            "authenticated": true,
            "audiences": claims["aud"],
            "user": {
                "username": claims["sub"],
                "uid": bound["serviceaccount"]["uid"],
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "extra": {
                    "authentication.kubernetes.io/credential-id": [claims["jti"]],
                    "authentication.kubernetes.io/node-name": [bound["node"]["name"]],
                    "authentication.kubernetes.io/node-uid": [bound["node"]["uid"]],
                    "authentication.kubernetes.io/pod-name": [bound["pod"]["name"]],
                    "authentication.kubernetes.io/pod-uid": [bound["pod"]["uid"]],
                },
            },
        },
    })
}

/// `AzureAssignedIdentity` of a pod.
pub(super) fn assigned(pod: usize) -> Value {
    let identity = pod % IDENTITIES;
    let name = format!("identity-{identity}");
    json!({
        "apiVersion": "aadpodidentity.k8s.io/v1",
        "kind": "AzureAssignedIdentity",
        "metadata": {
            "name": format!("{}-0123456789abcdef", pod_name(pod)),
            "namespace": NAMESPACE,
            "uid": uid(pod + 10_000),
            "resourceVersion": "1",
            "labels": {"nodename": NODE},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": pod_name(pod), "uid": uid(pod)}
            ],
        },
        "spec": {
            "azureIdentityRef": {
                "apiVersion": "aadpodidentity.k8s.io/v1",
                "kind": "AzureIdentity",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {
                    "type": 0,
                    "resourceID": resource_id(identity),
                    "clientID": client_id(identity),
                },
            },
            "azureBindingRef": {
                "apiVersion": "aadpodidentity.k8s.io/v1",
                "kind": "AzureIdentityBinding",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"azureIdentity": name, "selector": name},
            },
            "pod": pod_name(pod),
            "podNamespace": NAMESPACE,
            "podUID": uid(pod),
            "nodename": NODE,
        },
        "status": {"status": "Assigned", "clientID": client_id(identity)},
    })
}

/// A running pod with two containers and what the webhook adds.
pub(super) fn pod(pod: usize) -> Value {
    let containers = ["web", "metrics"].map(|name| container(name, 12));
    let added = ["init-redirect", "nmi-sidecar"].map(|name| container(name, 4));
    let statuses = |names: &[&str]| names.iter().map(|name| status(name)).collect::<Vec<_>>();
    let address = format!("10.88.1.{}", pod % 250 + 2);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(pod),
            "generateName": "web-6d4b75cb6d-",
            "namespace": NAMESPACE,
            "uid": uid(pod),
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                "aadpodidbinding": format!("identity-{}", pod % IDENTITIES),
                "app.kubernetes.io/name": "web",
                "pod-template-hash": "6d4b75cb6d",
            },
            "annotations": {"aadpodidentity.k8s.io/status": "x".repeat(300)},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4b75cb6d",
                "uid": uid(999_997), "controller": true, "blockOwnerDeletion": true,
            }],
            "managedFields": managed_fields(),
        },
        "spec": {
            "nodeName": NODE,
            "serviceAccountName": "web",
            "restartPolicy": "Always",
            "initContainers": added,
            "containers": containers,
            "volumes": volumes(),
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                 "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists",
                 "effect": "NoExecute", "tolerationSeconds": 300},
            ],
        },
        "status": {
            "phase": "Running",
            "hostIP": "10.77.0.1",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": "2026-01-01T00:00:00Z",
            "conditions": conditions(),
            "initContainerStatuses": statuses(&["init-redirect", "nmi-sidecar"]),
            "containerStatuses": statuses(&["web", "metrics"]),
        },
    })
}

fn container(name: &str, variables: usize) -> Value {
    let env = (0..variables)
        .map(|number| json!({"name": format!("SETTING_{number}"), "value": "x".repeat(40)}));
    json!({
        "name": name,
        "image": format!("registry.example.com/shop/{name}:v1.2.3"),
        "args": ["--listen=0.0.0.0:8080", "--log-level=info", "--config=/etc/web/config.yaml"],
        "env": env.collect::<Vec<_>>(),
        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"cpu": "1", "memory": "256Mi"},
        },
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 5},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/web", "readOnly": true},
            {"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io",
             "readOnly": true},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 65532,
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

fn volumes() -> Value {
    json!([
        {"name": "config", "configMap": {"name": "web", "defaultMode": 420}},
        {"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt",
                           "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        ]}},
        {"name": "aadpodidentity-nmi", "projected": {"defaultMode": 292, "sources": [
            {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": 3600,
                                     "path": "token"}},
            {"configMap": {"name": "pod-identity-ca",
                           "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        ]}},
    ])
}

fn conditions() -> Value {
    ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .map(|kind| {
            json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"})
        })
        .to_vec()
        .into()
}

fn status(name: &str) -> Value {
    json!({
        "name": name,
        "image": format!("registry.example.com/shop/{name}:v1.2.3"),
        "imageID": format!("registry.example.com/shop/{name}@sha256:{}", "0".repeat(64)),
        "containerID": format!("containerd://{}", "0".repeat(64)),
        "ready": true,
        "started": true,
        "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    })
}

fn managed_fields() -> Value {
    let fields = |count: usize| {
        let names = (0..count).map(|field| (format!("f:field-{field}"), json!({})));
        Value::Object(names.collect())
    };
    json!([
        {"apiVersion": "v1", "fieldsType": "FieldsV1", "manager": "kube-controller-manager",
         "operation": "Update", "time": "2026-01-01T00:00:00Z",
         "fieldsV1": {"f:metadata": fields(10), "f:spec": fields(60)}},
        {"apiVersion": "v1", "fieldsType": "FieldsV1", "manager": "kubelet",
         "operation": "Update", "subresource": "status", "time": "2026-01-01T00:00:00Z",
         "fieldsV1": {"f:status": fields(30)}},
    ])
}

/// The agent's own DaemonSet.
pub(super) fn daemonset() -> Value {
    let labels = json!({"app": "nmi-host"});
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "nmi-host", "namespace": SYSTEM, "uid": uid(999_996),
                     "resourceVersion": "1"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels},
                         "spec": {"containers": [container("nmi-host", 4)]}},
        },
    })
}

/// The Secret with the agent's certificate.
pub(super) fn certificate(leaf: &Leaf) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "nmi-host-tls", "namespace": SYSTEM, "uid": uid(999_995),
                     "resourceVersion": "1"},
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": STANDARD.encode(&leaf.chain), "tls.key": STANDARD.encode(&leaf.key)},
    })
}

#[cfg(test)]
mod tests {
    use super::super::token::claims;
    use super::*;

    #[test]
    fn a_pod_is_as_large_as_a_real_one() {
        let length = pod(7).to_string().len();
        assert!((8_000..14_000).contains(&length), "{length}");
    }

    #[test]
    fn a_review_vouches_for_the_pod_of_the_token() {
        let reviewed = review(&claims(&sidecar_token(3, 42)).unwrap());
        let user = &reviewed["status"]["user"];
        assert_eq!(user["extra"]["authentication.kubernetes.io/pod-uid"][0], uid(3));
        assert_eq!(assigned(3)["spec"]["podUID"], uid(3));
        assert_ne!(sidecar_token(3, 42), sidecar_token(3, 43));
    }
}
