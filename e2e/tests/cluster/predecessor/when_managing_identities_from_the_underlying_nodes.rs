//! What is attached to VMs and scale sets, by whom, and what of it goes.

use e2e::release;
use serde_json::json;

use super::{LIMIT, assigned, by, delete, on};
use crate::env::{Azure, Identity, MACHINE, SCALE_SET, env, eventually};
use crate::namespace::Namespace;

/// The kubelet's own, with which the controller signs in.
const CLUSTER: &str = "20000000-0000-0000-0000-000000000004";

async fn attached(azure: &Azure, identity: &Identity, host: &str, expected: bool) {
    let what = format!("{} on {host}: {expected}", identity.name);
    eventually(&what, LIMIT, async || {
        (azure.is_attached(identity, host).await == expected).then_some(())
    })
    .await;
}

/// Lets a linger pass in which an identity could be detached, by the sight of another that is.
async fn a_linger_later(space: &Namespace, number: u16, node: &str, host: &str) {
    let azure = &env().await.azure;
    let other = azure.identity(&format!("{}-linger", space.name), number).await;
    space.bind(&other, "linger").await;
    space.start(&on(node, space.pod("linger", "linger"))).await;
    attached(azure, &other, host, true).await;
    delete(space, "linger").await;
    attached(azure, &other, host, false).await;
}

#[tokio::test]
async fn should_not_delete_a_user_assigned_identity_that_is_being_used_by_a_different_pod() {
    let space = Namespace::new("node-shared").await;
    let azure = &env().await.azure;
    let identity = azure.identity("node-shared", 156).await;
    space.bind(&identity, "app").await;
    // Two instances of one scale set.
    space.start(&on("node1", space.pod("one", "app"))).await;
    space.start(&on("node2", space.pod("two", "app"))).await;
    delete(&space, "one").await;
    a_linger_later(&space, 168, "node1", SCALE_SET).await;
    assert!(azure.is_attached(&identity, SCALE_SET).await);
    space.token("two", "").await.is_of(&identity);
    delete(&space, "two").await;
    attached(azure, &identity, SCALE_SET, false).await;
    space.done().await;
}

#[tokio::test]
async fn should_be_able_to_delete_azureassignedidentity_when_the_user_assigned_is_un_assigned_from_the_underlying_node()
 {
    let space = Namespace::new("node-unassigned").await;
    let azure = &env().await.azure;
    let identity = azure.identity("node-unassigned", 157).await;
    space.bind(&identity, "app").await;
    space.start(&on("node1", space.pod("app", "app"))).await;
    let body = json!({"host": SCALE_SET, "identities": [identity.resource_id]});
    azure.post("hosts/detach", &body).await;
    delete(&space, "app").await;
    eventually("it is not recorded any more", LIMIT, async || {
        let all = ["-n", release::NAMESPACE, "azureidentityattachments"];
        let records = space.env.get(&all).await.to_string();
        (!records.contains(&identity.resource_id)).then_some(())
    })
    .await;
    space.done().await;
}

#[tokio::test]
async fn should_not_alter_the_system_assigned_identity_after_creating_and_deleting_pod_identity() {
    let space = Namespace::new("node-system").await;
    let azure = &env().await.azure;
    let identity = azure.identity("node-system", 158).await;
    let before = azure.host(MACHINE).await["system_assigned"].clone();
    assert!(before.is_object(), "{before}");
    space.bind(&identity, "app").await;
    space.start(&on("node3", space.pod("app", "app"))).await;
    attached(azure, &identity, MACHINE, true).await;
    delete(&space, "app").await;
    attached(azure, &identity, MACHINE, false).await;
    assert_eq!(azure.host(MACHINE).await["system_assigned"], before);
    space.done().await;
}

#[tokio::test]
async fn should_not_alter_the_user_assigned_identity_on_vm_after_aad_pod_identity_is_created_and_deleted()
 {
    let space = Namespace::new("node-foreign").await;
    let azure = &env().await.azure;
    let theirs = azure.identity("node-foreign", 159).await;
    let ours = azure.identity("node-ours", 161).await;
    let body = json!({"host": MACHINE, "identities": [theirs.resource_id]});
    azure.post("hosts/attach", &body).await;
    for identity in [&theirs, &ours] {
        space.bind(identity, "app").await;
    }
    space.start(&on("node3", space.pod("app", "app"))).await;
    assigned(&space, "app", &[&theirs, &ours]).await;
    delete(&space, "app").await;
    attached(azure, &ours, MACHINE, false).await;
    assert!(azure.is_attached(&theirs, MACHINE).await);
    azure.post("hosts/detach", &body).await;
    space.done().await;
}

#[tokio::test]
async fn should_not_delete_the_immutable_identity_from_vmss_when_the_deployment_is_deleted() {
    let space = Namespace::new("node-immutable").await;
    let azure = &env().await.azure;
    let identity = azure.identity("node-immutable", 160).await;
    assert_eq!(identity.client_id, release::IMMUTABLE);
    space.bind(&identity, "app").await;
    space.start(&on("node1", space.pod("app", "app"))).await;
    attached(azure, &identity, SCALE_SET, true).await;
    delete(&space, "app").await;
    a_linger_later(&space, 169, "node1", SCALE_SET).await;
    assert!(azure.is_attached(&identity, SCALE_SET).await);
    space.done().await;
}

#[tokio::test]
async fn should_reconcile_identity_assignment_on_azure_if_the_user_assigned_identity_is_manually_unassigned_from_the_underlying_node()
 {
    let space = Namespace::new("node-reconciled").await;
    let azure = &env().await.azure;
    let identity = azure.identity("node-reconciled", 162).await;
    space.bind(&identity, "app").await;
    space.start(&on("node1", space.pod("app", "app"))).await;
    attached(azure, &identity, SCALE_SET, true).await;
    let body = json!({"host": SCALE_SET, "identities": [identity.resource_id]});
    azure.post("hosts/detach", &body).await;
    assert!(!azure.is_attached(&identity, SCALE_SET).await);
    attached(azure, &identity, SCALE_SET, true).await;
    space.token("app", &by(&identity)).await.is_of(&identity);
    space.done().await;
}

#[tokio::test]
async fn should_not_delete_the_cluster_identity_from_vmss_when_the_deployment_is_deleted() {
    let space = Namespace::new("node-cluster").await;
    let azure = &env().await.azure;
    let state = azure.get("state").await;
    let all = state["identities"].as_array().unwrap();
    let own = all.iter().find(|one| one["client_id"] == CLUSTER).unwrap();
    let text = |name: &str| own[name].as_str().unwrap().to_owned();
    let identity = Identity {
        name: "agentpool".to_owned(),
        resource_id: text("id"),
        client_id: text("client_id"),
        object_id: text("principal_id"),
    };
    space.bind(&identity, "app").await;
    space.start(&on("node1", space.pod("app", "app"))).await;
    space.token("app", "").await.is_of(&identity);
    delete(&space, "app").await;
    a_linger_later(&space, 167, "node1", SCALE_SET).await;
    assert!(azure.is_attached(&identity, SCALE_SET).await);
    space.done().await;
}
