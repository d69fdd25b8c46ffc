//! A replaced certificate is what the next connection gets.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use runtime::ServingCert;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

struct Pair {
    pem: (String, String),
    der: CertificateDer<'static>,
}

fn pair() -> Pair {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    Pair { pem: (cert.pem(), signing_key.serialize_pem()), der: cert.der().clone() }
}

async fn connects(cert: &ServingCert, trusted: &CertificateDer<'static>) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(cert.server_config()));
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        acceptor.accept(stream).await.is_ok()
    });
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let client = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    server.await.unwrap();
    client.is_ok()
}

#[tokio::test]
async fn new_connections_get_the_new_certificate() {
    runtime::crypto::install_provider();
    let (old, new) = (pair(), pair());
    let cert = ServingCert::default();
    assert!(!connects(&cert, &old.der).await, "there is no certificate yet");

    cert.set(old.pem.0.as_bytes(), old.pem.1.as_bytes()).unwrap();
    assert!(connects(&cert, &old.der).await);

    cert.set(new.pem.0.as_bytes(), new.pem.1.as_bytes()).unwrap();
    assert!(connects(&cert, &new.der).await);
    assert!(!connects(&cert, &old.der).await);
}

#[test]
fn a_bad_pair_is_refused_and_the_old_one_stays() {
    runtime::crypto::install_provider();
    let (a, b) = (pair(), pair());
    let cert = ServingCert::default();
    cert.set(a.pem.0.as_bytes(), a.pem.1.as_bytes()).unwrap();
    assert!(cert.set(a.pem.0.as_bytes(), b.pem.1.as_bytes()).is_err());
    assert!(cert.set(b"", b"").is_err());
    assert!(cert.is_set());
}
