//! Identities are attached with the first pod, detached after the last, and nobody else's is
//! touched.

use std::time::Duration;

use serde_json::{Value, json};

use crate::env::{MACHINE, SCALE_SET, env, eventually};
use crate::namespace::{Answer, Namespace};

const LIMIT: Duration = Duration::from_secs(60);

/// Puts a pod on a node.
fn on(node: &str, mut pod: Value) -> Value {
    pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    pod
}

#[tokio::test]
async fn a_machine_keeps_its_own_identity_beside_those_of_pods() {
    let space = Namespace::new("machine").await;
    let azure = &env().await.azure;
    let identity = azure.identity("machine", 24).await;
    space.bind(&identity, "app").await;
    let before = azure.host(MACHINE).await["system_assigned"].clone();
    assert!(before.is_object(), "the machine has an identity of its own: {before}");

    space.start(&on("node3", space.pod("app", "app"))).await;
    space.token("app", "").await.is_of(&identity);
    assert!(azure.is_attached(&identity, MACHINE).await);
    assert!(!azure.is_attached(&identity, SCALE_SET).await, "no pod of its nodes needs it");

    space.delete("pod", "app").await;
    eventually("the identity is detached", LIMIT, async || {
        (!azure.is_attached(&identity, MACHINE).await).then_some(())
    })
    .await;
    assert_eq!(azure.host(MACHINE).await["system_assigned"], before);
    space.done().await;
}

#[tokio::test]
async fn attached_for_the_first_pod_and_detached_after_the_last() {
    let space = Namespace::new("attach").await;
    let azure = &env().await.azure;
    let identity = azure.identity("attach", 20).await;
    let foreign = azure.identity("foreign", 21).await;
    azure
        .post("hosts/attach", &json!({"host": SCALE_SET, "identities": [foreign.resource_id]}))
        .await;
    let node_identity =
        azure.attached(SCALE_SET).await.into_iter().find(|id| id.ends_with("agentpool"));
    space.bind(&identity, "app").await;
    space.bind(&foreign, "foreign").await;
    assert!(!azure.is_attached(&identity, SCALE_SET).await, "nothing needs it yet");

    // Two instances of the same scale set.
    space.start(&on("node1", space.pod("one", "app"))).await;
    space.start(&on("node2", space.pod("two", "app"))).await;
    space.start(&on("node1", space.pod("three", "foreign"))).await;
    assert!(azure.is_attached(&identity, SCALE_SET).await);

    space.delete("pod", "one").await;
    space.token("two", "").await.is_of(&identity);
    space.delete("pod", "two").await;
    space.delete("pod", "three").await;
    eventually("the identity is detached", LIMIT, async || {
        (!azure.is_attached(&identity, SCALE_SET).await).then_some(())
    })
    .await;
    assert!(azure.is_attached(&foreign, SCALE_SET).await, "somebody else attached it");
    assert_eq!(
        node_identity,
        azure.attached(SCALE_SET).await.into_iter().find(|id| id.ends_with("agentpool"))
    );
    space.done().await;
}

#[tokio::test]
async fn an_identity_that_azure_does_not_know_keeps_no_other_waiting() {
    let space = Namespace::new("refused").await;
    let azure = &env().await.azure;
    let good = azure.identity("good", 22).await;
    space.bind(&good, "good").await;
    let spec = json!({
        "type": 0,
        "resourceID": good.resource_id.replace("/good", "/gone"),
        "clientID": "2a000000-0000-0000-0000-999999999999",
    });
    space.apply(&space.object("AzureIdentity", "gone", &spec)).await.unwrap();
    space.bind_name("gone", "gone").await;
    let mut pod = space.pod("gone", "gone");
    pod["metadata"]["annotations"] = json!({"aadpodidentity.k8s.io/gate-timeout": "5s"});
    space.apply(&pod).await.unwrap();
    space.start(&space.pod("good", "good")).await;
    space.token("good", "").await.is_of(&good);

    space.ready("gone").await;
    // Somebody may create it any moment: the application is told to come back.
    let Answer::Http(503, body) = space.token("gone", "").await else { panic!("not unavailable") };
    let description = body["error_description"].as_str().unwrap();
    assert!(description.contains("cannot be attached"), "{description}");
    let (ready, reason, message) = space.condition("azureidentity", "gone").await;
    assert_eq!(ready, "False", "{reason}: {message}");
    assert!(message.contains("gone"), "{message}");
    let events = ["-n", &space.name, "get", "events", "--field-selector=involvedObject.name=gone"];
    let events = space.env.kubectl(&events).await.unwrap();
    assert!(events.contains("IdentityNotAssigned"), "{events}");
    space.done().await;
}

#[tokio::test]
async fn a_client_id_of_another_identity_is_not_assigned() {
    let space = Namespace::new("mismatch").await;
    let azure = &env().await.azure;
    let identity = azure.identity("mine", 23).await;
    let spec = json!({
        "type": 0,
        "resourceID": identity.resource_id,
        // The node's own: whoever could get it by writing it down here would own the cluster.
        "clientID": "20000000-0000-0000-0000-000000000004",
    });
    space.apply(&space.object("AzureIdentity", "mine", &spec)).await.unwrap();
    space.bind_name("mine", "app").await;
    let mut pod = space.pod("app", "app");
    pod["metadata"]["annotations"] = json!({"aadpodidentity.k8s.io/gate-timeout": "5s"});
    space.start(&pod).await;
    let Answer::Http(503, body) = space.token("app", "").await else { panic!("not unavailable") };
    let description = body["error_description"].as_str().unwrap();
    assert!(description.contains("correct or remove spec.clientID"), "{description}");
    let reason = eventually("the mismatch is reported", LIMIT, async || {
        let (_, reason, message) = space.condition("azureidentity", "mine").await;
        (reason == "ClientIDMismatch").then_some(message)
    })
    .await;
    assert!(reason.contains(&identity.client_id), "{reason}");
    space.done().await;
}
