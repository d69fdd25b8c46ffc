//! A running cluster moves over from aad-pod-identity, step by step as docs/migrate.md says.
//!
//! A program of its own: while MIC seems to run, nothing is assigned in the whole cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(dead_code, reason = "the shared modules serve the other tests too")]

#[path = "../cluster/env.rs"]
mod env;
mod mic;
#[path = "../cluster/namespace.rs"]
mod namespace;

use std::time::Duration;

use e2e::release;
use serde_json::{Value, json};

use crate::env::{Env, Identity, SCALE_SET, env, eventually};
use crate::mic::Mic;
use crate::namespace::Namespace;

/// The controller waits 30 s for a MIC that fell silent.
const LIMIT: Duration = Duration::from_secs(90);

/// Long enough for an assignment, many times over.
const QUIET: Duration = Duration::from_secs(3);

fn on(node: &str, mut pod: Value) -> Value {
    pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    pod
}

/// Says by the chart's value who may write assignments beside the controller: a JSON list.
async fn allow(env: &Env, accounts: &str) {
    let value = format!("migration.micServiceAccounts={accounts}");
    let chart = release::chart();
    let args = ["upgrade", release::NAME, chart.to_str().unwrap(), "-n", release::NAMESPACE];
    // Not `--set …=null`: together with `--reuse-values` it changes nothing.
    let more = ["--reuse-values", "--set-json", &value, "--wait", "--timeout=2m"];
    let output = env.cluster.helm(&[&args[..], &more[..]].concat()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let policy = format!("{}-assignments", release::NAME);
    let policy = env.get(&["validatingadmissionpolicy", &policy]).await.to_string();
    assert_eq!(policy.contains(mic::ACCOUNT), accounts != "[]", "{policy}");
}

/// The assignments in the namespace of our own.
async fn ours(space: &Namespace) -> Vec<Value> {
    let all = space.env.get(&["-n", &space.name, "azureassignedidentities"]).await;
    all["items"].as_array().unwrap().clone()
}

async fn assigned(space: &Namespace, pod: &str) {
    eventually(&format!("{pod} is assigned"), LIMIT, async || {
        let all = ours(space).await;
        let mut of_pod = all.iter().filter(|object| object["spec"]["pod"] == pod).peekable();
        let any = of_pod.peek().is_some();
        (any && of_pod.all(|object| object["status"]["status"] == "Assigned")).then_some(())
    })
    .await;
}

/// The identities that are recorded as attached by us.
async fn recorded(env: &Env) -> String {
    let all = env.get(&["-n", release::NAMESPACE, "azureidentityattachments"]).await;
    all["items"].to_string().to_ascii_lowercase()
}

/// What ARM was asked to detach since entry `since` of its journal.
async fn detached(env: &Env, since: u64) -> String {
    let journal = env.azure.get(&format!("journal?service=arm&since={since}&limit=1000000")).await;
    let entries = journal["entries"].as_array().unwrap();
    let detached: Vec<_> = entries.iter().map(|entry| entry["detached"].to_string()).collect();
    detached.concat().to_ascii_lowercase()
}

async fn is_detached(env: &Env, identity: &Identity) {
    eventually(&format!("{} is detached", identity.name), LIMIT, async || {
        (!env.azure.is_attached(identity, SCALE_SET).await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_running_cluster_moves_over_from_aad_pod_identity() {
    let env = env().await;
    let azure = &env.azure;
    allow(env, &format!("[\"{}:{}\"]", mic::NAMESPACE, mic::ACCOUNT)).await;
    let space = Namespace::plain("migrate").await;
    eventually("an earlier run has left nothing", LIMIT, async || {
        (!recorded(env).await.contains("migrate-")).then_some(())
    })
    .await;
    let mic = Mic::start(env).await;
    eventually("the controller says that it waits", LIMIT, async || {
        let events = ["-n", mic::RECORD_NAMESPACE, "events", "--field-selector=reason=MicRunning"];
        let events = env.get(&events).await;
        let held = |event: &Value| event.to_string().contains(&mic.holder);
        events["items"].as_array().unwrap().iter().any(held).then_some(())
    })
    .await;

    // What MIC left: one in use, one of a pod that is gone and that somebody tried to delete.
    let used = azure.identity("migrate-used", 90).await;
    let unused = azure.identity("migrate-unused", 91).await;
    let foreign = azure.identity("migrate-foreign", 92).await;
    for (identity, selector) in [(&used, "app"), (&foreign, "app"), (&unused, "gone")] {
        space.bind(identity, selector).await;
    }
    space.start(&on("node1", space.pod("app", "app"))).await;
    mic.assigns(&space, "app", "node1", &used).await;
    let gone = mic.assigns(&space, "gone", "node2", &unused).await;
    let delete = ["-n", "default", "delete", "azureassignedidentity", &gone, "--wait=false"];
    env.kubectl(&delete).await.unwrap();
    let ids = [&used, &unused, &foreign].map(|identity| &identity.resource_id);
    azure.post("hosts/attach", &json!({"host": SCALE_SET, "identities": ids})).await;
    let since = azure.get("journal?limit=1000000").await["next"].as_u64().unwrap_or_default();

    tokio::time::sleep(QUIET).await;
    assert!(ours(&space).await.is_empty(), "MIC runs");
    assert_eq!(mic::leftovers(env, &space).await.len(), 2, "and its objects are its own");
    assert!(!recorded(env).await.contains("migrate-"));

    mic.stop().await;
    assigned(&space, "app").await;
    eventually("nothing is left of MIC's", LIMIT, async || {
        mic::leftovers(env, &space).await.is_empty().then_some(())
    })
    .await;
    let objects = ours(&space).await;
    assert_eq!(objects.len(), 2, "{objects:?}");
    // What NMI, which still serves this pod, looks at.
    for object in &objects {
        assert_eq!(object["metadata"]["labels"]["nodename"], "node1");
        assert_eq!(object["spec"]["podNamespace"], space.name.as_str());
        assert_eq!(object["spec"]["azureIdentityRef"]["kind"], "AzureIdentity");
        assert!(object["spec"]["azureIdentityRef"]["spec"]["clientID"].is_string());
    }
    is_detached(env, &unused).await;
    let records = recorded(env).await;
    assert!(records.contains("migrate-used") && !records.contains("migrate-foreign"), "{records}");
    assert!(!detached(env, since).await.contains("migrate-used"), "not for a moment");

    // The namespace is opted in, its pods are restarted.
    let label = ["label", "namespace", &space.name, "aadpodidentity.k8s.io/inject=enabled"];
    env.kubectl(&label).await.unwrap();
    space.delete("pod", "app").await;
    space.start(&on("node1", space.pod("app", "app"))).await;
    let query = format!("&client_id={}", used.client_id);
    space.token("app", &query).await.is_of(&used);
    assert!(!detached(env, since).await.contains("migrate-used"), "also not by the restart");

    // Somebody starts MIC again: hands off, until it is gone.
    let mic = Mic::start(env).await;
    space.apply(&on("node1", space.pod("late", "app"))).await.unwrap();
    tokio::time::sleep(QUIET).await;
    assert!(ours(&space).await.iter().all(|object| object["spec"]["pod"] != "late"));
    mic.stop().await;
    assigned(&space, "late").await;

    for pod in ["app", "late"] {
        space.delete("pod", pod).await;
    }
    is_detached(env, &used).await;
    assert!(azure.is_attached(&foreign, SCALE_SET).await, "MIC never named it");
    mic::forget(env).await;
    allow(env, "[]").await;
    space.done().await;
}
