//! One identity, one binding, one pod.

use serde_json::json;

use super::{LIMIT, assigned, by, refused};
use crate::env::{env, eventually};
use crate::namespace::{Answer, Namespace};

#[tokio::test]
async fn should_pass_the_identity_validation() {
    let space = Namespace::new("one-valid").await;
    let identity = env().await.azure.identity("one-valid", 140).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    assigned(&space, "app", &[&identity]).await;
    // By client id, by resource id, and without any.
    for query in [by(&identity), format!("&msi_res_id={}", identity.resource_id), String::new()] {
        space.token("app", &query).await.is_of(&identity);
    }
    space.done().await;
}

#[tokio::test]
async fn should_delete_the_azureassignedidentity_if_the_pod_is_deleted() {
    let space = Namespace::new("one-pod").await;
    let identity = env().await.azure.identity("one-pod", 141).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    assigned(&space, "app", &[&identity]).await;
    super::delete(&space, "app").await;
    space.done().await;
}

#[tokio::test]
async fn should_not_pass_the_identity_validation_if_the_azureidentity_is_deleted() {
    let space = Namespace::new("one-identity").await;
    let identity = env().await.azure.identity("one-identity", 142).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    space.token("app", "").await.is_of(&identity);
    space.delete("azureidentity", &identity.name).await;
    assigned(&space, "app", &[]).await;
    refused(&space, "app", &by(&identity)).await;
    space.done().await;
}

#[tokio::test]
async fn should_not_pass_the_identity_validation_if_the_azureidentitybinding_is_deleted() {
    let space = Namespace::new("one-binding").await;
    let identity = env().await.azure.identity("one-binding", 143).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    space.token("app", "").await.is_of(&identity);
    space.delete("azureidentitybinding", &identity.name).await;
    assigned(&space, "app", &[]).await;
    refused(&space, "app", &by(&identity)).await;
    space.done().await;
}

#[tokio::test]
async fn should_update_azureassignedidentity_and_when_azureidentity_fields_are_updated() {
    let space = Namespace::new("one-updated").await;
    let azure = &env().await.azure;
    let before = azure.identity("one-before", 144).await;
    let after = azure.identity("one-after", 145).await;
    space.bind(&before, "app").await;
    space.start(&space.pod("app", "app")).await;
    space.token("app", "").await.is_of(&before);
    let spec = json!({"resourceID": after.resource_id, "clientID": after.client_id});
    let patch = json!({"spec": spec}).to_string();
    let edit = ["-n", &space.name, "patch", "azureidentity", &before.name, "--type=merge", "-p"];
    space.env.kubectl(&[&edit[..], &[&patch]].concat()).await.unwrap();
    eventually("the other identity answers", LIMIT, async || {
        let answer = space.token("app", "").await;
        let Answer::Http(200, _) = answer else { return None };
        (answer.claims()["appid"] == after.client_id.as_str()).then_some(())
    })
    .await;
    refused(&space, "app", &by(&before)).await;
    space.done().await;
}

#[tokio::test]
async fn should_pass_identity_validation_with_correct_identity_and_fail_with_wrong_identity() {
    let space = Namespace::new("one-wrong").await;
    let azure = &env().await.azure;
    let right = azure.identity("one-right", 146).await;
    let wrong = azure.identity("one-wrong", 147).await;
    for identity in [&right, &wrong] {
        space.bind(identity, "app").await;
    }
    space.start(&space.pod("app", "app")).await;
    assigned(&space, "app", &[&right, &wrong]).await;
    // Both are assigned; whoever asks for one never gets the other.
    for identity in [&right, &wrong] {
        space.token("app", &by(identity)).await.is_of(identity);
    }
    space.done().await;
}
