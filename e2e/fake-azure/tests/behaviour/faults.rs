//! Faults for some requests only, and the counts of what IMDS was asked.

use std::time::{Duration, Instant};

use fake_azure::{ArmId, seed};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Fixture, client, demo, second, start};

async fn with_two_identities() -> Fixture {
    let fixture = start().await;
    fixture.attach(&seed::scale_set_id(), &[demo(), second()]).await;
    fixture.faults(json!({"imds_rate_limit": false})).await;
    fixture
}

async fn merge_faults(fixture: &Fixture, faults: Value) {
    fixture.ask(Method::PATCH, "/_fake/faults", faults).await;
}

/// A rule about one identity, as a test that runs beside others would set it.
fn rule(name: &str, identity: &ArmId, then: &Value) -> Value {
    json!({"rules": {name: {"when": {"identity": identity}, "then": then}}})
}

async fn status_of(fixture: &Fixture, identity: &ArmId) -> u16 {
    fixture.imds(&format!("&msi_res_id={identity}")).await.0.as_u16()
}

#[tokio::test]
async fn tests_side_by_side_each_have_faults_of_their_own() {
    let fixture = with_two_identities().await;
    let always = |status: u16| json!({"failure_rate": 1.0, "status": status});
    merge_faults(&fixture, rule("one", &demo(), &always(500))).await;
    merge_faults(&fixture, rule("two", &second(), &always(503))).await;
    assert_eq!(
        (status_of(&fixture, &demo()).await, status_of(&fixture, &second()).await),
        (500, 503)
    );
    let (status, _) = fixture.imds("&client_id=20000000-0000-0000-0000-000000000004").await;
    assert_eq!(status, StatusCode::OK, "somebody else");

    merge_faults(&fixture, json!({"rules": {"one": null}})).await;
    assert_eq!(
        (status_of(&fixture, &demo()).await, status_of(&fixture, &second()).await),
        (200, 503)
    );
    let journal = fixture.journal("imds").await;
    assert!(journal.iter().all(|entry| entry.identity.is_some()), "also of what failed");
}

#[tokio::test]
async fn faults_that_are_merged_at_the_same_time_all_count() {
    let fixture = with_two_identities().await;
    let url = format!("{}/_fake/faults", fixture.fake.control_url());
    let mut requests = tokio::task::JoinSet::new();
    for round in 0..20 {
        let rule = json!({"rules": {format!("test-{round}"): {"then": {"fail_next": round}}}});
        let request = fixture.http.patch(&url).json(&rule);
        requests.spawn(async move { request.send().await.unwrap().status() });
    }
    assert!(requests.join_all().await.iter().all(StatusCode::is_success));
    let faults = fixture.ask(Method::GET, "/_fake/faults", Value::Null).await;
    assert_eq!(faults["rules"].as_object().unwrap().len(), 20);
}

#[tokio::test]
async fn a_seed_repeats_the_failures_and_latency_holds_the_answer_back() {
    let fixture = with_two_identities().await;
    let run = async || {
        let then = json!({"failure_rate": 0.5, "seed": 42});
        merge_faults(&fixture, rule("seeded", &demo(), &then)).await;
        let mut statuses = Vec::new();
        for _ in 0..20 {
            statuses.push(status_of(&fixture, &demo()).await);
        }
        statuses
    };
    let first = run().await;
    assert_eq!(first, run().await);
    assert!(first.contains(&200) && first.contains(&503), "{first:?}");

    let then = json!({"failure_rate": 0.0, "latency_ms": 300});
    merge_faults(&fixture, rule("seeded", &demo(), &then)).await;
    let started = Instant::now();
    assert_eq!(status_of(&fixture, &demo()).await, 200);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn entra_fails_for_one_client_or_one_resource() {
    let fixture = start().await;
    let fail = json!({"failure_rate": 1.0});
    let ask = async |app: &str, secret: &str, resource: &str| {
        fixture.secret_token(app, secret, &format!("{resource}/.default")).await.0.as_u16()
    };
    let demo = async |resource: &str| ask(seed::DEMO_APP, seed::DEMO_APP_SECRET, resource).await;
    for (when, expected) in [
        (json!({"on": ["entra"], "client_id": seed::DEMO_APP}), (503, 503, 200)),
        (json!({"resource": "https://vault.azure.net"}), (503, 200, 200)),
        (json!({"on": ["imds"]}), (200, 200, 200)),
    ] {
        fixture.faults(json!({"rules": {"test": {"when": when, "then": fail}}})).await;
        let found = (
            demo("https://vault.azure.net").await,
            demo("https://storage.azure.com").await,
            ask(seed::CONTROLLER_APP, seed::CONTROLLER_APP_SECRET, "https://management.azure.com")
                .await,
        );
        assert_eq!(found, expected, "{when}");
    }
}

#[tokio::test]
async fn an_identity_has_a_lifetime_and_a_propagation_delay_of_its_own() {
    let fixture = with_two_identities().await;
    let faults = json!({"identities": {
        demo().as_str(): {"token_lifetime_seconds": 60},
        second().as_str(): {"propagation_delay_ms": 60_000},
    }});
    merge_faults(&fixture, faults).await;
    let (_, body) = fixture.imds(&format!("&msi_res_id={}", demo())).await;
    assert_eq!(body["expires_in"], "60");
    let (status, body) = fixture.imds(&format!("&msi_res_id={}", second())).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["error_description"], "Identity not found");
}

#[tokio::test]
async fn the_most_requests_at_a_time_and_per_second_are_counted_by_machine() {
    let fixture = start().await;
    let slow = json!({"imds": {"latency_ms": 200}, "imds_rate_limit": false});
    fixture.faults(slow).await;
    let mut burst = tokio::task::JoinSet::new();
    for source in ["127.0.0.7", "127.0.0.7", "127.0.0.7", "127.0.0.8"] {
        let from = client(&fixture.fake, Some(source));
        let url = format!(
            "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=r",
            fixture.fake.imds_url()
        );
        burst.spawn(async move {
            from.get(url).header("Metadata", "true").send().await.unwrap().status()
        });
    }
    assert!(burst.join_all().await.iter().all(StatusCode::is_success));
    let stats = fixture.ask(Method::GET, "/_fake/stats", Value::Null).await;
    let imds = &stats["imds"];
    assert_eq!((&imds["all"]["requests"], &imds["all"]["in_flight"]), (&json!(4), &json!(0)));
    let machine = format!("{}/127.0.0.7", seed::scale_set_id());
    let peak = &imds["machines"][&machine];
    assert_eq!(
        (&peak["max_in_flight"], &peak["max_per_second"]),
        (&json!(3), &json!(3)),
        "{stats}"
    );

    fixture.ask(Method::DELETE, "/_fake/stats", Value::Null).await;
    let stats = fixture.ask(Method::GET, "/_fake/stats", Value::Null).await;
    assert_eq!(stats["imds"]["all"]["requests"], 0);
}

#[tokio::test]
async fn requests_that_were_throttled_are_counted_as_such() {
    let fixture = start().await;
    fixture.faults(json!({"imds": {"latency_ms": 300}})).await;
    let mut burst = tokio::task::JoinSet::new();
    for _ in 0..7 {
        let from = client(&fixture.fake, Some("127.0.0.9"));
        let url = format!(
            "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=r",
            fixture.fake.imds_url()
        );
        burst.spawn(async move {
            from.get(url).header("Metadata", "true").send().await.unwrap().status().as_u16()
        });
    }
    let refused = burst.join_all().await.into_iter().filter(|status| *status == 429).count();
    let stats = fixture.ask(Method::GET, "/_fake/stats", Value::Null).await;
    assert_eq!((refused, &stats["imds"]["all"]["throttled"]), (2, &json!(2)));
    assert_eq!(stats["imds"]["all"]["max_in_flight"], 6, "the sixth was one too many");
}
