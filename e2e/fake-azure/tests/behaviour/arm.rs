//! The resource manager.

use std::time::Duration;

use fake_azure::{ArmId, seed};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Fixture, demo, read, second, start};

fn nodes() -> ArmId {
    seed::scale_set_id()
}

fn attached(body: &Value) -> Vec<String> {
    let map = body["identity"]["userAssignedIdentities"].as_object().unwrap();
    let mut names: Vec<_> =
        map.keys().map(|id| id.rsplit('/').next().unwrap().to_owned()).collect();
    names.sort();
    names
}

async fn code(response: Response) -> (u16, String, String) {
    let (status, body) = read(response).await;
    let text = |field: &str| body["error"][field].as_str().unwrap_or_default().to_owned();
    (status.as_u16(), text("code"), text("message"))
}

#[tokio::test]
async fn callers_need_a_token_for_the_resource_manager() {
    let fixture = start().await;
    let (_, vault) = fixture
        .secret_token(seed::DEMO_APP, seed::DEMO_APP_SECRET, "https://vault.azure.net/.default")
        .await;
    let url = format!("{}{}?api-version=2024-07-01", fixture.fake.arm_url(), nodes());
    for (token, expected) in [
        (None, "AuthenticationFailed"),
        (Some("nonsense"), "InvalidAuthenticationToken"),
        (vault["access_token"].as_str(), "InvalidAuthenticationTokenAudience"),
    ] {
        let mut request = fixture.http.get(&url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        assert!(response.headers().contains_key("www-authenticate"));
        assert!(response.headers().contains_key("x-ms-request-id"));
        let (status, found, _) = code(response).await;
        assert_eq!((status, found.as_str()), (401, expected));
    }
    fixture.faults(json!({"token_lifetime": {"application_seconds": 0}})).await;
    let (status, body) = fixture.get(&fixture.arm_token().await, &nodes()).await;
    assert_eq!(
        (status.as_u16(), &body["error"]["code"]),
        (401, &json!("ExpiredAuthenticationToken"))
    );
}

#[tokio::test]
async fn a_managed_identity_may_call_too_and_paths_have_no_case() {
    let fixture = start().await;
    let url = format!(
        "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/",
        fixture.fake.imds_url()
    );
    let request = fixture.http.get(url).header("Metadata", "true");
    let (_, token) = read(request.send().await.unwrap()).await;
    let token = token["access_token"].as_str().unwrap();
    let upper: ArmId = nodes().as_str().to_ascii_uppercase().parse().unwrap();
    let (status, body) = fixture.get(token, &upper).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["type"], "Microsoft.Compute/virtualMachineScaleSets");
    assert_eq!(body["properties"]["provisioningState"], "Succeeded");
    assert_eq!(body["identity"]["type"], "UserAssigned");
    assert_eq!(attached(&body), ["nodes-agentpool"]);
    let ids = body["identity"]["userAssignedIdentities"].as_object().unwrap().values().next();
    assert!(ids.unwrap()["principalId"].is_string() && ids.unwrap()["clientId"].is_string());

    let (_, body) = fixture.get(token, &seed::machine_id()).await;
    assert_eq!(body["identity"]["type"], "SystemAssigned");
    assert!(
        body["identity"]["principalId"].is_string() && body["identity"]["tenantId"].is_string()
    );
    let (_, body) = fixture.get(token, &demo()).await;
    assert_eq!(body["properties"]["tenantId"], seed::TENANT);
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_at_its_own_level() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let nodes = nodes().to_string();
    for (path, expected) in [
        (nodes.replace("/nodes", "/ghost"), "ResourceNotFound"),
        (nodes.replace("MC_demo", "ghost"), "ResourceGroupNotFound"),
        (nodes.replace(seed::SUBSCRIPTION, "ghost"), "SubscriptionNotFound"),
        (seed::identity_id("ghost").to_string(), "ResourceNotFound"),
        ("/subscriptions/x".to_owned(), "InvalidResourceType"),
    ] {
        let (status, found, _) =
            code(fixture.arm(&token, Method::GET, &path, &Value::Null).await).await;
        assert_eq!((status, found.as_str()), (404, expected), "{path}");
    }
    let url = format!("{}{nodes}", fixture.fake.arm_url());
    let response = fixture.http.get(url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(code(response).await.1, "MissingApiVersionParameter");
    let (status, ..) = code(fixture.arm(&token, Method::PUT, &nodes, &json!({})).await).await;
    assert_eq!(status, 405, "a full replace is not how identities are changed");
}

#[tokio::test]
async fn a_patch_merges_and_foreign_identities_stay() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let add = [(&demo(), json!({})), (&second(), json!({}))];
    let (status, body) = read(fixture.patch(&token, &nodes(), "UserAssigned", &add).await).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(attached(&body), ["demo-identity", "nodes-agentpool", "second-identity"]);

    let lower: ArmId = demo().as_str().to_ascii_lowercase().parse().unwrap();
    let remove = [(&lower, Value::Null)];
    let (_, body) = read(fixture.patch(&token, &nodes(), "UserAssigned", &remove).await).await;
    assert_eq!(attached(&body), ["nodes-agentpool", "second-identity"]);

    let patches: Vec<_> =
        fixture.journal("arm").await.into_iter().filter(|e| e.method == "PATCH").collect();
    assert_eq!(patches[0].attached, [demo(), second()]);
    assert_eq!((patches[1].attached.len(), &patches[1].detached[..]), (0, &[demo()][..]));
    assert_eq!(patches[1].host, Some(nodes()));
    assert!(patches[0].request_id.is_some() && patches[0].time_ms <= patches[1].time_ms);
}

#[tokio::test]
async fn the_type_decides_about_the_hosts_own_identity() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let vm3 = seed::machine_id();
    let own = fixture.host(&vm3).await["system_assigned"].clone();
    let add = [(&demo(), json!({}))];
    let (_, body) =
        read(fixture.patch(&token, &vm3, "SystemAssigned, UserAssigned", &add).await).await;
    assert_eq!(body["identity"]["type"], "SystemAssigned, UserAssigned");
    assert_eq!(fixture.host(&vm3).await["system_assigned"], own, "it is the same one");

    let (_, body) = read(fixture.patch(&token, &vm3, "UserAssigned", &[]).await).await;
    assert_eq!(body["identity"]["type"], "UserAssigned");
    assert!(body["identity"].get("principalId").is_none(), "a careless writer switches it off");

    let (_, body) = read(fixture.patch(&token, &vm3, "None", &[]).await).await;
    assert!(body.get("identity").is_none(), "{body}");
}

#[tokio::test]
async fn identities_that_cannot_be_attached_are_named_as_azure_names_them() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let ghost = seed::identity_id("ghost");
    let add = [(&ghost, json!({})), (&demo(), json!({}))];
    let (status, found, message) =
        code(fixture.patch(&token, &nodes(), "UserAssigned", &add).await).await;
    assert_eq!((status, found.as_str()), (400, "FailedIdentityOperation"));
    assert!(message.contains(&format!("Resource '{ghost}' was not found")), "{message}");

    fixture
        .faults(json!({"identities": {
            demo().as_str(): {"attach": "forbidden"}, second().as_str(): {"attach": "forbidden"},
        }}))
        .await;
    let add = [(&demo(), json!({})), (&second(), json!({}))];
    let (status, found, message) =
        code(fixture.patch(&token, &nodes(), "UserAssigned", &add).await).await;
    assert_eq!((status, found.as_str()), (403, "LinkedAuthorizationFailed"));
    assert!(
        message.contains(&format!("on the linked scope(s) '{},{}' or", demo(), second())),
        "{message}"
    );
    assert!(message.contains(&format!("The client '{}'", seed::CONTROLLER_APP)), "{message}");

    let (_, body) = fixture.get(&token, &nodes()).await;
    assert_eq!(attached(&body), ["nodes-agentpool"], "a refused write changes nothing");
}

#[tokio::test]
async fn a_host_that_is_being_deleted_takes_no_write() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let body = json!({"id": nodes(), "provisioning_state": "Deleting"});
    fixture.ask(Method::POST, "/_fake/hosts", body).await;
    let add = [(&demo(), json!({}))];
    let (status, found, _) =
        code(fixture.patch(&token, &nodes(), "UserAssigned", &add).await).await;
    assert_eq!((status, found.as_str()), (409, "OperationNotAllowed"));
}

#[tokio::test]
async fn one_write_per_host_at_a_time_and_other_hosts_go_on() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let slow = json!({"operations": {"async": true, "duration_ms": 3_600_000}});
    fixture.faults(slow).await;
    let add = [(&demo(), json!({}))];
    let first = fixture.patch(&token, &nodes(), "UserAssigned", &add).await;
    assert_eq!(first.status(), StatusCode::ACCEPTED);
    let (status, found, _) =
        code(fixture.patch(&token, &nodes(), "UserAssigned", &add).await).await;
    assert_eq!((status, found.as_str()), (409, "Conflict"));
    let (_, body) = fixture.get(&token, &nodes()).await;
    assert_eq!(body["properties"]["provisioningState"], "Updating");
    let other =
        fixture.patch(&token, &seed::machine_id(), "SystemAssigned,UserAssigned", &add).await;
    assert_eq!(other.status(), StatusCode::ACCEPTED);
}

/// Polls until the operation is not in progress any more.
async fn finished(fixture: &Fixture, token: &str, url: &str) -> Value {
    let wait = async {
        loop {
            let (status, body) =
                read(fixture.http.get(url).bearer_auth(token).send().await.unwrap()).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            if body["status"] != "InProgress" {
                return body;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the operation ends")
}

#[tokio::test]
async fn an_asynchronous_write_takes_effect_when_its_operation_succeeds() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let faults = |retry: Value| json!({"operations": {"async": true, "duration_ms": 50, "retry_after_seconds": retry}});
    fixture.faults(faults(json!(2))).await;
    let add = [(&demo(), json!({}))];
    let response = fixture.patch(&token, &nodes(), "UserAssigned", &add).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(response.headers()["retry-after"], "2");
    let url = response.headers()["azure-asyncoperation"].to_str().unwrap().to_owned();
    let (_, body) = read(response).await;
    assert_eq!(body["properties"]["provisioningState"], "Updating");

    let operation = finished(&fixture, &token, &url).await;
    assert_eq!(operation["status"], "Succeeded");
    let (_, body) = fixture.get(&token, &nodes()).await;
    assert_eq!(attached(&body), ["demo-identity", "nodes-agentpool"]);
    let journal = fixture.journal("operation").await;
    assert_eq!(journal[0].attached, [demo()]);

    let unknown = url.replace(operation["name"].as_str().unwrap(), seed::TENANT);
    let response = fixture.http.get(unknown).bearer_auth(&token).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_operation_can_fail_after_it_was_accepted() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let faults = json!({
        "operations": {"async": true, "status": 200},
        "identities": {demo().as_str(): {"attach": "operation_fails"}},
    });
    fixture.faults(faults).await;
    let add = [(&demo(), json!({}))];
    let response = fixture.patch(&token, &nodes(), "UserAssigned", &add).await;
    assert_eq!(response.status(), StatusCode::OK, "some providers answer 200");
    let url = response.headers()["azure-asyncoperation"].to_str().unwrap().to_owned();
    let operation = finished(&fixture, &token, &url).await;
    assert_eq!(operation["status"], "Failed");
    assert!(operation["error"]["code"].is_string());
    let (_, body) = fixture.get(&token, &nodes()).await;
    assert_eq!(attached(&body), ["nodes-agentpool"]);
    assert_eq!(body["properties"]["provisioningState"], "Failed");
}

#[tokio::test]
async fn throttling_of_one_host_says_when_to_come_back() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    let throttle =
        json!({"on": ["arm_patch"], "status": 429, "retry_after_seconds": 9, "fail_next": 1});
    fixture.faults(json!({"hosts": {nodes().as_str(): throttle}})).await;
    let add = [(&demo(), json!({}))];
    let response = fixture.patch(&token, &nodes(), "UserAssigned", &add).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"9".parse().unwrap())
    );
    assert_eq!(fixture.get(&token, &nodes()).await.0, StatusCode::OK, "reads go on");
    let response = fixture.patch(&token, &nodes(), "UserAssigned", &add).await;
    assert_eq!(response.status(), StatusCode::OK, "and the next write");
}

#[tokio::test]
async fn a_write_goes_on_when_its_caller_goes_away() {
    let fixture = start().await;
    let token = fixture.arm_token().await;
    fixture.faults(json!({"operations": {"duration_ms": 3000}})).await;
    let body = json!({"identity": {"type": "UserAssigned", "userAssignedIdentities": {demo().as_str(): {}}}});
    let url = format!("{}{}?api-version=2024-07-01", fixture.fake.arm_url(), nodes());
    let request = fixture.http.patch(url).bearer_auth(&token).json(&body);
    // Shorter than the operation, long enough to be accepted.
    let gone = request.timeout(Duration::from_secs(1)).send().await;
    assert!(gone.unwrap_err().is_timeout());
    let ended = fixture.journal_of("operation", 1).await;
    assert_eq!((ended[0].status, &ended[0].attached[..]), (200, &[demo()][..]));
}
