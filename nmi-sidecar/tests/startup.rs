//! Start and end of the process: the gate, readiness, draining.

mod common;

use std::time::{Duration, Instant};

use api::node_api::{AssignmentState, NodeErrorCode};
use common::{FakeNode, GOOD, HEADERS, PATH, Setup, Sidecar, read_answer};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn the_startup_probe_is_held_until_the_identity_is_assigned() {
    let node = FakeNode::start().await;
    node.state.assignment.send_replace(AssignmentState::Pending);
    let sidecar = Sidecar::start(&node, Setup { gate: "60s", ..Setup::default() }).await;
    let before = Instant::now();
    let (probe, ()) = tokio::join!(sidecar.admin("/startupz"), async {
        // Not before the sidecar asks.
        while node.state.bearers.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.state.assignment.send_replace(AssignmentState::Assigned);
    });
    assert_eq!(probe.status, 200, "{}", probe.body);
    assert!(before.elapsed() < Duration::from_secs(7), "{:?}", before.elapsed());
}

#[tokio::test]
async fn the_application_starts_when_the_tokens_are_warm_and_then_asks_nobody() {
    let node = FakeNode::start().await;
    node.fails(NodeErrorCode::Unavailable, "Entra is down");
    let setup = Setup { gate: "60s", warm_up: &["a", "b/"], ..Setup::default() };
    let sidecar = Sidecar::start(&node, setup).await;
    let (probe, ()) = tokio::join!(sidecar.admin("/startupz"), async {
        // Not before the sidecar asks for both.
        while node.calls() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.answers(Ok(86_400));
    });
    assert_eq!(probe.status, 200, "{}", probe.body);
    let calls = node.calls();
    for resource in ["a", "b/"] {
        assert_eq!(sidecar.token(resource).await.status, 200);
    }
    assert_eq!(node.calls(), calls);
    assert!(node.state.requests.lock().iter().all(|request| request.identity.is_none()));
}

#[tokio::test]
async fn the_probe_says_which_token_is_missing_and_a_refusal_is_asked_about_again() {
    let node = FakeNode::start().await;
    node.fails(NodeErrorCode::Refused, "AADSTS500011: unknown resource");
    let setup = Setup { gate: "60s", warm_up: &["x"], ..Setup::default() };
    let sidecar = Sidecar::start(&node, setup).await;
    let probe = sidecar.admin("/startupz").await;
    assert_eq!(probe.status, 503);
    assert_eq!(probe.body, "waiting: no token for x: AADSTS500011: unknown resource\n");
}

#[tokio::test]
async fn without_a_default_identity_nothing_is_warmed_up_and_nobody_waits() {
    let node = FakeNode::start().await;
    node.fails(NodeErrorCode::AmbiguousIdentity, "two identities");
    let setup = Setup { gate: "60s", warm_up: &["x"], ..Setup::default() };
    let sidecar = Sidecar::start(&node, setup).await;
    let before = Instant::now();
    assert_eq!(sidecar.admin("/startupz").await.status, 200);
    assert!(before.elapsed() < Duration::from_secs(7), "{:?}", before.elapsed());
}

#[tokio::test]
async fn without_a_gate_tokens_are_warmed_up_behind_the_application() {
    let node = FakeNode::start().await;
    let setup = Setup { gate: "0", warm_up: &["x"], ..Setup::default() };
    let sidecar = Sidecar::start(&node, setup).await;
    assert_eq!(sidecar.admin("/startupz").await.status, 200);
    while node.calls() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(sidecar.token("x").await.field("access_token"), "secret-token-1");
    assert_eq!(node.calls(), 1);
}

#[tokio::test]
async fn without_a_gate_the_the_application_starts_at_once() {
    let node = FakeNode::down();
    let sidecar = Sidecar::start(&node, Setup { gate: "0", ..Setup::default() }).await;
    assert_eq!(sidecar.admin("/startupz").await.status, 200);
    let ready = sidecar.admin("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body, "waiting for: nmi-host\n");
    assert_eq!(sidecar.admin("/livez").await.status, 200);
}

#[tokio::test]
async fn the_sidecar_is_ready_when_the_agent_has_answered_once() {
    let node = FakeNode::start().await;
    let sidecar = Sidecar::start(&node, Setup::default()).await;
    while sidecar.admin("/readyz").await.status != 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn metrics_count_requests_calls_and_the_cache() {
    let node = FakeNode::start().await;
    let sidecar = Sidecar::start(&node, Setup::default()).await;
    for _ in 0..3 {
        sidecar.token("r").await;
    }
    sidecar.get("/metadata/instance").await;
    let text = sidecar.admin("/metrics").await.body;
    for line in [
        "podidentity_sidecar_requests_total{outcome=\"token\"} 3",
        "podidentity_sidecar_requests_total{outcome=\"not_found\"} 1",
        "podidentity_sidecar_request_duration_seconds_count 4",
        "podidentity_sidecar_cache_hits_total 2",
        "podidentity_sidecar_cache_misses_total 1",
        "podidentity_sidecar_cache_keys 1",
        "podidentity_sidecar_upstream_calls_total{call=\"token\",result=\"ok\"} 1",
        "podidentity_sidecar_upstream_duration_seconds_count 1",
        "podidentity_sidecar_cache_retries_total 0",
        "podidentity_sidecar_token_seconds_to_expiry 86",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("secret-token"), "{text}");
}

#[tokio::test]
async fn an_answer_that_is_on_its_way_survives_shutdown() {
    let node = FakeNode::start().await;
    *node.state.delay.lock() = Duration::from_millis(300);
    let sidecar = Sidecar::start(&node, Setup::default()).await;
    let mut stream = sidecar.connect().await;
    let request = format!("GET {PATH}?{GOOD} HTTP/1.1\r\n{HEADERS}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    while node.calls() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sidecar.stop();
    assert_eq!(read_answer(&mut stream).await.status, 200);
    // Others are still answered, as long as anybody is connected.
    stream.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.status, 200);
    drop(stream);
    // Nobody is left: the listener goes away.
    while tokio::net::TcpStream::connect(sidecar.imds).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
