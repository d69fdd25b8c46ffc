//! What attackers and odd clients send, byte by byte, to a real listener: nothing of it may reach
//! the node's agent, and the service stays up.

mod common;

use std::time::{Duration, Instant};

use common::{FakeNode, GOOD, HEADERS, PATH, Setup, Sidecar, answer, read_answer};
use nmi_sidecar::server::Limits;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn pair() -> (FakeNode, Sidecar) {
    let node = FakeNode::start().await;
    let sidecar = Sidecar::start(&node, Setup::default()).await;
    (node, sidecar)
}

/// Sends each request and expects one of the statuses, and that nobody asked for a token.
async fn all_refused(requests: impl IntoIterator<Item = Vec<u8>>, statuses: &[u16]) {
    let (node, sidecar) = pair().await;
    for request in requests {
        let text = sidecar.raw(&request).await;
        let found = answer(&text);
        let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        assert!(statuses.contains(&found.status), "{shown:?}: {text}");
        assert!(found.json()["error"].is_string(), "{shown:?}: {text}");
        assert!(found.json()["error_description"].is_string(), "{shown:?}: {text}");
        let head = found.head.to_ascii_lowercase();
        assert!(head.contains("content-type: application/json"), "{shown:?}: {text}");
        assert!(!head.contains("access-control"), "{shown:?}: {text}");
    }
    assert_eq!(node.calls(), 0);
}

#[tokio::test]
async fn t2_no_other_spelling_of_the_path_is_the_token_path() {
    let raw: [&[u8]; 26] = [
        b"/metadata/identity\\oauth2\\token/",
        b"/metadata\\identity\\oauth2\\token",
        b"/metadata/identity%5coauth2%5ctoken",
        b"/metadata%2fidentity%2foauth2%2ftoken",
        b"/%2e%2e/metadata/identity/oauth2/token",
        b"/./metadata/identity/oauth2/token",
        b"/metadata/./identity/oauth2/token",
        b"/metadata/x/../identity/oauth2/token",
        b"//metadata/identity/oauth2/token",
        b"/metadata//identity/oauth2/token",
        b"/metadata;x/identity/oauth2/token",
        b"/metadata/Identity/oauth2/token",
        b"/metadata/identity/oauth2/token/x",
        b"/metadata/identity/oauth2/tokenX",
        b"/metadata/identity/oauth2/token//",
        b"/metadata/identity/oauth2/token%00",
        b"/metadata/identity/oauth2/token\0",
        b"/metadata/identity/oauth2/to\tken",
        b"/metadata/identity/oauth2/to\rken",
        b"/metadata/identity/oauth2/token#",
        b"http://169.254.169.254/metadata/identity/oauth2/token",
        b"http://evil.example/metadata/identity/oauth2/token",
        b"169.254.169.254:80",
        b"*",
        b"metadata/identity/oauth2/token",
        b"/metadat\xe4/identity/oauth2/token",
    ];
    let requests = raw.map(|path| {
        let query = format!("?{GOOD} HTTP/1.1\r\n{HEADERS}\r\n");
        [b"GET ".as_slice(), path, query.as_bytes()].concat()
    });
    let long = format!("GET {PATH}?{GOOD}&x={} HTTP/1.1\r\n{HEADERS}\r\n", "x".repeat(65_536));
    all_refused(requests.into_iter().chain([long.into_bytes()]), &[400, 404]).await;
}

#[tokio::test]
async fn t3_without_exactly_one_metadata_header_there_is_no_token() {
    let host = "Host: 169.254.169.254\r\n";
    let headers = [
        "",
        "Metadata: false\r\n",
        "Metadata: true,true\r\n",
        "Metadata: true\r\nMetadata: true\r\n",
        "Metadata:\r\n true\r\n",
        "Metadata : true\r\n",
        "Metadata: tr\r\n ue\r\n",
        "X-Metadata: true\r\n",
    ];
    let requests = headers
        .map(|extra| format!("GET {PATH}?{GOOD} HTTP/1.1\r\n{host}{extra}\r\n").into_bytes());
    all_refused(requests, &[400]).await;
}

#[tokio::test]
async fn t4_a_request_that_a_proxy_forwarded_gets_no_token() {
    let rows = [
        "X-Forwarded-For: 10.0.0.1",
        "x-forwarded-for:",
        "X-FORWARDED-FOR: a\r\nX-Forwarded-For: b",
    ];
    let requests = rows.map(|extra| {
        format!("GET {PATH}?{GOOD} HTTP/1.1\r\n{HEADERS}{extra}\r\n\r\n").into_bytes()
    });
    all_refused(requests, &[400]).await;

    let (_node, sidecar) = pair().await;
    let mesh = format!("GET {PATH}?{GOOD} HTTP/1.1\r\n{HEADERS}X-Forwarded-Proto: http\r\n\r\n");
    assert_eq!(sidecar.ask(&mesh).await.status, 200);
}

#[tokio::test]
async fn t5_browsers_get_no_token() {
    let get = |hosts: &str| {
        format!("GET {PATH}?{GOOD} HTTP/1.1\r\nMetadata: true\r\n{hosts}\r\n").into_bytes()
    };
    let hosts = [
        "",
        "Host:\r\n",
        "Host: evil.example\r\n",
        "Host: 127.0.0.1:8000\r\n",
        "Host: 169.254.169.254.evil.example\r\n",
        "Host: 169.254.169.254\r\nHost: 169.254.169.254\r\n",
        "Host: 169.254.169.254\r\nOrigin: http://evil.example\r\n",
        "Host: 169.254.169.254\r\nOrigin: null\r\n",
    ];
    let absolute = format!(
        "GET http://evil.example{PATH}?{GOOD} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n"
    );
    let requests = hosts.map(get).into_iter().chain([absolute.into_bytes()]);
    all_refused(requests, &[400, 403]).await;
    let preflight = format!(
        "OPTIONS {PATH} HTTP/1.1\r\n{HEADERS}Origin: http://evil.example\r\n\
         Access-Control-Request-Headers: metadata\r\n\r\n"
    );
    all_refused([preflight.into_bytes()], &[405]).await;
}

#[tokio::test]
async fn t11_every_other_category_of_metadata_is_not_found() {
    let paths = [
        "/metadata/instance?api-version=2021-02-01",
        "/metadata/attested/document?api-version=2020-09-01",
        "/metadata/scheduledevents?api-version=2020-07-01",
        "/metadata/loadbalancer?api-version=2020-10-01",
        "/metadata/versions",
        "/metadata/identity/getplatformmetadata?cred-api-version=2.0",
        "/metadata/identity/info?api-version=2018-02-01",
        "/machine?comp=goalstate",
        "/",
        "/livez",
        "/metrics",
    ];
    let with = paths.map(|path| format!("GET {path} HTTP/1.1\r\n{HEADERS}\r\n").into_bytes());
    let without = paths.map(|path| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes());
    let body = "{\"csr\":\"x\"}";
    let post = ["issuecredential", "credential"].map(|last| {
        format!(
            "POST /metadata/identity/{last} HTTP/1.1\r\n{HEADERS}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    });
    all_refused(with.into_iter().chain(without).chain(post), &[404]).await;
}

#[tokio::test]
async fn t16_requests_that_two_parsers_read_differently_are_refused() {
    let line = format!("GET {PATH}?{GOOD} HTTP/1.1\r\n");
    let hidden = format!("GET {PATH}?{GOOD} HTTP/1.1\r\n{HEADERS}\r\n");
    let requests = [
        format!(
            "{line}{HEADERS}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
            hidden.len()
        ),
        format!(
            "{line}{HEADERS}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!("{line}{HEADERS}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{line}{HEADERS}Content-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!("{line}{HEADERS}Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
        format!("{line}{HEADERS}\n"),
        line.replace("\r\n", "\n") + HEADERS + "\r\n",
        format!("{line}{}\n\n", HEADERS.replace("\r\n", "\n")),
        format!("{line}{HEADERS}A: b\r\n folded\r\n\r\n"),
        format!("{line}{HEADERS}A: {}\r\n\r\n", "b".repeat(20_000)),
        format!("{line}{HEADERS}{}\r\n", "A: b\r\n".repeat(100)),
        format!("GET {PATH}?{GOOD}\r\n\r\n"),
        format!("GET  {PATH}?{GOOD} HTTP/1.1\r\n{HEADERS}\r\n"),
        format!("GET {PATH}?{GOOD} HTTP/3.0\r\n{HEADERS}\r\n"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(),
    ];
    all_refused(requests.map(String::into_bytes), &[400]).await;
}

#[tokio::test]
async fn one_refused_request_gets_one_answer_and_what_follows_is_not_read() {
    let (node, sidecar) = pair().await;
    let hidden = format!("GET {PATH}?{GOOD} HTTP/1.1\r\n{HEADERS}\r\n");
    let request = format!(
        "POST {PATH} HTTP/1.1\r\n{HEADERS}Content-Length: {}\r\n\r\n{hidden}",
        hidden.len()
    );
    let text = sidecar.raw(request.as_bytes()).await;
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    assert!(text.contains("connection: close"), "{text}");
    assert_eq!(node.calls(), 0);
}

#[tokio::test]
async fn a_probe_is_answered_without_the_agent_however_it_looks() {
    let node = FakeNode::down();
    let sidecar = Sidecar::start(&node, Setup { gate: "60s", ..Setup::default() }).await;
    let before = Instant::now();
    for target in [
        PATH.to_owned(),
        format!("{PATH}?api-version=2018-02-01"),
        format!("{PATH}?{GOOD}"),
        format!("{PATH}?resource=a&resource=b"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
        let found = sidecar.ask(&request).await;
        assert_eq!(found.status, 400, "{target}");
        let body = r#"{"error":"invalid_request","error_description":"Required metadata header not specified"}"#;
        assert_eq!(found.body, body);
        assert!(found.head.contains("content-type: application/json"), "{}", found.head);
    }
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

#[tokio::test]
async fn connections_are_kept_and_pipelined_requests_answered_in_order() {
    let (node, sidecar) = pair().await;
    let mut stream = sidecar.connect().await;
    for _ in 0..3 {
        let request = format!("GET {PATH}?{GOOD} HTTP/1.1\r\n{HEADERS}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut stream).await.status, 200);
    }
    let two = format!(
        "GET /x HTTP/1.1\r\n{HEADERS}\r\nGET {PATH}?{GOOD} HTTP/1.1\r\n{HEADERS}Connection: close\r\n\r\n"
    );
    stream.write_all(two.as_bytes()).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    let (first, second) = (rest.find("HTTP/1.1 404").unwrap(), rest.find("HTTP/1.1 200").unwrap());
    assert!(first < second, "{rest}");
    assert_eq!(node.calls(), 1);
}

#[tokio::test]
async fn a_request_may_arrive_byte_by_byte() {
    let (_node, sidecar) = pair().await;
    let mut stream = sidecar.connect().await;
    for byte in format!("GET {PATH}?{GOOD} HTTP/1.1\r\n{HEADERS}\r\n").bytes() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(read_answer(&mut stream).await.status, 200);
}

#[tokio::test]
async fn a_client_that_connects_and_leaves_is_no_error() {
    let (_node, sidecar) = pair().await;
    assert_eq!(sidecar.raw(b"").await, "");
    assert_eq!(sidecar.raw(b"GET /metadata").await, "");
    assert_eq!(sidecar.token("r").await.status, 200);
}

#[tokio::test]
async fn half_open_connections_do_not_lock_a_client_out() {
    let node = FakeNode::start().await;
    let limits = Limits { connections: 16, ..Limits::default() };
    let sidecar = Sidecar::start(&node, Setup { limits, ..Setup::default() }).await;
    let mut half_open = Vec::new();
    for _ in 0..200 {
        let mut stream = sidecar.connect().await;
        stream.write_all(b"GET /metadata/iden").await.unwrap();
        half_open.push(stream);
    }
    let before = Instant::now();
    assert_eq!(sidecar.token("r").await.status, 200);
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

#[tokio::test]
async fn a_head_that_does_not_end_is_given_up() {
    let node = FakeNode::start().await;
    let limits = Limits { head: Duration::ZERO, ..Limits::default() };
    let sidecar = Sidecar::start(&node, Setup { limits, ..Setup::default() }).await;
    let mut slow = sidecar.connect().await;
    let mut idle = sidecar.connect().await;
    slow.write_all(b"GET /metadata").await.unwrap();
    let mut nothing = Vec::new();
    slow.read_to_end(&mut nothing).await.unwrap();
    assert!(nothing.is_empty());
    let request = format!("GET {PATH} HTTP/1.1\r\n{HEADERS}\r\n");
    idle.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(read_answer(&mut idle).await.status, 400, "one that said nothing yet may stay");
}

/// Pieces of which requests are built: good, bad and broken.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "GET ",
        "POST ",
        "HEAD ",
        PATH,
        "/",
        "?",
        GOOD,
        "&",
        "resource=",
        "client_id=",
        "%2f",
        "#",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\r\n\r\n",
        "\n",
        HEADERS,
        "Metadata: true\r\n",
        "Host: 169.254.169.254\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        ": ",
        "\0",
        "\\",
    ];
    prop_oneof![
        4 => proptest::sample::select(known.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ]
}

#[test]
fn any_bytes_get_documented_answers_or_none() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_node, sidecar) = runtime.block_on(pair());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let requests = proptest::collection::vec(piece(), 0..24).prop_map(|pieces| pieces.concat());
    runner
        .run(&requests, |bytes| {
            let text = runtime.block_on(sidecar.raw(&bytes));
            for status in text.split("HTTP/1.1 ").skip(1).map(|rest| &rest[..3]) {
                let documented = ["200", "400", "403", "404", "405", "429", "503"];
                prop_assert!(documented.contains(&status), "{text}");
            }
            Ok(())
        })
        .unwrap();
    let alive = runtime.block_on(sidecar.token("r"));
    assert_eq!(alive.status, 200, "nothing of it broke the sidecar");
}
