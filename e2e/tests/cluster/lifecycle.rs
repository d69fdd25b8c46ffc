//! Pods of every life: those that complete, those whose label changes.

use std::time::Duration;

use e2e::pods;
use serde_json::json;

use crate::env::{env, eventually};
use crate::namespace::{Answer, Namespace};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_job_completes_and_holds_no_identity_afterwards() {
    let space = Namespace::new("job").await;
    let identity = env().await.azure.identity("job", 50).await;
    space.bind(&identity, "app").await;
    let pod = pods::client(&space.name, "job", &["python3", "-c", "print('done')"]);
    space.apply(&pods::bound(pod, &space.selector("app"))).await.unwrap();
    space.phase("job", "Succeeded").await;
    eventually("the assignment is gone", LIMIT, async || {
        let all = space.env.get(&["-n", &space.name, "azureassignedidentities"]).await;
        all["items"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    space.done().await;
}

#[tokio::test]
async fn a_changed_label_changes_the_identity_of_a_running_pod() {
    let space = Namespace::new("label").await;
    let azure = &env().await.azure;
    let (before, after) = (azure.identity("before", 51).await, azure.identity("after", 52).await);
    space.bind(&before, "before").await;
    space.bind(&after, "after").await;
    space.start(&space.pod("app", "before")).await;
    space.token("app", "").await.is_of(&before);
    let after_label = format!("aadpodidbinding={}", space.selector("after"));
    let label = ["-n", &space.name, "label", "pod", "app", &after_label, "--overwrite"];
    space.env.kubectl(&label).await.unwrap();
    eventually("the other identity answers", LIMIT, async || match space.token("app", "").await {
        answer @ Answer::Http(200, _) => {
            (answer.claims()["appid"] == after.client_id.as_str()).then_some(())
        }
        _ => None,
    })
    .await;
    space.done().await;
}

#[tokio::test]
async fn the_sidecar_has_no_kubernetes_token_and_the_application_not_the_sidecars() {
    let space = Namespace::new("mounts").await;
    let identity = env().await.azure.identity("mounts", 53).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    let pod = space.env.get(&["-n", &space.name, "pod", "app"]).await;
    let ours = ["init-redirect", "nmi-sidecar"];
    for container in pod["spec"]["initContainers"].as_array().unwrap() {
        let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
        let api_token = mounts
            .iter()
            .find(|mount| mount["name"].as_str().unwrap().starts_with("kube-api-access"));
        assert!(ours.contains(&container["name"].as_str().unwrap()));
        assert_eq!(api_token, None, "{}", container["name"]);
    }
    let app = &pod["spec"]["containers"][0]["volumeMounts"];
    assert!(!app.to_string().contains("aadpodidentity"), "{app}");
    assert_eq!(pod["spec"]["initContainers"][0]["name"], json!("init-redirect"));
    space.done().await;
}
