//! What a request says besides the token that it wants, and what the agent asks for in return:
//! refused tokens, correlation ids, the pod's own token, tokens of several tenants.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::{Duration, Instant};

use api::node_api::{AuxiliaryToken, NodeErrorCode};
use api::{Guid, TokenHash};
use common::node::{AssertionPolicy, CLIENT_ID};
use common::{FakeNode, GOOD, PATH, Setup, Sidecar};

const ID: &str = "6d0b6c5f-9f4b-4a6c-8f5b-3d0a7c1e2f30";

async fn pair() -> (FakeNode, Sidecar) {
    let node = FakeNode::start().await;
    let sidecar = Sidecar::start(&node, Setup::default()).await;
    (node, sidecar)
}

async fn refusing(sidecar: &Sidecar, hash: &str) -> String {
    let target = format!("{PATH}?{GOOD}&token_sha256_to_refresh={hash}");
    sidecar.get(&target).await.field("access_token")
}

#[tokio::test]
async fn t27_a_refused_token_is_replaced_once_and_only_if_it_is_the_one_that_is_cached() {
    let (node, sidecar) = pair().await;
    let first = TokenHash::of("secret-token-1").to_string();
    assert_eq!(
        sidecar.get(&format!("{PATH}?{GOOD}")).await.field("access_token"),
        "secret-token-1"
    );
    for other in [TokenHash::of("other").to_string(), String::new(), "x".to_owned()] {
        assert_eq!(refusing(&sidecar, &other).await, "secret-token-1", "{other}");
    }
    assert_eq!(node.calls(), 1);
    assert_eq!(refusing(&sidecar, &first.to_uppercase()).await, "secret-token-2");
    let asked = node.state.requests.lock().last().unwrap().token_sha256_to_refresh.clone();
    assert_eq!(asked, Some(first.clone()), "the agent is told which one");

    // Who has not heard of the new one gets it; it is not asked for again for each who refuses it.
    let second = TokenHash::of("secret-token-2").to_string();
    for hash in [&first, &second, &second] {
        assert_eq!(refusing(&sidecar, hash).await, "secret-token-2");
    }
    assert_eq!(node.calls(), 2);
}

#[tokio::test]
async fn t27_a_refused_token_that_the_agent_answers_a_cold_request_with_is_refused_too() {
    let (node, sidecar) = pair().await;
    let first = TokenHash::of("secret-token-1").to_string();
    assert_eq!(refusing(&sidecar, &first).await, "secret-token-2");
    assert_eq!(node.calls(), 2);
}

#[tokio::test]
async fn a_call_carries_the_application_s_id_to_the_agent_and_an_error_names_it() {
    let (node, sidecar) = pair().await;
    let header = format!("x-ms-client-request-id: {}", ID.to_uppercase());
    let target = format!("{PATH}?{GOOD}");
    assert_eq!(sidecar.get_with(&target, &header).await.status, 200);
    assert_eq!(*node.state.correlations.lock(), [ID]);

    node.fails(NodeErrorCode::Refused, "why");
    let found = sidecar.get_with(&format!("{target}/1"), &header).await;
    assert_eq!(found.description(), format!("The token was refused: why. Correlation ID: {ID}"));

    // Without a usable id there is one all the same, and both sides know it.
    let found = sidecar.get_with(&format!("{target}/2"), "x-ms-client-request-id: request-7").await;
    let description = found.description();
    let (_, id) = description.split_once("Correlation ID: ").unwrap();
    assert!(id.parse::<Guid>().is_ok(), "{id}");
    assert_eq!(node.state.correlations.lock().last().unwrap(), id);

    // A remembered failure is still that of the call that the agent knows.
    let again = sidecar.get_with(&format!("{target}/2"), &header).await;
    assert_eq!(again.description(), description);
}

#[tokio::test]
async fn a_wrong_client_id_is_told_at_once_and_by_name() {
    let (node, sidecar) = pair().await;
    node.fails(NodeErrorCode::IdentityNotFound, "the pod has other-identity");
    let before = Instant::now();
    let found = sidecar.get(&format!("{PATH}?{GOOD}&client_id={CLIENT_ID}")).await;
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    assert_eq!(found.status, 400);
    let description = found.description();
    let expected =
        format!("Identity not found: client id {CLIENT_ID} is not assigned to this pod.");
    assert!(description.starts_with(&expected), "{description}");
    assert!(!description.contains("other-identity"), "{description}");
    assert_eq!(node.calls(), 1);

    let found = sidecar.get(&format!("{PATH}?{GOOD}&client_id=default")).await;
    assert_eq!(found.description(), "Identity not found: client_id default is not a GUID");
    assert_eq!(node.calls(), 1);
}

fn assertions(node: &FakeNode) -> Vec<Option<String>> {
    let requests = node.state.requests.lock();
    let assertion = requests.iter().map(|request| request.assertion.as_ref());
    assertion.map(|assertion| assertion.map(|it| it.secret().to_owned())).collect()
}

#[tokio::test]
async fn the_pod_s_own_token_is_sent_when_the_agent_asks_for_it_and_read_each_time() {
    let (node, sidecar) = pair().await;
    let write = |text: &str| std::fs::write(sidecar.file("federated-token"), text).unwrap();
    write("pod-assertion-1\n");
    assert_eq!(sidecar.token("a").await.status, 200);
    assert_eq!(assertions(&node), [None], "nobody asked for it");

    *node.state.assertion.lock() = AssertionPolicy::Required;
    assert_eq!(sidecar.token("b").await.status, 200);
    write("pod-assertion-2");
    assert_eq!(sidecar.token("c").await.status, 200);
    let one = || Some("pod-assertion-1".to_owned());
    let two = || Some("pod-assertion-2".to_owned());
    assert_eq!(assertions(&node), [None, None, one(), None, two()]);

    *node.state.assertion.lock() = AssertionPolicy::Wanted;
    assert_eq!(sidecar.token("d").await.status, 200);
    *node.state.assertion.lock() = AssertionPolicy::NotNeeded;
    node.fails(NodeErrorCode::Refused, "of another identity");
    assert_eq!(sidecar.token("refused").await.status, 400);
    node.answers(Ok(86_400));
    assert_eq!(sidecar.token("e").await.status, 200);
    assert_eq!(sidecar.token("f").await.status, 200);
    let found = assertions(&node);
    assert_eq!(found[5..], [None, two(), two(), None], "until it has been taken, and not after");
}

#[tokio::test]
async fn a_pod_without_its_own_token_is_told_what_to_do() {
    let (node, sidecar) = pair().await;
    *node.state.assertion.lock() = AssertionPolicy::Required;
    let found = sidecar.token("r").await;
    assert_eq!(found.status, 400, "{}", found.body);
    for part in ["sidecar.federatedToken", "recreate the pod"] {
        assert!(found.description().contains(part), "{}", found.body);
    }
    assert_eq!(node.calls(), 1);

    // That the agent would like to have it breaks nothing.
    *node.state.assertion.lock() = AssertionPolicy::Wanted;
    for resource in ["s", "t"] {
        assert_eq!(sidecar.token(resource).await.status, 200);
    }
}

#[tokio::test]
async fn tokens_of_several_tenants_are_an_array() {
    let (node, sidecar) = pair().await;
    let other = AuxiliaryToken {
        access_token: "secret-token-other".to_owned(),
        expires_on: 1_795_415_462,
        not_before: 1_795_329_062,
    };
    *node.state.auxiliary.lock() = vec![other];
    for _ in 0..2 {
        let found = sidecar.token("r").await.json();
        let tokens = found.as_array().unwrap();
        assert_eq!(tokens.len(), 2);
        assert_eq!(tokens[0]["access_token"], "secret-token-1");
        assert_eq!(tokens[1]["access_token"], "secret-token-other");
        assert_eq!(tokens[0].as_object().unwrap().len(), 8);
    }
    assert_eq!(node.calls(), 1);
}
