//! Parts that die and come back, and what an application sees of it.

use std::time::Duration;

use e2e::release;

use crate::env::{env, eventually};
use crate::namespace::{Answer, Namespace};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_killed_sidecar_comes_back_and_nobody_else_answers_meanwhile() {
    let space = Namespace::new("killed").await;
    let identity = env().await.azure.identity("killed", 40).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    space.token("app", "").await.is_of(&identity);

    let pod = space.env.get(&["-n", &space.name, "pod", "app"]).await;
    let node = pod["spec"]["nodeName"].as_str().unwrap();
    let sidecar = |pod: &serde_json::Value| {
        let all = pod["status"]["initContainerStatuses"].as_array().cloned().unwrap();
        all.into_iter().find(|status| status["name"] == "nmi-sidecar").unwrap()
    };
    let id = sidecar(&pod)["containerID"].as_str().unwrap().replace("containerd://", "");
    kill(node, &id).await;
    // Until it is back: refused, or its own answer. Never the node's identity.
    eventually("the sidecar answers again", LIMIT, async || match space.token("app", "").await {
        answer @ Answer::Http(200, _) => {
            answer.is_of(&identity);
            let pod = space.env.get(&["-n", &space.name, "pod", "app"]).await;
            (sidecar(&pod)["restartCount"].as_u64() >= Some(1)).then_some(())
        }
        Answer::Http(503, _) => None,
        Answer::NoConnection(error) => {
            assert!(error.contains("Failed to connect") || error.contains("reset"), "{error}");
            None
        }
        other @ Answer::Http(..) => panic!("{other:?}"),
    })
    .await;
    space.done().await;
}

/// Kills a container's first process, from the node.
async fn kill(node: &str, container: &str) {
    let cluster = &env().await.cluster;
    let node = cluster.nodes().iter().find(|candidate| candidate.name() == node).unwrap();
    let socket = cluster.state().containerd_socket(node);
    let mut command = tokio::process::Command::new("ctr");
    command.arg("--address").arg(socket).args(["-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL"]);
    let output = command.arg(container).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_restarted_node_agent_goes_unnoticed() {
    let space = Namespace::new("restarted").await;
    let identity = env().await.azure.identity("restarted", 41).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    space.token("app", "").await.is_of(&identity);

    let daemonset = format!("ds/{}-nmi-host", release::NAME);
    let restart = ["-n", release::NAMESPACE, "rollout", "restart", &daemonset];
    env().await.kubectl(&restart).await.unwrap();
    for _ in 0..10 {
        space.token("app", "").await.is_of(&identity);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let status = ["-n", release::NAMESPACE, "rollout", "status", &daemonset, "--timeout=60s"];
    env().await.kubectl(&status).await.unwrap();
    // A resource that is in no cache yet.
    let command = crate::namespace::curl("").replace("vault.azure.net", "storage.azure.com");
    let answer = crate::namespace::parse(&space.exec("app", &command).await.unwrap());
    assert_eq!(answer.claims()["appid"], identity.client_id.as_str());
    space.done().await;
}

#[tokio::test]
async fn a_removed_binding_stops_working_within_ten_seconds() {
    let space = Namespace::new("removed").await;
    let identity = env().await.azure.identity("removed", 42).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    space.token("app", "").await.is_of(&identity);
    space.delete("azureidentitybinding", "removed").await;
    // Ten, and what this machine needs to delete and to ask.
    eventually("the token is refused", Duration::from_secs(14), async || {
        matches!(space.token("app", "").await, Answer::Http(400, _)).then_some(())
    })
    .await;
    space.done().await;
}
