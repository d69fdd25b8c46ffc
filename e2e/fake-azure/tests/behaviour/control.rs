//! The control API, and what survives a restart.

use std::path::Path;

use fake_azure::{Config, FakeAzure, StartError, seed};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Fixture, client, demo, second, start};

#[tokio::test]
async fn wrong_input_is_a_400_that_says_what_is_wrong() {
    let fixture = start().await;
    let ghost = seed::identity_id("ghost");
    for (method, path, body, hint) in [
        (Method::PUT, "/_fake/faults", json!({"imsd": {}}), "unknown field `imsd`"),
        (Method::PUT, "/_fake/faults", json!({"imds": {"failure_rate": 2}}), "between 0 and 1"),
        (
            Method::PUT,
            "/_fake/faults",
            json!({"hosts": {"nodes": {}}}),
            "is not an ARM resource id",
        ),
        (Method::PUT, "/_fake/faults", json!({"down": {"imds": "maybe"}}), "`refuse` or `hang`"),
        (Method::POST, "/_fake/identities", json!({"name": "x"}), "needs the string field \"id\""),
        (Method::POST, "/_fake/identities", json!({"id": "x"}), "is not an ARM resource id"),
        (Method::POST, "/_fake/apps", json!({"client_id": "x"}), "is not a GUID"),
        (Method::POST, "/_fake/hosts", json!({"id": demo()}), "neither a virtual machine"),
        (
            Method::POST,
            "/_fake/hosts/attach",
            json!({"host": seed::scale_set_id(), "identities": [ghost]}),
            "does not exist",
        ),
        (Method::POST, "/_fake/default-host", json!({"host": demo()}), "does not exist"),
        (Method::GET, "/_fake/journal?since=x", Value::Null, "numbers for since"),
        (Method::DELETE, "/_fake/hosts", Value::Null, "?id=<key>"),
    ] {
        let (status, answer) = fixture.control(method, path, &body).await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {body} {answer}");
        assert!(error.contains(hint), "{path}: {error}");
    }
    let (status, _) = fixture
        .control(Method::DELETE, &format!("/_fake/identities?id={ghost}"), &Value::Null)
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_state_shows_everything_but_secrets() {
    let fixture = start().await;
    let app = json!({"client_id": seed::DEMO_APP, "secrets": ["another-not-a-secret"]});
    let answer = fixture.ask(Method::POST, "/_fake/apps", app).await;
    let state = fixture.ask(Method::GET, "/_fake/state", Value::Null).await;
    for text in [answer.to_string(), state.to_string()] {
        assert!(text.contains(seed::DEMO_APP) && text.contains("redacted"), "{text}");
        assert!(!text.contains("not-a-secret"), "{text}");
    }
    assert_eq!(state["identities"].as_array().unwrap().len(), 4);
    let url = format!("{}/healthz", fixture.fake.control_url());
    assert_eq!(fixture.http.get(url).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn new_hosts_and_identities_work_at_once() {
    let fixture = start().await;
    let identity = seed::identity_id("fresh");
    let host = seed::machine_id().to_string().replace("vm3", "vm4");
    fixture.ask(Method::POST, "/_fake/identities", json!({"id": identity})).await;
    let body = json!({"id": host, "identities": [identity], "instances": [
        {"name": "vm4", "addresses": ["127.0.0.4", "10.88.4.0/24"]},
    ]});
    fixture.ask(Method::POST, "/_fake/hosts", body).await;
    let from_vm4 = client(&fixture.fake, Some("127.0.0.4"));
    let (status, body) = fixture.imds_from(&from_vm4, "").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(fixture.claims(&body).xms_mirid.unwrap(), identity.as_str());

    fixture.ask(Method::DELETE, &format!("/_fake/identities?id={identity}"), Value::Null).await;
    let (status, _) = fixture.imds_from(&from_vm4, "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "attached, but deleted in the directory");
}

#[tokio::test]
async fn faults_can_be_replaced_or_merged() {
    let fixture = start().await;
    fixture.faults(json!({"imds": {"latency_ms": 1}})).await;
    let merged =
        fixture.ask(Method::PATCH, "/_fake/faults", json!({"entra": {"fail_next": 3}})).await;
    assert_eq!(
        (&merged["imds"]["latency_ms"], &merged["entra"]["fail_next"]),
        (&json!(1), &json!(3))
    );
    let (status, _) = fixture.control(Method::PATCH, "/_fake/faults", &json!({"arm": {}})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    fixture.faults(json!({})).await;
    let now = fixture.ask(Method::GET, "/_fake/faults", Value::Null).await;
    assert_eq!((&now["imds"]["latency_ms"], &now["imds_rate_limit"]), (&json!(0), &json!(true)));
}

#[tokio::test]
async fn faults_set_at_the_same_time_do_not_wait_for_each_other() {
    let fixture = start().await;
    let url = format!("{}/_fake/faults", fixture.fake.control_url());
    let mut requests = tokio::task::JoinSet::new();
    for round in 0..20 {
        let down = if round % 2 == 0 { json!({"imds": "refuse"}) } else { json!({}) };
        let request = fixture.http.put(&url).json(&json!({"down": down}));
        requests.spawn(async move { request.send().await.unwrap().status() });
    }
    let statuses = requests.join_all().await;
    assert!(statuses.iter().all(StatusCode::is_success), "{statuses:?}");
    fixture.faults(json!({})).await;
    assert_eq!(fixture.imds("").await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_journal_is_read_in_steps_counted_and_cleared() {
    let fixture = start().await;
    fixture.imds("").await;
    fixture.arm_token().await;
    let page = fixture.ask(Method::GET, "/_fake/journal", Value::Null).await;
    assert_eq!(page["entries"].as_array().unwrap().len(), 2, "{page}");
    assert_eq!(page["totals"], json!({"imds": {"200": 1}, "entra": {"200": 1}}));
    let since = format!("/_fake/journal?since={}", page["next"]);
    fixture.imds("&client_id=x").await;
    let page = fixture.ask(Method::GET, &since, Value::Null).await;
    assert_eq!(page["entries"].as_array().unwrap().len(), 1);
    assert_eq!(page["entries"][0]["status"], 400);
    fixture.ask(Method::DELETE, "/_fake/journal", Value::Null).await;
    assert!(fixture.journal("imds").await.is_empty());
}

#[tokio::test]
async fn reset_restores_the_seed_and_ends_the_faults() {
    let fixture = start().await;
    fixture.attach(&seed::scale_set_id(), &[demo()]).await;
    fixture.faults(json!({"down": {"imds": "refuse"}})).await;
    fixture.ask(Method::POST, "/_fake/reset", Value::Null).await;
    assert_eq!(fixture.imds("").await.0, StatusCode::OK, "up again, with one identity");
}

#[tokio::test]
async fn a_write_from_before_a_reset_changes_nothing_after_it() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    fixture.faults(json!({"operations": {"async": true, "duration_ms": 300}})).await;
    let add = [(&demo(), json!({}))];
    let first = fixture.patch(&token, &seed::scale_set_id(), "UserAssigned", &add).await;
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    fixture.ask(Method::POST, "/_fake/reset", Value::Null).await;

    // A later write that takes longer ends after the forgotten one would have.
    fixture.faults(json!({"operations": {"duration_ms": 600}})).await;
    let add = [(&second(), json!({}))];
    let second = fixture.patch(&token, &seed::scale_set_id(), "UserAssigned", &add).await;
    assert_eq!(second.status(), StatusCode::OK, "the host is free again");
    let host = fixture.host(&seed::scale_set_id()).await.to_string();
    assert!(host.contains("second-identity") && !host.contains("demo-identity"), "{host}");
}

async fn restart(fixture: Fixture) -> Fixture {
    let Fixture { fake, dir, .. } = fixture;
    fake.stop().await;
    let fake = FakeAzure::start(Config::local(dir.path())).await.unwrap();
    let http = client(&fake, None);
    Fixture { fake, http, dir }
}

#[tokio::test]
async fn authority_keys_and_world_survive_a_restart() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let ca = fixture.fake.ca_pem().to_owned();
    fixture.attach(&seed::scale_set_id(), &[second()]).await;
    let fixture = restart(fixture).await;
    assert_eq!(fixture.fake.ca_pem(), ca);
    assert_eq!(std::fs::read_to_string(fixture.dir.path().join("ca.crt")).unwrap(), ca);
    let (status, body) = fixture.get(&token, &seed::scale_set_id()).await;
    assert_eq!(status, StatusCode::OK, "the token of before is still good");
    assert!(body.to_string().contains("second-identity"), "{body}");
    let (status, _) = fixture.imds(&format!("&msi_res_id={}", second())).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_start_that_cannot_work_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = start().await;
    let mut taken = Config::local(dir.path());
    taken.arm = fixture.fake.addresses().arm;
    let error = FakeAzure::start(taken).await.err().expect("the address is taken");
    assert!(matches!(error, StartError::Bind { service: "arm", .. }), "{error}");

    std::fs::write(dir.path().join("state.json"), "{}{").unwrap();
    let error = FakeAzure::start(Config::local(dir.path())).await.err().expect("a broken state");
    assert!(matches!(error, StartError::Store(_)), "{error}");

    let mut seed = Config::local(Path::new(dir.path()));
    seed.seed.default_host = Some(demo());
    let error = FakeAzure::start(seed).await.err().expect("a seed that points to nothing");
    assert!(matches!(error, StartError::Seed(_)), "{error}");
}
