//! Tokens from a fake agent through the whole sidecar: cached, shared, revoked, outlived.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::node_api::{AssignmentState, NodeErrorCode, WireSelector};
use common::node::{CLIENT_ID, new_ca};
use common::{FakeNode, GOOD, PATH, Setup, Sidecar};
use nmi_sidecar::args::NodeConfig;
use nmi_sidecar::metrics::UpstreamMetrics;
use nmi_sidecar::node::NodeClient;

/// Every request asks the agent whether the token is still good.
const ALWAYS_VERIFY: &str = "0";

async fn pair(verify_after: &'static str) -> (FakeNode, Sidecar) {
    let node = FakeNode::start().await;
    let sidecar = Sidecar::start(&node, Setup { verify_after, ..Setup::default() }).await;
    (node, sidecar)
}

#[tokio::test]
async fn a_token_is_answered_with_the_eight_fields_and_then_from_the_cache() {
    let (node, sidecar) = pair("1h").await;
    let first = sidecar.token("https://vault.azure.net/").await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert!(first.head.contains("cache-control: no-store"), "{}", first.head);
    let json = first.json();
    let names: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(names.len(), 8, "{names:?}");
    assert!(json.as_object().unwrap().values().all(serde_json::Value::is_string));
    assert_eq!(first.field("access_token"), "secret-token-1");
    assert_eq!(first.field("client_id"), CLIENT_ID);
    assert_eq!(first.field("resource"), "https://vault.azure.net/");
    assert!(["86399", "86400"].contains(&first.field("expires_in").as_str()));

    let second = sidecar.token("https://vault.azure.net/").await;
    assert_eq!(second.field("access_token"), "secret-token-1");
    assert_eq!(node.calls(), 1);
    assert_eq!(
        sidecar.token("https://vault.azure.net").await.field("access_token"),
        "secret-token-2"
    );
}

#[tokio::test]
async fn the_selector_reaches_the_agent_and_no_two_share_a_token() {
    let (node, sidecar) = pair("1h").await;
    let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/i";
    for selector in [
        format!("&client_id={CLIENT_ID}"),
        format!("&object_id={CLIENT_ID}"),
        format!("&resource_id={id}"),
        String::new(),
    ] {
        assert_eq!(
            sidecar.get(&format!("{PATH}?{GOOD}{selector}")).await.status,
            200,
            "{selector}"
        );
    }
    let upper = format!("{PATH}?{GOOD}&client_id={}", CLIENT_ID.to_uppercase());
    assert_eq!(sidecar.get(&upper).await.field("access_token"), "secret-token-1");
    let asked: Vec<_> =
        node.state.requests.lock().iter().map(|request| request.identity.clone()).collect();
    let expected = [
        Some(WireSelector::ClientId(CLIENT_ID.to_owned())),
        Some(WireSelector::ObjectId(CLIENT_ID.to_owned())),
        Some(WireSelector::ResourceId(id.to_owned())),
        None,
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn t22_a_herd_of_cold_requests_is_one_call() {
    let (node, sidecar) = pair("1h").await;
    *node.state.delay.lock() = Duration::from_millis(100);
    let sidecar = Arc::new(sidecar);
    let herd: Vec<_> = (0..200)
        .map(|_| {
            let sidecar = sidecar.clone();
            tokio::spawn(async move { sidecar.token("r").await.field("access_token") })
        })
        .collect();
    for request in herd {
        assert_eq!(request.await.unwrap(), "secret-token-1");
    }
    assert_eq!(node.calls(), 1);
}

#[tokio::test]
async fn a_removed_binding_stops_working_and_a_new_one_starts() {
    let (node, sidecar) = pair(ALWAYS_VERIFY).await;
    assert_eq!(sidecar.token("r").await.status, 200);
    node.fails(NodeErrorCode::IdentityNotFound, "gone");
    let gone = sidecar.token("r").await;
    assert_eq!(gone.status, 400);
    assert!(gone.description().starts_with("Identity not found"), "{}", gone.body);
    node.answers(Ok(86_400));
    loop {
        if sidecar.token("r").await.status == 200 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn failures_have_their_own_answers_and_none_is_retried_in_vain() {
    let (node, sidecar) = pair("1h").await;
    let rows = [
        (NodeErrorCode::IdentityNotFound, "Identity not found. Correlation ID: "),
        (NodeErrorCode::AmbiguousIdentity, "Multiple user assigned identities exist, please"),
        (NodeErrorCode::Refused, "The token was refused: why. Correlation ID: "),
    ];
    for (number, (code, start)) in rows.into_iter().enumerate() {
        node.fails(code, "why");
        let found = sidecar.token(&format!("r{number}")).await;
        assert_eq!(found.status, 400, "{code:?}");
        assert!(found.description().starts_with(start), "{}", found.body);
        assert_eq!(node.calls(), number + 1);
    }
}

#[tokio::test]
async fn an_identity_that_is_being_attached_is_waited_for() {
    let (node, sidecar) = pair("1h").await;
    node.state.assignment.send_replace(AssignmentState::Pending);
    node.fails(NodeErrorCode::NotAssigned, "being attached");
    let state = node.state.clone();
    let attached = tokio::spawn(async move {
        while state.requests.lock().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        *state.answer.lock() = Ok(86_400);
    });
    assert_eq!(sidecar.token("r").await.status, 200);
    attached.await.unwrap();
}

#[tokio::test]
async fn a_missing_binding_is_waited_for_once_and_seen_when_it_appears() {
    let (node, sidecar) = pair("1h").await;
    node.state.assignment.send_replace(AssignmentState::None);
    node.fails(NodeErrorCode::NotAssigned, "no binding");
    assert_eq!(sidecar.token("r").await.status, 400);
    let before = tokio::time::Instant::now();
    for number in 0..5 {
        assert_eq!(sidecar.token(&format!("r{number}")).await.status, 400);
    }
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    *node.state.answer.lock() = Ok(86_400);
    assert_eq!(sidecar.token("another").await.status, 200);
}

#[tokio::test]
async fn a_blip_of_the_agent_is_not_noticed() {
    let (node, sidecar) = pair("1h").await;
    node.fails(NodeErrorCode::Unavailable, "Entra is down");
    let state = node.state.clone();
    let recovered = tokio::spawn(async move {
        while state.requests.lock().len() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        *state.answer.lock() = Ok(86_400);
    });
    assert_eq!(sidecar.token("r").await.status, 200);
    recovered.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cold_request_gives_up_in_time_with_a_reason_and_asks_for_a_retry() {
    let node = FakeNode::down();
    let sidecar = Sidecar::start(&node, Setup::default()).await;
    let before = tokio::time::Instant::now();
    let found = sidecar.token("r").await;
    assert!(before.elapsed() <= Duration::from_secs(26), "{:?}", before.elapsed());
    assert_eq!(found.status, 503, "{}", found.body);
    assert!(found.head.contains("retry-after: 1"), "{}", found.head);
    assert!(found.description().contains("cannot ask the node's agent"), "{}", found.body);
}

#[tokio::test]
async fn a_warm_token_outlives_the_agent_and_a_restart_is_not_noticed() {
    let (mut node, sidecar) = pair(ALWAYS_VERIFY).await;
    assert_eq!(sidecar.token("r").await.field("access_token"), "secret-token-1");
    node.stop().await;
    for _ in 0..3 {
        assert_eq!(sidecar.token("r").await.field("access_token"), "secret-token-1");
    }
    node.restart(None).await;
    assert_eq!(sidecar.token("other").await.field("access_token"), "secret-token-2");
}

#[tokio::test]
async fn connections_to_the_agent_are_kept_and_replaced_when_they_have_ended() {
    let (mut node, sidecar) = pair(ALWAYS_VERIFY).await;
    for _ in 0..5 {
        assert_eq!(sidecar.token("r").await.status, 200);
    }
    // One of the start-up question, at most one of the token calls.
    let connections = node.state.connections.load(Ordering::SeqCst);
    assert!(connections <= 2, "{connections}");
    node.restart(None).await;
    assert_eq!(sidecar.token("r").await.field("access_token"), "secret-token-6");
}

#[tokio::test]
async fn the_ca_file_is_read_again_when_the_ca_rotates() {
    let (mut node, sidecar) = pair(ALWAYS_VERIFY).await;
    assert_eq!(sidecar.token("r").await.status, 200);
    node.restart(Some(new_ca())).await;
    std::fs::write(sidecar.file("ca.crt"), node.ca_pem()).unwrap();
    assert_eq!(sidecar.token("other").await.field("access_token"), "secret-token-2");
}

#[tokio::test]
async fn t23_each_call_carries_the_present_token_of_the_pod() {
    let (node, sidecar) = pair(ALWAYS_VERIFY).await;
    sidecar.token("r").await;
    std::fs::write(sidecar.file("token"), "pod-token-2").unwrap();
    sidecar.token("r").await;
    let bearers = node.state.bearers.lock().clone();
    assert_eq!(bearers.first().unwrap(), "Bearer pod-token-1");
    assert_eq!(bearers.last().unwrap(), "Bearer pod-token-2");
}

fn client(node: &FakeNode, folder: &tempfile::TempDir, name: &str) -> NodeClient {
    runtime::crypto::install_provider();
    std::fs::write(folder.path().join("token"), "pod-token-1").unwrap();
    let config = NodeConfig {
        address: node.address,
        server_name: name.to_owned().try_into().unwrap(),
        token_file: folder.path().join("token"),
        ca_file: folder.path().join("ca.crt"),
    };
    NodeClient::new(config, UpstreamMetrics::default())
}

async fn why(client: &NodeClient) -> String {
    client.assignment(Duration::ZERO).await.unwrap_err().to_string()
}

#[tokio::test]
async fn an_agent_that_cannot_prove_who_it_is_never_sees_the_pod_s_token() {
    let node = FakeNode::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");

    let unknown = client(&node, &folder, common::SERVER_NAME);
    assert!(why(&unknown).await.contains("cannot read the CA bundle"));
    std::fs::write(&file, "").unwrap();
    assert!(why(&unknown).await.contains("holds no PEM certificate"));
    std::fs::write(&file, new_ca().pem()).unwrap();
    assert!(why(&unknown).await.contains("certificate"), "{}", why(&unknown).await);

    std::fs::write(&file, node.ca_pem()).unwrap();
    assert!(why(&client(&node, &folder, "other.test.svc")).await.contains("certificate"));
    assert!(node.state.bearers.lock().is_empty());
    assert!(unknown.assignment(Duration::ZERO).await.is_ok(), "the right CA is found at last");
}

#[tokio::test]
async fn a_missing_or_broken_token_of_the_pod_is_told_as_such() {
    let mut node = FakeNode::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.crt"), node.ca_pem()).unwrap();
    let client = client(&node, &folder, common::SERVER_NAME);
    for broken in ["", " \n", "a\nb"] {
        std::fs::write(folder.path().join("token"), broken).unwrap();
        assert!(why(&client).await.contains("is malformed"), "{broken:?}");
    }
    std::fs::remove_file(folder.path().join("token")).unwrap();
    assert!(why(&client).await.contains("cannot read the service account token"));
    std::fs::write(folder.path().join("token"), "good").unwrap();
    node.stop().await;
    assert!(why(&client).await.contains("cannot connect"), "{}", why(&client).await);
}
