//! The server over a real socket: certificate, review, draining.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use runtime::{Latch, Readiness, ServingCert, Shutdown};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use webhook::{Drain, serve};

use crate::fixtures::{injector, pod, review, until};

const NAME: &str = "pis-webhook.pod-identity-system.svc";

struct Running {
    address: SocketAddr,
    ready: Latch,
    shutdown: Shutdown,
    server: JoinHandle<std::io::Result<()>>,
    certificate: ServingCert,
}

async fn start(delay: Duration) -> (Running, crate::fixtures::Server) {
    runtime::crypto::install_provider();
    let (injector, _metrics, api_server) = injector().await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let certificate = ServingCert::default();
    let ready = Readiness::default().latch("serving");
    let shutdown = Shutdown::manual();
    let drain = Drain { ready: ready.clone(), delay };
    let tls = certificate.server_config();
    let server =
        tokio::spawn(serve(listener, tls, webhook::router(injector), drain, shutdown.clone()));
    until(|| ready.is_set()).await;
    (Running { address, ready, shutdown, server, certificate }, api_server)
}

/// Gives the server a new certificate, and returns a client that trusts only that one.
fn certify(certificate: &ServingCert) -> TlsConnector {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    certificate.set(cert.pem().as_bytes(), signing_key.serialize_pem().as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    // A resumed session would not see the certificate.
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

async fn post(connector: &TlsConnector, address: SocketAddr) -> std::io::Result<Value> {
    let tcp = TcpStream::connect(address).await?;
    let mut tls = connector.connect(ServerName::try_from(NAME).unwrap(), tcp).await?;
    let body = review("shop", &pod()).to_string();
    let head = format!(
        "POST /mutate?timeout=5s HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    tls.write_all(head.as_bytes()).await?;
    tls.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    tls.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    Ok(serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn reviews_are_answered_under_the_present_certificate_only() {
    let (running, _api_server) = start(Duration::ZERO).await;
    let stranger = certify(&ServingCert::default());
    assert!(post(&stranger, running.address).await.is_err(), "no certificate yet");

    let first = certify(&running.certificate);
    let answer = post(&first, running.address).await.unwrap();
    assert_eq!(answer["response"]["allowed"], true);
    assert!(answer["response"]["patch"].is_string());
    assert!(post(&stranger, running.address).await.is_err());

    let second = certify(&running.certificate);
    assert!(post(&first, running.address).await.is_err(), "the old one is served no longer");
    post(&second, running.address).await.unwrap();
}

#[tokio::test]
async fn a_server_that_ends_says_so_first_and_goes_on_serving_for_a_while() {
    let (running, _api_server) = start(Duration::from_millis(1500)).await;
    let client = certify(&running.certificate);
    running.shutdown.begin();
    until(|| !running.ready.is_set()).await;
    post(&client, running.address).await.expect("still serving");
    let ended = tokio::time::timeout(Duration::from_secs(20), running.server).await;
    ended.expect("drained in time").unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}
