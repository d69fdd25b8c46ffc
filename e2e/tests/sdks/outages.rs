//! What every credential goes through without an error: IMDS fails slowly, and the node agent is
//! restarted.

use std::time::Duration;

use e2e::images::Client;
use e2e::release;
use futures::StreamExt;
use serde_json::{Value, json};

use crate::cases::NODE_AGENT;
use crate::env::{Env, Identity, env, eventually};
use crate::language::{ALL, Credential, Language, NODE};
use crate::namespace::Namespace;
use crate::run::{Asked, prepare};

const RESTART: Duration = Duration::from_secs(120);
/// Beyond five at a time IMDS says no, and this is not about that.
const AT_A_TIME: usize = 3;

#[tokio::test]
async fn every_first_answer_of_imds_is_a_slow_failure_and_no_client_sees_it() {
    let space = Namespace::new("sdk-faults").await;
    let identity = env().await.azure.identity("sdk-faults", 120).await;
    start_all(&space, &identity).await;
    let _agent = NODE_AGENT.read().await;
    let (space_of, identity_of) = (&space, &identity);
    let problems: Vec<Vec<String>> = futures::stream::iter(&ALL)
        .map(async |language| {
            let mut problems = Vec::new();
            // The second tool that asks for nothing else finds a token in the cache.
            let asks_anew = |credential: &&Credential| credential.name != "azmcp-default";
            for credential in language.credentials.iter().filter(asks_anew) {
                let result = through_a_failure(language, credential, space_of, identity_of).await;
                problems.extend(result.err());
            }
            problems
        })
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    let problems = problems.concat();
    assert!(problems.is_empty(), "{problems:#?}");
    space.done().await;
}

#[tokio::test]
async fn the_node_agent_is_restarted_and_no_client_sees_it() {
    let space = Namespace::new("sdk-restart").await;
    let env = env().await;
    let identity = env.azure.identity("sdk-restart", 121).await;
    start_all(&space, &identity).await;
    let _agent = NODE_AGENT.write().await;
    let (back, is_back) = tokio::sync::watch::channel(false);
    let restart = async {
        restart_agent(env).await;
        back.send_replace(true);
    };
    let asking = ALL.iter().map(async |language| {
        let mut problems = Vec::new();
        let mut round = 0;
        // Every credential once at least, and until the agent is back.
        while round == 0 || !*is_back.borrow() {
            for credential in language.credentials {
                let name = format!("{}-{}-{round}", language.client.name(), credential.name);
                let resource = format!("https://{name}.example");
                let resource = credential.resource(&resource);
                let result = token(language, credential, &space, &identity, resource).await;
                problems.extend(result.err().map(|problem| format!("{name}: {problem}")));
            }
            round += 1;
        }
        problems
    });
    let ((), problems) = tokio::join!(restart, futures::future::join_all(asking));
    let problems = problems.concat();
    assert!(problems.is_empty(), "{problems:#?}");
    space.done().await;
}

/// A pod of each language, all with the same identity.
async fn start_all(space: &Namespace, identity: &Identity) {
    space.bind(identity, "app").await;
    for language in ALL {
        prepare(language.client).await;
        space.apply(&language.pod(space, pod_of(language.client), "app")).await.unwrap();
    }
    for language in ALL {
        space.ready(pod_of(language.client)).await;
    }
}

fn pod_of(client: Client) -> &'static str {
    client.name()
}

/// Asks for a resource that no cache has, for which IMDS needs two seconds and fails the first time.
async fn through_a_failure(
    language: &Language,
    credential: &Credential,
    space: &Namespace,
    identity: &Identity,
) -> Result<(), String> {
    let name = format!("{}-{}", language.client.name(), credential.name);
    let resource = format!("https://{name}.example");
    let resource = credential.resource(&resource);
    let when = json!({"on": ["imds"], "client_id": identity.client_id, "resource": resource});
    let rule = json!({"when": when, "then": {"latency_ms": 2000, "fail_next": 1}});
    let azure = &space.env.azure;
    azure.faults(&json!({"rules": {&name: rule}})).await;
    let result = token(language, credential, space, identity, resource).await;
    let left = azure.get("faults").await["rules"][&name]["then"]["fail_next"].clone();
    azure.faults(&json!({"rules": {&name: Value::Null}})).await;
    match result {
        Ok(seconds) if left == 0 => {
            eprintln!("{name}, through a failure: {seconds:.3} s");
            Ok(())
        }
        Ok(_) => Err(format!("{name}: IMDS was not asked, or did not fail")),
        Err(problem) => Err(format!("{name}: {problem}")),
    }
}

async fn token(
    language: &Language,
    credential: &Credential,
    space: &Namespace,
    identity: &Identity,
    resource: &str,
) -> Result<f64, String> {
    let asked = Asked { credential, resources: &[resource], selected: None };
    let outcomes = language.ask(space, pod_of(language.client), asked).await?;
    outcomes[0].is_of(identity, resource)?;
    Ok(outcomes[0].seconds)
}

/// Deletes the node agent's pod and waits until another has taken its place.
async fn restart_agent(env: &Env) {
    let field = format!("spec.nodeName={NODE}");
    let agent = ["-n", release::NAMESPACE, "-l", "app.kubernetes.io/component=nmi-host"];
    let agent = [&agent[..], &["--field-selector", &field]].concat();
    let pods = async || {
        let list = env.get(&[&["pods"][..], &agent].concat()).await;
        list["items"].as_array().cloned().unwrap()
    };
    let before = pods().await[0]["metadata"]["uid"].clone();
    env.kubectl(&[&["delete", "pod"][..], &agent].concat()).await.unwrap();
    eventually("another agent is ready", RESTART, async || {
        let pods = pods().await;
        let conditions = pods.first()?["status"]["conditions"].as_array().cloned()?;
        let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
        let is_another = pods[0]["metadata"]["uid"] != before;
        (is_another && conditions.iter().any(is_ready)).then_some(())
    })
    .await;
}
