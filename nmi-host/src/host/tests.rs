//! The endpoint as a process on the node meets it.

use api::AssignedState;
use api::FederatedBy;
use axum::response::IntoResponse;
use http::StatusCode;
use runtime::Shutdown;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::assigned::AssignedView;
use crate::assigned::testing::{assigned, federated};
use crate::broker::testing::{Fixture, fixture};
use crate::serve::{Limits, Server};
use crate::testing::{CLIENT, error_answer, exchange, imds, token_answer};

async fn endpoint(imds: &str) -> (SocketAddr, Fixture) {
    let node = fixture(imds);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = HostMetrics::detached();
    let server = Server {
        listener,
        tls: None,
        router: HostApi::new(node.broker.clone(), metrics.clone(), address).router(),
        limits: Limits { connections: 64, per_peer: 64 },
        metrics,
    };
    tokio::spawn(server.run(Shutdown::manual()));
    (address, node)
}

/// What `curl http://127.0.0.1:2579/host/token/?<query> -H "podname: …" -H "podns: …"` sends.
async fn curl(address: SocketAddr, line: &str, headers: &str) -> (u16, String, Value) {
    let request = format!(
        "{line} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n{headers}Connection: close\r\n\r\n"
    );
    exchange(TcpStream::connect(address).await.unwrap(), &request).await
}

const LINE: &str = "GET /host/token/?resource=https://vault.azure.net";
const POD: &str = "podname: web-0\r\npodns: team\r\n";

#[tokio::test]
async fn the_documented_curl_gets_the_fields_of_aad_pod_identity() {
    let imds = imds(|_| token_answer(CLIENT)).await;
    let (address, mut node) = endpoint(&imds.endpoint).await;
    node.run_pod("uid-1");
    node.assign([assigned("db", Some(CLIENT))]);
    for line in [LINE, "GET /host/token?resource=https://vault.azure.net"] {
        let (status, head, body) = curl(address, line, POD).await;
        assert_eq!(status, 200, "{body}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert_eq!(body["clientid"], CLIENT);
        let token = body["token"].as_object().unwrap();
        let names: Vec<_> = token.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "access_token",
                "expires_in",
                "expires_on",
                "not_before",
                "refresh_token",
                "resource",
                "token_type"
            ]
        );
        assert!(token.values().all(Value::is_string), "{token:?}");
        assert_eq!(token["refresh_token"], "");
        assert_eq!(token["resource"], "https://vault.azure.net");
        assert_eq!(token["token_type"], "Bearer");
    }
}

#[tokio::test]
async fn a_recreated_pod_does_not_inherit() {
    let (address, mut node) = endpoint("http://127.0.0.1:9").await;
    node.run_pod("uid-2");
    node.assign([assigned("db", Some(CLIENT))]);
    let (status, _, body) = curl(address, LINE, POD).await;
    assert_eq!((status, body["error"].as_str()), (404, Some("identity_not_found")));
}

#[tokio::test]
async fn failures_have_the_statuses_of_aad_pod_identity() {
    let refusing = imds(|_| error_answer(400, "AADSTS500011: no such resource")).await;
    let (address, mut node) = endpoint(&refusing.endpoint).await;
    node.run_pod("uid-1");
    node.assign([assigned("db", Some(CLIENT))]);
    let other = format!("{LINE}&client_id=00000000-0000-0000-0000-0000000000ff");
    let cases = [
        (LINE, "podname: web-0\r\n", 400, "missing 'podname' and 'podns' from request header"),
        ("GET /host/token/", POD, 400, "parameter resource cannot be empty"),
        (other.as_str(), POD, 404, "Identity not found"),
        (LINE, POD, 403, "Azure refused: invalid_request: AADSTS500011: no such resource"),
        ("GET /metadata/identity/oauth2/token", POD, 404, "there is only /host/token/"),
        ("POST /host/token/?resource=r", POD, 405, "only GET is allowed"),
    ];
    for (line, headers, status, text) in cases {
        let (actual, head, body) = curl(address, line, headers).await;
        assert_eq!(actual, status, "{line}: {body}");
        assert_eq!(body["error_description"], text, "{line}");
        assert!(body["error"].is_string(), "{line}");
        assert_eq!(status == 405, head.contains("allow: get"), "{head}");
    }
    node.assign([assigned("db", Some(CLIENT)), assigned("web", None)]);
    let (status, _, body) = curl(address, LINE, POD).await;
    assert_eq!((status, body["error"].as_str()), (400, Some("invalid_request")));
    node.assign([federated("db", CLIENT, FederatedBy::Pod)]);
    let (status, _, body) = curl(address, LINE, POD).await;
    assert_eq!((status, body["error"].as_str()), (403, Some("refused")));
    let text = body["error_description"].as_str().unwrap();
    assert!(text.contains("use federatedBy: NodeAgent"), "{text}");
}

#[tokio::test]
async fn what_a_browser_or_a_tricked_client_sends_is_refused() {
    let (address, mut node) = endpoint("http://127.0.0.1:9").await;
    node.run_pod("uid-1");
    node.assign([assigned("db", Some(CLIENT))]);
    for header in [
        "Origin: http://x",
        "Referer: http://x/y",
        "Cookie: a=b",
        "Via: 1.1 proxy",
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Proto: https",
        "Forwarded: for=10.0.0.1",
        "Sec-Fetch-Site: none",
    ] {
        let (status, _, body) = curl(address, LINE, &format!("{POD}{header}\r\n")).await;
        assert_eq!((status, body["error"].as_str()), (403, Some("access_denied")), "{header}");
    }
    // Another name for this address, a port that is not ours, two names, none, and a proxy's form.
    let port = address.port();
    for (target, hosts) in [
        ("", "Host: evil.example\r\n".to_owned()),
        ("", "Host: 127.0.0.1:1\r\n".to_owned()),
        ("", format!("Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n")),
        ("", "X: y\r\n".to_owned()),
        ("http://127.0.0.1", format!("Host: 127.0.0.1:{port}\r\n")),
    ] {
        let path = "/host/token/?resource=https://vault.azure.net";
        let request =
            format!("GET {target}{path} HTTP/1.1\r\n{hosts}{POD}Connection: close\r\n\r\n");
        let stream = TcpStream::connect(address).await.unwrap();
        let (status, _, body) = exchange(stream, &request).await;
        assert_eq!((status, body["error"].as_str()), (403, Some("access_denied")), "{hosts}");
    }
}

/// An answer, and the header that says when to come back.
fn told_to_come_back(answer: &(u16, String, Value)) -> bool {
    let (status, head, body) = answer;
    *status == 429 && head.contains("retry-after: 1") && body["error"] == "too_many_requests"
}

#[tokio::test]
async fn more_requests_than_there_are_places_are_told_to_come_back() {
    let (address, mut node) = endpoint("http://127.0.0.1:9").await;
    node.run_pod("uid-1");
    let pending = AssignedView { state: AssignedState::Created, ..assigned("db", Some(CLIENT)) };
    node.assign([pending]);
    // All wait for the identity, but one.
    let requests = (0..=AT_A_TIME_FOR_A_POD)
        .map(|_| tokio::spawn(async move { curl(address, LINE, POD).await }));
    let (first, _, waiting) = futures::future::select_all(requests).await;
    assert!(told_to_come_back(&first.unwrap()));
    let other = curl(address, LINE, "podname: web-1\r\npodns: team\r\n").await;
    assert_eq!(other.0, 404, "another pod has places: {}", other.2);
    node.assign([]);
    for request in waiting {
        assert_ne!(request.await.unwrap().0, 429);
    }
}

#[tokio::test]
async fn all_places_taken_is_busy_for_every_pod() {
    let (address, node) = endpoint("http://127.0.0.1:9").await;
    let api = HostApi::new(node.broker.clone(), HostMetrics::detached(), address);
    let _all = api.places.clone().acquire_many_owned(AT_A_TIME as u32).await.unwrap();
    let mut request = http::Request::get("/host/token/?resource=r")
        .header("host", address.to_string())
        .header("podns", "team")
        .header("podname", "web-0")
        .body(())
        .unwrap();
    request.extensions_mut().insert(crate::serve::Peer(address));
    let refusal = api.token(&request.into_parts().0).await.unwrap_err();
    assert_eq!(refusal, Refusal::Busy);
    assert_eq!(refusal.response().status(), 429);
}

#[tokio::test]
async fn azure_that_wants_to_be_left_alone_is_unavailable_and_says_when_to_come_back() {
    let throttling =
        imds(|_| (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "60")]).into_response());
    let throttling = throttling.await;
    let (address, mut node) = endpoint(&throttling.endpoint).await;
    node.run_pod("uid-1");
    node.assign([assigned("db", Some(CLIENT))]);
    let (status, head, body) = curl(address, LINE, POD).await;
    assert_eq!((status, body["error"].as_str()), (503, Some("temporarily_unavailable")));
    assert!(head.contains("retry-after: 60"), "{head}");
}
