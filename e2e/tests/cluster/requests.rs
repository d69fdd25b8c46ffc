//! What a request or a pod can ask for beyond a token: another token, warm ones, those of further
//! tenants, a correlation id.

use e2e::claims;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::env::env;
use crate::host;
use crate::namespace::{Answer, Namespace, curl_for, fresh, parse};

fn text(answer: &Answer) -> &str {
    let Answer::Http(200, body) = answer else { panic!("no token: {answer:?}") };
    body["access_token"].as_str().unwrap()
}

fn sha256(token: &str) -> String {
    Sha256::digest(token).iter().map(|byte| format!("{byte:02X}")).collect()
}

#[tokio::test]
async fn a_token_that_does_not_serve_is_replaced_once() {
    let space = Namespace::new("refresh").await;
    let identity = env().await.azure.identity("refresh", 84).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    let first = space.token("app", "").await;
    let refresh = |token: &str| format!("&token_sha256_to_refresh={}", sha256(token));

    let other = space.token("app", &refresh("another")).await;
    assert_eq!(text(&other), text(&first), "nobody has the token of this hash");
    let second = space.token("app", &refresh(text(&first))).await;
    second.is_of(&identity);
    assert_ne!(text(&second), text(&first));
    let third = space.token("app", &refresh(text(&second))).await;
    assert_eq!(text(&third), text(&second), "not twice within seconds");
    assert_eq!(text(&space.token("app", "").await), text(&second));
    space.done().await;
}

#[tokio::test]
async fn an_application_starts_with_the_tokens_that_its_pod_names() {
    let space = Namespace::new("warm-up").await;
    let azure = &env().await.azure;
    let identity = azure.identity("warm-up", 85).await;
    space.bind(&identity, "app").await;
    let resources = [fresh("warm-one"), fresh("warm-two")];
    let mut pod = space.pod("app", "app");
    pod["metadata"]["annotations"] = json!({"aadpodidentity.k8s.io/warm-up": resources.join(",")});
    space.start(&pod).await;
    let asked: Vec<Value> = azure.journal("imds", &identity).await;
    for resource in &resources {
        let found = asked.iter().any(|entry| entry["resource"] == resource.as_str());
        assert!(found, "{resource} before the application asked: {asked:?}");
    }
    azure.imds_fault(&identity, json!({"failure_rate": 1.0})).await;
    for resource in &resources {
        assert_eq!(space.token_for("app", resource).await.claims()["aud"], resource.as_str());
    }
    azure.imds_fault(&identity, Value::Null).await;

    let mut pod = space.pod("bad", "app");
    pod["metadata"]["annotations"] = json!({"aadpodidentity.k8s.io/warm-up": "two words"});
    let error = space.apply(&pod).await.unwrap_err();
    assert!(error.contains("warm-up") && error.contains("two words"), "{error}");
    space.done().await;
}

#[tokio::test]
async fn an_application_of_several_tenants_gets_a_token_of_each() {
    const CLIENT: &str = "40000000-0000-0000-0000-0000000000a1";
    const HOME: &str = "10000000-0000-0000-0000-000000000001";
    const FURTHER: [&str; 2] =
        ["10000000-0000-0000-0000-0000000000a2", "10000000-0000-0000-0000-0000000000a3"];
    let azure = &env().await.azure;
    let mut guest = json!({});
    for tenant in FURTHER {
        azure.post("tenants", &json!({"id": tenant})).await;
        guest[tenant] = json!(tenant.replace("10000000", "50000000"));
    }
    let secret = "not-a-secret-tenants";
    let app = json!({"client_id": CLIENT, "secrets": [secret], "guest_tenants": guest});
    azure.post("apps", &app).await;

    let space = Namespace::new("tenants").await;
    let object = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": space.name, "name": "app"},
        "stringData": {"clientSecret": secret},
    });
    space.apply(&object).await.unwrap();
    let spec = json!({
        "type": 1,
        "tenantID": HOME,
        "auxiliaryTenantIDs": FURTHER,
        "clientID": CLIENT,
        "clientPassword": {"name": "app"},
    });
    space.apply(&space.object("AzureIdentity", "app", &spec)).await.unwrap();
    space.bind_name("app", "app").await;
    space.start(&space.pod("app", "app")).await;

    let answer = space.token("app", "").await;
    let Answer::Http(200, Value::Array(tokens)) = &answer else { panic!("no list: {answer:?}") };
    let tenants: Vec<Value> = tokens
        .iter()
        .map(|token| claims::decode(token["access_token"].as_str().unwrap()).unwrap())
        .map(|claims| claims["tid"].clone())
        .collect();
    assert_eq!(tenants, [HOME, FURTHER[0], FURTHER[1]], "the home tenant first");

    let Answer::Http(200, body) = host::ask_for(&space, "app").await else {
        panic!("no token on the node")
    };
    assert_eq!(Answer::Http(200, body["token"].clone()).claims()["tid"], HOME);
    space.done().await;
}

#[tokio::test]
async fn a_request_has_one_correlation_id_all_the_way() {
    const ID: &str = "0a0b0c0d-0000-4000-8000-000000000086";
    let space = Namespace::new("correlation").await;
    let azure = &env().await.azure;
    let identity = azure.identity("correlation", 86).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    let header = format!("-H x-ms-client-request-id:{ID} -H Metadata:true");
    let command = curl_for(&fresh("named"), "").replace("-H Metadata:true", &header);
    parse(&space.exec("app", &command).await.unwrap()).claims();
    let asked = azure.journal("imds", &identity).await;
    assert!(asked.iter().any(|entry| entry["correlation_id"] == ID), "{asked:?}");

    // Who names none gets one.
    let resource = fresh("unnamed");
    space.token_for("app", &resource).await.claims();
    let asked = azure.journal("imds", &identity).await;
    let last = asked.last().unwrap();
    assert_eq!(last["resource"], resource.as_str());
    let id = last["correlation_id"].as_str().unwrap_or_default();
    assert!(id.len() == 36 && id != ID, "{last}");
    space.done().await;
}
