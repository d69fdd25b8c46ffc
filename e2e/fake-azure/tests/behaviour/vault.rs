//! Key vaults.

use std::net::SocketAddr;

use fake_azure::seed;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Fixture, demo, read, second, start};

const SCOPE: &str = "https://vault.azure.net/.default";

/// A client for which the vault `team` is here.
fn client(fixture: &Fixture) -> Client {
    let address = SocketAddr::new([127, 0, 0, 1].into(), fixture.fake.addresses().vault.port());
    Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(fixture.fake.ca_pem().as_bytes()).unwrap()])
        .resolve("team.vault.azure.net", address)
        .no_proxy()
        .build()
        .unwrap()
}

/// A vault `team` with a secret, which the demo application may read.
async fn team(fixture: &Fixture) {
    let vault = json!({
        "name": "team",
        "readers": [seed::DEMO_APP],
        "secrets": {"db": "not-a-secret-db"},
    });
    let answer = fixture.ask(Method::POST, "/_fake/vaults", vault).await;
    assert_eq!(answer["secrets"], json!({"db": "redacted"}));
}

async fn get(fixture: &Fixture, path: &str, token: Option<&str>) -> Response {
    let port = fixture.fake.addresses().vault.port();
    let mut request = client(fixture).get(format!("https://team.vault.azure.net:{port}{path}"));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.unwrap()
}

async fn app_token(fixture: &Fixture, scope: &str) -> String {
    let (_, body) = fixture.secret_token(seed::DEMO_APP, seed::DEMO_APP_SECRET, scope).await;
    body["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_reader_gets_the_secret_of_the_vault_that_the_host_names() {
    let fixture = start().await;
    team(&fixture).await;
    let token = app_token(&fixture, SCOPE).await;
    let (status, body) =
        read(get(&fixture, "/secrets/db?api-version=7.4", Some(&token)).await).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["value"], "not-a-secret-db");
    let id = body["id"].as_str().unwrap();
    assert!(id.starts_with("https://team.vault.azure.net/secrets/db/"), "{id}");
    assert_eq!(body["attributes"]["enabled"], true);

    let version = id.rsplit('/').next().unwrap();
    let path = format!("/secrets/DB/{version}?api-version=7.4");
    assert_eq!(get(&fixture, &path, Some(&token)).await.status(), StatusCode::OK);

    let state = fixture.ask(Method::GET, "/_fake/state", Value::Null).await.to_string();
    let journal = serde_json::to_string(&fixture.journal("vault").await).unwrap();
    for text in [state, journal] {
        assert!(!text.contains("not-a-secret-db") && !text.contains(&token), "{text}");
    }
}

#[tokio::test]
async fn who_brings_no_good_token_is_told_where_to_get_one() {
    let fixture = start().await;
    team(&fixture).await;
    let slash = app_token(&fixture, "https://vault.azure.net//.default").await;
    let arm = fixture.arm_token().await;
    fixture.faults(json!({"token_lifetime": {"application_seconds": 0}})).await;
    let expired = app_token(&fixture, SCOPE).await;
    for (token, words) in [
        (None, "AKV10000"),
        (Some("nonsense"), "BearerReadAccessTokenFailed"),
        (Some(slash.as_str()), "AKV10022"),
        (Some(arm.as_str()), "AKV10022"),
        (Some(expired.as_str()), "TokenExpired"),
    ] {
        let response = get(&fixture, "/secrets/db?api-version=7.4", token).await;
        let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
        let expected = format!(
            "Bearer authorization=\"{}/{}\", resource=\"https://vault.azure.net\"",
            fixture.fake.entra_url(),
            seed::TENANT
        );
        assert_eq!(challenge, expected);
        let (status, body) = read(response).await;
        assert_eq!((status.as_u16(), &body["error"]["code"]), (401, &json!("Unauthorized")));
        assert!(body["error"]["message"].as_str().unwrap().contains(words), "{body}");
    }
}

#[tokio::test]
async fn the_policy_decides_by_object_id_or_client_id() {
    let fixture = start().await;
    team(&fixture).await;
    fixture.attach(&seed::scale_set_id(), &[demo(), second()]).await;
    let identity_token = async |id| {
        let (_, body) = fixture.imds(&format!("&msi_res_id={id}")).await;
        body["access_token"].as_str().unwrap().to_owned()
    };
    let (reader, other) = (identity_token(demo()).await, identity_token(second()).await);
    let object_id = "30000000-0000-0000-0000-000000000001";
    let policy = json!({"name": "team", "readers": [object_id]});
    fixture.ask(Method::POST, "/_fake/vaults", policy).await;

    let path = "/secrets/db?api-version=7.4";
    assert_eq!(get(&fixture, path, Some(&reader)).await.status(), StatusCode::OK);
    let (status, body) = read(get(&fixture, path, Some(&other)).await).await;
    assert_eq!((status.as_u16(), &body["error"]["code"]), (403, &json!("Forbidden")));
    assert_eq!(body["error"]["innererror"]["code"], "AccessDenied");
    let message = body["error"]["message"].as_str().unwrap();
    let caller = "appid=20000000-0000-0000-0000-000000000002";
    assert!(message.contains(caller) && message.contains("key vault 'team;"), "{message}");
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let fixture = start().await;
    team(&fixture).await;
    let token = app_token(&fixture, SCOPE).await;
    for (path, status, code) in [
        ("/secrets/other?api-version=7.4", 404, "SecretNotFound"),
        ("/secrets/db/0?api-version=7.4", 404, "SecretNotFound"),
        ("/keys/db?api-version=7.4", 404, "ResourceNotFound"),
        ("/secrets/db", 400, "BadParameter"),
    ] {
        let (found, body) = read(get(&fixture, path, Some(&token)).await).await;
        assert_eq!((found.as_u16(), &body["error"]["code"]), (status, &json!(code)), "{path}");
    }
    fixture.ask(Method::DELETE, "/_fake/vaults?id=team", Value::Null).await;
    let gone = get(&fixture, "/secrets/db?api-version=7.4", Some(&token)).await;
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn by_address_it_is_the_vault_of_the_seed() {
    let fixture = start().await;
    fixture.attach(&seed::scale_set_id(), &[demo()]).await;
    let (_, body) = fixture.imds(&format!("&msi_res_id={}", demo())).await;
    let token = body["access_token"].as_str().unwrap();
    let url = format!("{}/secrets/demo-secret?api-version=7.4", fixture.fake.vault_url());
    let (status, body) = read(fixture.http.get(url).bearer_auth(token).send().await.unwrap()).await;
    assert_eq!((status, &body["value"]), (StatusCode::OK, &json!("not-a-secret-demo")));
}

#[tokio::test]
async fn vaults_can_fail_for_one_caller() {
    let fixture = start().await;
    team(&fixture).await;
    let token = app_token(&fixture, SCOPE).await;
    let rule = |client: &str| {
        let when = json!({"on": ["vault"], "client_id": client});
        json!({"rules": {"test": {"when": when, "then": {"failure_rate": 1.0, "status": 429}}}})
    };
    for (client, status) in [(seed::DEMO_APP, 429), (seed::CONTROLLER_APP, 200)] {
        fixture.faults(rule(client)).await;
        let response = get(&fixture, "/secrets/db?api-version=7.4", Some(&token)).await;
        assert_eq!(response.status().as_u16(), status);
    }
}
