//! Tokens of applications: with the Secret of their own namespace, and with no other.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use serde_json::json;

use crate::env::env;
use crate::namespace::Namespace;

/// An application that fake Azure has from the start.
const CLIENT: &str = "40000000-0000-0000-0000-000000000001";
const TENANT: &str = "10000000-0000-0000-0000-000000000001";
const SECRET: &str = "not-a-secret-demo-app";

async fn bind(space: &Namespace, identity: &str, secret: &str) {
    let spec = json!({
        "type": 1,
        "tenantID": TENANT,
        "clientID": CLIENT,
        "clientPassword": {"name": secret, "namespace": space.name},
    });
    space.apply(&space.object("AzureIdentity", identity, &spec)).await.unwrap();
    space.bind_name(identity, "app").await;
}

async fn put_secret(space: &Namespace, name: &str, text: &str) {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": space.name, "name": name},
        "stringData": {"clientSecret": text},
    });
    space.apply(&secret).await.unwrap();
}

#[tokio::test]
async fn an_application_gets_tokens_with_the_secret_of_its_namespace() {
    let space = Namespace::new("principal").await;
    put_secret(&space, "app", SECRET).await;
    bind(&space, "app", "app").await;
    space.start(&space.pod("app", "app")).await;
    for query in ["", &format!("&client_id={CLIENT}")] {
        let claims = space.token("app", query).await.claims();
        assert_eq!(claims["aud"], "https://vault.azure.net");
        assert_eq!((&claims["appid"], &claims["tid"]), (&json!(CLIENT), &json!(TENANT)));
    }

    // The same application, but who asks does not have its secret.
    let other = Namespace::new("principal-other").await;
    put_secret(&other, "app", "guessed").await;
    bind(&other, "app", "app").await;
    other.start(&other.pod("app", "app")).await;
    let refused = other.token("app", "").await;
    refused.is_error("unauthorized_client", "AADSTS7000215");
    assert!(!format!("{refused:?}").contains("guessed"), "{refused:?}");

    let missing = Namespace::new("principal-missing").await;
    bind(&missing, "app", "app").await;
    missing.start(&missing.pod("app", "app")).await;
    missing.token("app", "").await.is_refused("which does not exist");

    for space in [space, other, missing] {
        space.done().await;
    }
}

#[tokio::test]
async fn an_application_gets_tokens_with_the_certificate_of_its_namespace() {
    const WITH_CERTIFICATE: &str = "40000000-0000-0000-0000-0000000000c2";
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    let app = json!({"client_id": WITH_CERTIFICATE, "certificates": [certificate.pem()]});
    env().await.azure.post("apps", &app).await;
    let chain = PrivateKeyChain::new(
        "id",
        PrivateKey::from_der(&key.serialize_der()).unwrap(),
        [Certificate::from_der(certificate.der()).unwrap()],
    );
    let mut store = KeyStore::new();
    store.add_entry("key", KeyStoreEntry::PrivateKeyChain(chain));
    let file = store.writer("p4ss").write().unwrap();

    let space = Namespace::new("certificate").await;
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": space.name, "name": "app"},
        "data": {"certificate": STANDARD.encode(&file), "password": STANDARD.encode("p4ss")},
    });
    space.apply(&secret).await.unwrap();
    let spec = json!({
        "type": 2,
        "tenantID": TENANT,
        "clientID": WITH_CERTIFICATE,
        "clientPassword": {"name": "app"},
    });
    space.apply(&space.object("AzureIdentity", "app", &spec)).await.unwrap();
    space.bind_name("app", "app").await;
    space.start(&space.pod("app", "app")).await;
    let claims = space.token("app", "").await.claims();
    assert_eq!((&claims["appid"], &claims["tid"]), (&json!(WITH_CERTIFICATE), &json!(TENANT)));
    space.done().await;
}

#[tokio::test]
async fn no_secret_is_sent_to_a_host_of_the_users_own() {
    let space = Namespace::new("principal-endpoint").await;
    put_secret(&space, "app", SECRET).await;
    let spec = json!({
        "type": 1,
        "tenantID": TENANT,
        "clientID": CLIENT,
        "clientPassword": {"name": "app"},
        "adEndpoint": "https://entra.evil.example/",
    });
    space.apply(&space.object("AzureIdentity", "app", &spec)).await.unwrap();
    space.bind_name("app", "app").await;
    space.start(&space.pod("app", "app")).await;
    space.token("app", "").await.is_refused("to which no credential is sent");
    space.done().await;
}
