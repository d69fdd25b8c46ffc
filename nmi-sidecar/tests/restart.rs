//! The agent restarts, hangs up, is away for seconds: no application gets to see it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::node_api::NodeErrorCode;
use common::{FakeNode, GOOD, HEADERS, PATH, Setup, Sidecar, read_answer};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, advance, pause, resume, sleep};

const ALWAYS_VERIFY: &str = "0";

async fn pair(verify_after: &'static str) -> (FakeNode, Sidecar) {
    let node = FakeNode::start().await;
    let sidecar = Sidecar::start(&node, Setup { verify_after, ..Setup::default() }).await;
    // The connection of the start-up question is there to be kept.
    while sidecar.admin("/readyz").await.status != 200 {
        sleep(Duration::from_millis(5)).await;
    }
    (node, sidecar)
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_of_a_call_is_not_noticed() {
    for hang_ups in [1, 2, 3] {
        let (node, sidecar) = pair("1h").await;
        node.state.hang_ups.store(hang_ups, Ordering::SeqCst);
        assert_eq!(sidecar.token("r").await.status, 200, "{hang_ups}");
        assert_eq!(node.state.hang_ups.load(Ordering::SeqCst), 0);
        assert_eq!(node.calls(), 1);
    }
}

#[tokio::test]
async fn a_restart_in_the_middle_of_a_call_is_not_noticed() {
    let (mut node, sidecar) = pair("1h").await;
    *node.state.delay.lock() = Duration::from_secs(3600);
    let sidecar = Arc::new(sidecar);
    let asking = tokio::spawn({
        let sidecar = sidecar.clone();
        async move { sidecar.token("r").await.status }
    });
    while node.calls() == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    *node.state.delay.lock() = Duration::ZERO;
    node.restart(None).await;
    assert_eq!(asking.await.unwrap(), 200);
}

#[tokio::test]
async fn an_agent_that_is_away_for_seconds_is_waited_for() {
    let (mut node, sidecar) = pair("1h").await;
    node.stop().await;
    let sidecar = Arc::new(sidecar);
    let asking: Vec<_> = (0..20)
        .map(|number| {
            let sidecar = sidecar.clone();
            tokio::spawn(async move { sidecar.token(&format!("r{}", number % 4)).await.status })
        })
        .collect();
    sleep(Duration::from_secs(3)).await;
    node.restart(None).await;
    for answer in asking {
        assert_eq!(answer.await.unwrap(), 200);
    }
    assert_eq!(node.calls(), 4, "one for each token");
}

/// As an SDK does it: one connection, request after request, no second try.
#[tokio::test]
async fn applications_with_open_connections_see_no_error_through_restarts() {
    let (mut node, sidecar) = pair(ALWAYS_VERIFY).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let (address, stop) = (sidecar.imds, stop.clone());
            tokio::spawn(async move {
                let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                let request = format!("GET {PATH}?{GOOD}/{number} HTTP/1.1\r\n{HEADERS}\r\n");
                let mut answers = 0;
                while !stop.load(Ordering::SeqCst) {
                    stream.write_all(request.as_bytes()).await.unwrap();
                    let answer = read_answer(&mut stream).await;
                    assert_eq!(answer.status, 200, "{}", answer.body);
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    for _ in 0..5 {
        sleep(Duration::from_millis(50)).await;
        node.restart(None).await;
        let asked = node.calls();
        while node.calls() < asked + 4 {
            sleep(Duration::from_millis(5)).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 5);
    }
}

#[tokio::test]
async fn after_a_restart_one_connection_is_kept_again() {
    let (mut node, sidecar) = pair(ALWAYS_VERIFY).await;
    assert_eq!(sidecar.token("r").await.status, 200);
    node.restart(None).await;
    let before = node.state.connections.load(Ordering::SeqCst);
    for _ in 0..20 {
        assert_eq!(sidecar.token("r").await.status, 200);
    }
    assert_eq!(node.state.connections.load(Ordering::SeqCst), before + 1);
}

/// Lets `time` pass. While the clock stands still it runs ahead whenever all wait for a socket, so
/// that it must not stand still when a connection is made.
async fn pass(time: Duration) {
    pause();
    advance(time).await;
    resume();
}

#[tokio::test]
async fn t20_twelve_hours_without_the_agent_are_not_noticed() {
    let (mut node, sidecar) = pair("10s").await;
    assert_eq!(sidecar.token("r").await.field("access_token"), "secret-token-1");
    node.stop().await;
    let begun = Instant::now();
    let mut requests = 0;
    while begun.elapsed() < Duration::from_secs(12 * 3600) {
        pass(Duration::from_secs(100)).await;
        let found = sidecar.token("r").await;
        assert_eq!(found.status, 200, "after {:?}: {}", begun.elapsed(), found.body);
        assert_eq!(found.field("access_token"), "secret-token-1");
        requests += 1;
    }
    assert!(requests > 400, "{requests}");
    node.restart(None).await;
    pass(Duration::from_secs(301)).await;
    assert_eq!(sidecar.token("r").await.field("access_token"), "secret-token-2");
}

#[tokio::test]
async fn a_binding_that_was_removed_stops_working_after_ten_seconds() {
    let (node, sidecar) = pair("10s").await;
    assert_eq!(sidecar.token("r").await.status, 200);
    node.fails(NodeErrorCode::IdentityNotFound, "gone");
    pass(Duration::from_secs(7)).await;
    assert_eq!(sidecar.token("r").await.status, 200);
    pass(Duration::from_secs(3)).await;
    assert_eq!(sidecar.token("r").await.status, 400);
}

/// 64 tokens are asked for at once, and the agent fails: each has its first call, and the attempts
/// after it are shared out. Without that there would be some 200 of them in the time of this test.
#[tokio::test]
async fn an_application_that_hammers_during_an_outage_does_not_multiply_the_calls() {
    const TOKENS: usize = 64;
    let (node, sidecar) = pair("1h").await;
    node.fails(NodeErrorCode::Unavailable, "Entra is down");
    let sidecar = Arc::new(sidecar);
    let begun = Instant::now();
    let asking: Vec<_> = (0..3 * TOKENS)
        .map(|number| {
            let sidecar = sidecar.clone();
            tokio::spawn(async move { sidecar.token(&format!("r{}", number % TOKENS)).await })
        })
        .collect();
    while node.calls() < TOKENS {
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_secs(3)).await;
    let retries = u64::try_from(node.calls() - TOKENS).unwrap();
    let most = 40 + 2 * begun.elapsed().as_secs() + 2;
    assert!((10..=most).contains(&retries), "{retries}, at most {most}");
    asking.iter().for_each(tokio::task::JoinHandle::abort);
}
