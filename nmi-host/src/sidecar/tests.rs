//! The endpoint as a sidecar meets it: over TLS, with the API server played by the test.

use std::net::SocketAddr;
use std::sync::Arc;

use api::node_api;
use api::{FederatedBy, TokenHash};
use http::{Request, Response};
use kube::client::Body;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use runtime::{ServingCert, Shutdown};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tower_test::mock::Handle;

use super::*;
use crate::assigned::testing::{assigned, federated};
use crate::authn::Reviewer;
use crate::authn::fixtures::{AUDIENCE, NODE, accepted};
use crate::broker::testing::{Fixture, fixture};
use crate::jwt::testing::unsigned;
use crate::mint::testing::assertion;
use crate::serve::{Limits, Server};
use crate::testing::{CLIENT, error_answer, exchange, imds, token_answer, unix_now};

const NAME: &str = "nmi-host.system.svc";

/// A running endpoint.
struct Endpoint {
    address: SocketAddr,
    trusted: CertificateDer<'static>,
    node: Fixture,
    api_server: Handle<Request<Body>, Response<Body>>,
    shutdown: Shutdown,
    server: tokio::task::JoinHandle<()>,
}

async fn endpoint(imds: &str) -> Endpoint {
    runtime::crypto::install_provider();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.into()]).unwrap();
    let serving = ServingCert::default();
    serving.set(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes()).unwrap();
    let (service, api_server) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let client = kube::Client::new(service, "default");
    let (node, metrics) = (fixture(imds), HostMetrics::detached());
    let reviewer = Reviewer::new(client, AUDIENCE.to_owned(), NODE.to_owned());
    let api = SidecarApi {
        authenticator: Authenticator::new(reviewer, metrics.clone()),
        broker: node.broker.clone(),
        metrics: metrics.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::manual();
    let server = Server {
        listener,
        tls: Some(TlsAcceptor::from(Arc::new(serving.server_config()))),
        router: api.router(),
        limits: Limits { connections: 8, per_peer: 4 },
        metrics,
    };
    let running = server.run(shutdown.clone());
    let server = tokio::spawn(async move { running.await.unwrap() });
    Endpoint { address, trusted: cert.der().clone(), node, api_server, shutdown, server }
}

impl Endpoint {
    /// Sends a request over a connection of its own.
    async fn ask(&self, head: &str, token: Option<&str>, body: &str) -> (u16, String, Value) {
        ask(self.address, self.trusted.clone(), head, token, body).await
    }

    /// The same for a token with a pod's bearer that the API server is asked about, and says this
    /// of.
    async fn ask_reviewed(
        &mut self,
        token: &str,
        body: &str,
        verdict: &Value,
    ) -> (u16, String, Value) {
        let asking = ask(self.address, self.trusted.clone(), TOKEN, Some(token), body);
        let review = async {
            let (_, send) = self.api_server.next_request().await.expect("a review is asked for");
            let body = Body::from(serde_json::to_vec(verdict).unwrap());
            send.send_response(Response::builder().status(201).body(body).unwrap());
        };
        tokio::join!(asking, review).0
    }
}

async fn ask(
    address: SocketAddr,
    trusted: CertificateDer<'static>,
    head: &str,
    token: Option<&str>,
    body: &str,
) -> (u16, String, Value) {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let request = format!(
        "{head} HTTP/1.1\r\nHost: {NAME}\r\n{}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        bearer.unwrap_or_default(),
        body.len()
    );
    exchange(stream, &request).await
}

fn pod_token() -> String {
    unsigned(&json!({"exp": unix_now() + 3600}))
}

const TOKEN: &str = "POST /v1/token";
const BODY: &str = r#"{"resource":"https://vault.azure.net"}"#;

#[tokio::test]
async fn a_pod_gets_the_token_of_its_identity() {
    let imds = imds(|_| token_answer(CLIENT)).await;
    let mut endpoint = endpoint(&imds.endpoint).await;
    endpoint.node.assign([assigned("db", Some(CLIENT))]);
    let token = pod_token();
    let (status, head, body) = endpoint.ask_reviewed(&token, BODY, &accepted()).await;
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("cache-control: no-store"), "{head}");
    let response: TokenResponse = serde_json::from_value(body).unwrap();
    assert_eq!(response.client_id, CLIENT);
    assert_eq!(response.resource, "https://vault.azure.net");
    assert!((3500..=3600).contains(&response.expires_in), "{}", response.expires_in);

    // The pod is known now. What it is not entitled to is an error, not the default identity.
    let other =
        r#"{"resource":"r","identity":{"clientID":"00000000-0000-0000-0000-0000000000ff"}}"#;
    let (status, _, body) = endpoint.ask(TOKEN, Some(&token), other).await;
    assert_eq!((status, body["error"].as_str()), (404, Some("identity_not_found")));
    let mine = format!(r#"{{"resource":"r","identity":{{"clientID":"{CLIENT}"}}}}"#);
    assert_eq!(endpoint.ask(TOKEN, Some(&token), &mine).await.0, 200);

    let (status, _, body) = endpoint.ask("GET /v1/assignment?wait=5", Some(&token), "").await;
    assert_eq!((status, body["state"].as_str()), (200, Some("assigned")));
    assert_eq!(body["identities"][0]["name"], "db");

    // A removed binding stops working with the next request, cached token or not.
    endpoint.node.assign([]);
    let (_, _, body) = endpoint.ask("GET /v1/assignment", Some(&token), "").await;
    assert_eq!(body["state"], "none");
    let (status, _, body) = endpoint.ask(TOKEN, Some(&token), BODY).await;
    assert_eq!((status, body["error"].as_str()), (404, Some("not_assigned")));
    assert_eq!(imds.count(), 2, "one call a resource");

    endpoint.shutdown.begin();
    endpoint.server.await.unwrap();
}

#[tokio::test]
async fn who_is_not_a_pod_of_this_node_gets_nothing() {
    let mut endpoint = endpoint("http://127.0.0.1:9").await;
    endpoint.node.assign([assigned("db", Some(CLIENT))]);
    let (status, _, body) = endpoint.ask(TOKEN, None, BODY).await;
    assert_eq!((status, body["error"].as_str()), (401, Some("unauthenticated")));

    let cases = [
        (json!({"status": {"authenticated": false}}), 401, "unauthenticated"),
        (on_another_node(), 403, "wrong_node"),
    ];
    for (number, (verdict, status, code)) in cases.into_iter().enumerate() {
        let token = unsigned(&json!({"exp": unix_now() + 3600, "n": number}));
        let answer = endpoint.ask_reviewed(&token, BODY, &verdict).await;
        assert_eq!((answer.0, answer.2["error"].as_str()), (status, Some(code)), "{}", answer.2);
    }
}

fn on_another_node() -> Value {
    let mut review = accepted();
    let node = "/status/user/extra/authentication.kubernetes.io~1node-name";
    *review.pointer_mut(node).unwrap() = json!(["node-2"]);
    review
}

#[tokio::test]
async fn malformed_requests_of_a_known_pod_are_told_so() {
    let mut endpoint = endpoint("http://127.0.0.1:9").await;
    endpoint.node.assign([assigned("db", Some(CLIENT))]);
    let token = pod_token();
    let answer = endpoint.ask_reviewed(&token, "{}", &accepted()).await;
    assert_eq!((answer.0, answer.2["error"].as_str()), (400, Some("bad_request")));

    let long = format!(r#"{{"resource":"{}"}}"#, "x".repeat(9000));
    let cases = [
        (TOKEN, r#"{"resource":"a b"}"#, 400),
        (TOKEN, r#"{"resource":"r","identity":{"clientID":"x"}}"#, 400),
        (TOKEN, long.as_str(), 400),
        ("GET /v1/assignment?wait=x", "", 400),
        ("GET /v1/assignment?wait=1&wait=2", "", 400),
        ("GET /v1/token", "", 404),
        ("GET /metadata/identity/oauth2/token", "", 404),
    ];
    for (head, body, status) in cases {
        let answer = endpoint.ask(head, Some(&token), body).await;
        assert_eq!(answer.0, status, "{head} {}", answer.2);
        assert_eq!(answer.2["error"], "bad_request", "{head}");
    }
}

/// Has the pod known, and gets its first token.
async fn served(endpoint: &mut Endpoint, token: &str) -> TokenResponse {
    endpoint.node.assign([assigned("db", Some(CLIENT))]);
    let answer = endpoint.ask_reviewed(token, BODY, &accepted()).await;
    assert_eq!(answer.0, 200, "{}", answer.2);
    serde_json::from_value(answer.2).unwrap()
}

#[tokio::test]
async fn a_token_that_does_not_serve_any_more_is_replaced_by_azure() {
    let imds = imds(|_| token_answer(CLIENT)).await;
    let mut endpoint = endpoint(&imds.endpoint).await;
    let token = pod_token();
    let first = served(&mut endpoint, &token).await;
    let hash = TokenHash::of(&first.access_token);
    let body = |hash: &str| {
        format!(r#"{{"resource":"https://vault.azure.net","tokenSha256ToRefresh":"{hash}"}}"#)
    };
    let other = body(&TokenHash::of("another").to_string());
    assert_eq!(endpoint.ask(TOKEN, Some(&token), &other).await.0, 200);
    assert_eq!(imds.count(), 1, "the cached token is not the one");
    let this = body(&hash.to_string().to_uppercase());
    for _ in 0..3 {
        assert_eq!(endpoint.ask(TOKEN, Some(&token), &this).await.0, 200);
    }
    assert_eq!(imds.count(), 2, "once in ten seconds");
    let target = imds.target(1);
    assert!(target.ends_with(&format!("&token_sha256_to_refresh={hash}")), "{target}");
    assert_eq!(endpoint.ask(TOKEN, Some(&token), &body("x")).await.0, 400);
}

#[tokio::test]
async fn azure_is_told_the_id_by_which_the_sidecar_knows_the_request() {
    let imds = imds(|_| token_answer(CLIENT)).await;
    let mut endpoint = endpoint(&imds.endpoint).await;
    let token = pod_token();
    served(&mut endpoint, &token).await;
    let made = imds.correlation_id(0).expect("one is made");
    assert!(made.parse::<api::Guid>().is_ok(), "{made}");
    let head = format!("{TOKEN} HTTP/1.1\r\n{}: {CLIENT}\r\nX-Rest:", node_api::CORRELATION_HEADER);
    let (status, _, body) = endpoint.ask(&head, Some(&token), r#"{"resource":"r"}"#).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(imds.correlation_id(1).as_deref(), Some(CLIENT));
}

#[tokio::test]
async fn an_identity_that_azure_has_not_heard_of_yet_reaches_no_sidecar_as_an_error() {
    let imds = imds(|number| match number {
        0..3 => error_answer(400, "Identity not found"),
        _ => token_answer(CLIENT),
    })
    .await;
    let mut endpoint = endpoint(&imds.endpoint).await;
    assert_eq!(served(&mut endpoint, &pod_token()).await.client_id, CLIENT);
    assert_eq!(imds.count(), 4);
}

#[tokio::test]
async fn azures_refusal_reaches_the_sidecar() {
    let imds = imds(|_| error_answer(400, "AADSTS500011: no such resource")).await;
    let mut endpoint = endpoint(&imds.endpoint).await;
    endpoint.node.assign([assigned("db", Some(CLIENT))]);
    let token = pod_token();
    let answer = endpoint.ask_reviewed(&token, BODY, &accepted()).await;
    assert_eq!((answer.0, answer.2["error"].as_str()), (422, Some("refused")));
    assert!(answer.2["message"].as_str().unwrap().contains("AADSTS500011"));
}

#[tokio::test]
async fn a_pod_is_asked_for_its_assertion_and_no_other_pods_will_do() {
    let mut endpoint = endpoint("http://127.0.0.1:9").await;
    endpoint.node.assign([federated("db", CLIENT, FederatedBy::Pod)]);
    let token = pod_token();
    let answer = endpoint.ask_reviewed(&token, BODY, &accepted()).await;
    assert_eq!((answer.0, answer.2["error"].as_str()), (428, Some("assertion_required")));
    // The pod's service account is the one that the API server named, whatever the request says.
    let other = assertion("web", 3600);
    let body = format!(r#"{{"resource":"r","assertion":"{}"}}"#, other.secret());
    let (status, _, body) = endpoint.ask(TOKEN, Some(&token), &body).await;
    assert_eq!((status, body["error"].as_str()), (422, Some("refused")));
    let text = body["message"].as_str().unwrap();
    assert!(text.contains("another service account") && !text.contains(other.secret()), "{text}");
}

#[test]
fn a_wait_is_bounded() {
    assert_eq!(wait("").unwrap(), Duration::ZERO);
    assert_eq!(wait("wait=7").unwrap(), Duration::from_secs(7));
    assert_eq!(wait("wait=9999").unwrap(), Duration::from_secs(MAX_WAIT_SECONDS));
}
