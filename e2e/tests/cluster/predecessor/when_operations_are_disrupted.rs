//! A leader that goes, and names that occur twice.

use e2e::release;
use serde_json::Value;

use super::{LIMIT, assigned, by};
use crate::env::{env, eventually};
use crate::namespace::Namespace;

async fn leader() -> String {
    let name = format!("{}-controller", release::NAME);
    let lease = env().await.get(&["-n", release::NAMESPACE, "lease", &name]).await;
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn should_pass_the_identity_validation_even_when_mic_leader_is_changed() {
    let space = Namespace::new("leader").await;
    let identity = env().await.azure.identity("leader", 165).await;
    space.bind(&identity, "app").await;
    let before = leader().await;
    space.apply(&space.pod("app", "app")).await.unwrap();
    let delete = ["-n", release::NAMESPACE, "delete", "pod", &before, "--wait=false"];
    env().await.kubectl(&delete).await.unwrap();
    eventually("another replica leads", LIMIT, async || {
        let now = leader().await;
        (!now.is_empty() && now != before).then_some(())
    })
    .await;
    space.ready("app").await;
    assigned(&space, "app", &[&identity]).await;
    space.token("app", "").await.is_of(&identity);
    let rollout = format!("deploy/{}-controller", release::NAME);
    let status = ["-n", release::NAMESPACE, "rollout", "status", &rollout, "--timeout=60s"];
    env().await.kubectl(&status).await.unwrap();
    space.done().await;
}

#[tokio::test]
async fn should_pass_the_identity_validation_even_when_two_azureidentities_and_azureidentitybindings_with_the_same_name_are_deployed_across_different_namespaces()
 {
    let (one, two) = (Namespace::new("same-one").await, Namespace::new("same-two").await);
    let azure = &env().await.azure;
    let mut first = azure.identity("same-one", 166).await;
    let mut second = azure.identity("same-two", 30_166).await;
    for identity in [&mut first, &mut second] {
        "same".clone_into(&mut identity.name);
    }
    // The same names and the same selector. The predecessor let the first namespace win.
    one.bind(&first, "app").await;
    let spec = serde_json::json!({"azureIdentity": "same", "selector": one.selector("app")});
    two.bind(&second, "unused").await;
    two.apply(&two.object("AzureIdentityBinding", "same", &spec)).await.unwrap();
    one.start(&one.pod("app", "app")).await;
    assigned(&one, "app", &[&first, &second]).await;
    for identity in [&first, &second] {
        one.token("app", &by(identity)).await.is_of(identity);
    }
    let all = one.env.get(&["-n", &one.name, "azureassignedidentities"]).await;
    let of = |object: &Value| object["spec"]["azureIdentityRef"]["metadata"]["namespace"].clone();
    let mut namespaces: Vec<_> = all["items"].as_array().unwrap().iter().map(of).collect();
    namespaces.sort_by_key(ToString::to_string);
    assert_eq!(namespaces, [one.name.as_str(), two.name.as_str()]);
    one.done().await;
    two.done().await;
}

#[tokio::test]
async fn should_pass_liveness_probe_test() {
    // Asked again while another test has a leader replaced: pods go, and who leads changes between
    // one answer and the next.
    eventually("every replica lives and one leads", LIMIT, async || {
        let mut leaders = 0;
        for pod in replicas().await {
            let base = format!("/api/v1/namespaces/{}/pods/{pod}:8080/proxy", release::NAMESPACE);
            let page = async |path: &str| {
                env().await.kubectl(&["get", "--raw", &format!("{base}/{path}")]).await.ok()
            };
            page("livez").await.filter(|answer| answer.contains("ok"))?;
            leaders += usize::from(
                page("metrics").await?.lines().any(|line| line == "podidentity_leader 1"),
            );
        }
        (leaders == 1).then_some(())
    })
    .await;
}

/// The controller's pods that are not on their way out.
async fn replicas() -> Vec<String> {
    let selector = "app.kubernetes.io/component=controller";
    let pods = env().await.get(&["-n", release::NAMESPACE, "pods", "-l", selector]).await;
    let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    pods["items"].as_array().unwrap().iter().filter(stays).map(name).collect()
}
