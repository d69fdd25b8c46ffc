//! ETags of machines and scale sets: who names one writes only what it has seen.

use fake_azure::seed;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::fixture::{Fixture, demo, read, second, start};

async fn etag(fixture: &Fixture, token: &str) -> String {
    let (_, body) = fixture.get(token, &seed::scale_set_id()).await;
    body["etag"].as_str().expect("a host has an ETag").to_owned()
}

/// A PATCH that attaches one identity, with a condition.
async fn attach(fixture: &Fixture, token: &str, header: (&str, &str)) -> (StatusCode, Value) {
    let url = format!("{}{}?api-version=2024-07-01", fixture.fake.arm_url(), seed::scale_set_id());
    let body = json!({"identity": {
        "type": "UserAssigned", "userAssignedIdentities": {demo().as_str(): {}},
    }});
    let request = fixture.http.patch(url).bearer_auth(token).header(header.0, header.1);
    read(request.json(&body).send().await.unwrap()).await
}

#[tokio::test]
async fn a_write_with_an_old_etag_changes_nothing() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let old = etag(&fixture, &token).await;
    fixture.attach(&seed::scale_set_id(), &[second()]).await;
    let new = etag(&fixture, &token).await;
    assert_ne!(old, new, "somebody else wrote");

    let (status, body) = attach(&fixture, &token, ("if-match", &old)).await;
    assert_eq!(
        (status.as_u16(), &body["error"]["code"]),
        (412, &json!("PreconditionFailed")),
        "{body}"
    );
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains(&old) && message.contains(&new), "{message}");
    assert!(!fixture.host(&seed::scale_set_id()).await.to_string().contains("demo-identity"));
    assert_eq!(etag(&fixture, &token).await, new);

    let (status, body) = attach(&fixture, &token, ("if-match", &new)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["etag"], etag(&fixture, &token).await);
    assert_ne!(body["etag"], new.as_str());
}

#[tokio::test]
async fn any_etag_matches_the_star_and_an_existing_host_is_never_new() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    assert_eq!(attach(&fixture, &token, ("if-match", "*")).await.0, StatusCode::OK);
    let (status, _) = attach(&fixture, &token, ("if-none-match", "*")).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn every_write_has_an_etag_of_its_own() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let mut seen = vec![etag(&fixture, &token).await];
    for _ in 0..2 {
        let add = [(&demo(), json!({}))];
        fixture.patch(&token, &seed::scale_set_id(), "UserAssigned", &add).await;
        seen.push(etag(&fixture, &token).await);
    }
    seen.dedup();
    assert_eq!(seen.len(), 3, "{seen:?}");
}
