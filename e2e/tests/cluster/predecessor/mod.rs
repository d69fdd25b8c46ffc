//! The end-to-end tests of aad-pod-identity that concern assignment, by the same names.
//!
//! `should_receive_proper_http_status_code_when_contacting_various_endpoints`, with its node agent
//! in the way of every request, has no counterpart: other paths are refused (`guard`, `requests`).

mod when_deploying_invalid_identities;
mod when_deploying_multiple_identities;
mod when_deploying_one_identity;
mod when_managing_identities_from_the_underlying_nodes;
mod when_operations_are_disrupted;
mod when_others_are_served;

use std::time::Duration;

use serde_json::{Value, json};

use crate::env::{Identity, eventually};
use crate::namespace::{Answer, Namespace};

const LIMIT: Duration = Duration::from_secs(60);

/// Puts a pod on a node.
fn on(node: &str, mut pod: Value) -> Value {
    pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    pod
}

/// A pod that does not wait long for an identity that will not come.
fn impatient(mut pod: Value) -> Value {
    pod["metadata"]["annotations"] = json!({"aadpodidentity.k8s.io/gate-timeout": "3s"});
    pod
}

/// The assignments of a pod: identity and state.
async fn assignments(space: &Namespace, pod: &str) -> Vec<(String, String)> {
    let all = space.env.get(&["-n", &space.name, "azureassignedidentities"]).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|object| object["spec"]["pod"] == pod)
        .map(|object| {
            let identity = &object["spec"]["azureIdentityRef"]["metadata"]["name"];
            (text(identity), text(&object["status"]["status"]))
        })
        .collect()
}

/// Waits until the pod has exactly these identities, all of them usable.
async fn assigned(space: &Namespace, pod: &str, identities: &[&Identity]) {
    let mut expected: Vec<_> =
        identities.iter().map(|one| (one.name.clone(), "Assigned".to_owned())).collect();
    expected.sort();
    eventually(&format!("{pod} has {expected:?}"), LIMIT, async || {
        let mut now = assignments(space, pod).await;
        now.sort();
        (now == expected).then_some(())
    })
    .await;
}

/// Waits until the pod gets no token any more.
async fn refused(space: &Namespace, pod: &str, query: &str) {
    eventually("the token is refused", LIMIT, async || {
        matches!(space.token(pod, query).await, Answer::Http(400, _)).then_some(())
    })
    .await;
}

/// Deletes a pod and waits until its assignments are gone.
async fn delete(space: &Namespace, pod: &str) {
    space.delete("pod", pod).await;
    assigned(space, pod, &[]).await;
}

fn by(identity: &Identity) -> String {
    format!("&client_id={}", identity.client_id)
}
