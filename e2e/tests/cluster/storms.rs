//! IMDS fails half of the time and slowly, the node agent dies: applications notice nothing.

use std::time::Duration;

use e2e::release;
use serde_json::{Value, json};

use crate::env::{Env, env, eventually};
use crate::namespace::{Answer, Namespace, curl, curl_for, fresh, parse};
use crate::steady::{SteadyClient, cold};

const LIMIT: Duration = Duration::from_secs(60);

/// How long the storm lasts, in seconds: a minute of everybody's time, or as long as one asks for.
fn duration() -> u32 {
    let asked = std::env::var("POD_IDENTITY_STORM_SECONDS").ok();
    asked.map_or(45, |text| text.parse().expect("POD_IDENTITY_STORM_SECONDS is a number"))
}

/// Deletes the node agent's pod of a node; the DaemonSet makes another.
async fn kill_agent(env: &Env, node: &str) {
    let agent = "app.kubernetes.io/component=nmi-host";
    let field = format!("spec.nodeName={node}");
    let delete = ["-n", release::NAMESPACE, "delete", "pod", "-l", agent, "--field-selector"];
    env.kubectl(&[&delete[..], &[&field, "--wait=false", "--grace-period=1"]].concat())
        .await
        .unwrap();
}

#[tokio::test]
async fn half_of_imds_and_the_node_agent_fail_and_no_application_sees_it() {
    let space = Namespace::new("storm").await;
    let azure = &env().await.azure;
    let identity = azure.identity("storm", 73).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    space.token("app", "").await.is_of(&identity);
    let node = space.node_of("app").await;
    let then = json!({"failure_rate": 0.5, "latency_ms": 2000, "seed": 1});
    azure.imds_fault(&identity, then).await;

    let run = async |request: String| SteadyClient::run(&space, "app", duration(), &request).await;
    let outage = async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        kill_agent(space.env, &node).await;
    };
    let (warm, one, two, ()) =
        tokio::join!(run(curl("")), run(cold("one")), run(cold("two")), outage);
    azure.imds_fault(&identity, Value::Null).await;

    for (client, least) in [(&warm, 50), (&one, 4), (&two, 4)] {
        client.is_content(least);
    }
    let statuses = azure.journal("imds", &identity).await;
    let count = |status: u16| statuses.iter().filter(|entry| entry["status"] == status).count();
    assert!(count(503) >= 3 && count(200) >= 3, "{} failed, {} did not", count(503), count(200));
    space.done().await;
}

#[tokio::test]
async fn imds_may_know_an_identity_only_seconds_after_it_was_attached() {
    let space = Namespace::new("propagation").await;
    let azure = &env().await.azure;
    let identity = azure.identity("propagation", 74).await;
    let delay = json!({"identities": {&identity.resource_id: {"propagation_delay_ms": 3_600_000}}});
    azure.faults(&delay).await;
    space.bind(&identity, "app").await;
    let mut pod = space.pod("app", "app");
    // The first thing that the application does, once.
    let request = curl_for(&fresh("propagation"), "");
    pod["spec"]["initContainers"] =
        json!([e2e::pods::container("first", &["bash", "-c", &request])]);
    let known_later = async {
        let refused = async || {
            let is_refused = |entry: &Value| {
                let query = entry["query"].as_str().unwrap_or_default();
                query.contains("propagation") && entry["status"] == 400
            };
            azure.entries("imds").await.iter().any(is_refused).then_some(())
        };
        eventually("IMDS says that it knows no such identity", LIMIT, refused).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        azure.faults(&json!({"identities": {&identity.resource_id: null}})).await;
    };
    let ((), ()) = tokio::join!(space.start(&pod), known_later);
    let logs = ["-n", &space.name, "logs", "app", "-c", "first"];
    let answer = parse(&space.env.kubectl(&logs).await.unwrap());
    assert_eq!(answer.claims()["appid"], identity.client_id.as_str());
    space.done().await;
}

#[tokio::test]
async fn imds_is_away_for_a_while_and_a_waiting_application_gets_its_token() {
    let space = Namespace::new("away").await;
    let azure = &env().await.azure;
    let identity = azure.identity("away", 75).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    azure.imds_fault(&identity, json!({"failure_rate": 1.0, "status": 500})).await;
    let back = async {
        let failed = async || {
            let entries = azure.journal("imds", &identity).await;
            (!entries.is_empty()).then_some(())
        };
        eventually("the first attempt failed", Duration::from_secs(20), failed).await;
        azure.imds_fault(&identity, Value::Null).await;
    };
    let resource = fresh("waited-for");
    let (answer, ()) = tokio::join!(space.token_for("app", &resource), back);
    assert_eq!(answer.claims()["appid"], identity.client_id.as_str());

    // For longer than anybody waits: the application is told to come back.
    azure.imds_fault(&identity, json!({"failure_rate": 1.0, "status": 500})).await;
    let command = curl_for(&fresh("away"), "").replace("--max-time 30", "--max-time 60");
    let Answer::Http(503, body) = parse(&space.exec("app", &command).await.unwrap()) else {
        panic!("not unavailable")
    };
    assert!(body["error_description"].is_string(), "{body}");
    space.token_for("app", &resource).await.claims();
    azure.imds_fault(&identity, Value::Null).await;
    space.done().await;
}
