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
    let base = format!("/api/v1/namespaces/{}/pods", release::NAMESPACE);
    let selector = "app.kubernetes.io/component=controller";
    let pods = env().await.get(&["-n", release::NAMESPACE, "pods", "-l", selector]).await;
    let mut leaders = 0;
    for pod in pods["items"].as_array().unwrap() {
        let name = pod["metadata"]["name"].as_str().unwrap();
        if pod["metadata"]["deletionTimestamp"].is_string() {
            continue;
        }
        for (path, expected) in [("livez", "ok"), ("metrics", "podidentity_leader")] {
            let at = format!("{base}/{name}:8080/proxy/{path}");
            let answer = env().await.kubectl(&["get", "--raw", &at]).await.unwrap();
            assert!(answer.contains(expected), "{at}: {answer}");
            leaders += usize::from(answer.contains("podidentity_leader 1"));
        }
    }
    // None for a moment, while another test has one replaced; never two.
    assert!(leaders <= 1, "{leaders} lead");
}
