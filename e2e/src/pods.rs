//! Pods that play the application: what a user would write, and nothing of this project in it.

use serde_json::{Value, json};

use crate::images;

/// An application pod, restricted as Pod Security asks, that runs `command` in the Python client
/// image.
#[must_use]
pub fn client(namespace: &str, name: &str, command: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            // The local cluster has no DNS.
            "dnsPolicy": "Default",
            "containers": [container("app", command)],
        },
    })
}

/// A container of the Python client image.
#[must_use]
pub fn container(name: &str, command: &[&str]) -> Value {
    json!({
        "name": name,
        "image": images::reference("client-python"),
        "imagePullPolicy": "Never",
        "command": command,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "runAsNonRoot": true,
            "runAsUser": 1000,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// Sets the label that bindings select by.
#[must_use]
pub fn bound(mut pod: Value, selector: &str) -> Value {
    pod["metadata"]["labels"][api::labels::BINDING] = json!(selector);
    pod
}

/// Does nothing until it is told to end.
pub const IDLE: &[&str] = &["python3", "-c", "import signal; signal.sigwait([signal.SIGTERM])"];
