//! Applications' tokens against an Entra on loopback, over TLS, and Secrets of an API server.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::node_api::{NodeError, NodeErrorCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, StatusCode, header};
use kube::client::Body;
use parking_lot::Mutex;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::{Value, json};

use super::testing::{Entra, Form, TENANT, entra, entra_by_path, refusal, token, token_with};
use super::*;
use crate::assigned::AssignedView;
use crate::assigned::testing::application;
use crate::jwt;
use crate::metrics::HostMetrics;
use crate::mint::{Imds, MintError, MintKey, Minter};
use crate::testing::{CLIENT, nowhere};
use client_certificate::testing::file as certificate_file;
use token_cache::{Call, FetchError, Source};

const GOOD: &str = "p4ss/w0rd+";

/// What a test's API server holds: resource versions and data, by path.
#[derive(Clone, Default)]
struct Stored(Arc<Mutex<HashMap<String, (u32, Value)>>>, Arc<Mutex<Vec<String>>>);

impl Stored {
    fn put(&self, namespace: &str, name: &str, data: &[(&str, &[u8])]) {
        let encoded = data.iter().map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value)));
        let data = Value::from_iter(encoded.collect::<HashMap<_, _>>());
        let mut stored = self.0.lock();
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{name}");
        let version = stored.get(&path).map_or(1, |(version, _)| version + 1);
        stored.insert(path, (version, data));
    }

    fn reads(&self) -> usize {
        self.1.lock().len()
    }

    fn client(&self) -> kube::Client {
        let stored = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let path = request.uri().path().to_owned();
            let found = stored.0.lock().get(&path).cloned();
            stored.1.lock().push(path);
            let (status, body) = match found {
                Some((version, data)) => {
                    let metadata = json!({"name": "s", "resourceVersion": version.to_string()});
                    (StatusCode::OK, json!({"metadata": metadata, "data": data}))
                }
                None => (
                    StatusCode::NOT_FOUND,
                    json!({"status": "Failure", "code": 404, "message": "m", "reason": "NotFound"}),
                ),
            };
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            async move {
                Ok::<_, Infallible>(http::Response::builder().status(status).body(body).unwrap())
            }
        });
        kube::Client::new(service, "default")
    }
}

fn minter(stored: &Stored, entra: &Entra) -> Minter {
    let principals = entra.principals(None).reading_secrets(stored.client()).unpacking_here();
    minter_of(principals)
}

fn minter_of(principals: Principals) -> Minter {
    let imds = Imds::new(&format!("http://{}", nowhere()), HostMetrics::detached());
    Minter::new(imds, principals, HostMetrics::detached())
}

/// An identity of `team` with the Secret `s`.
fn view(kind: api::IdentityType) -> AssignedView {
    let mut view = application("s", CLIENT);
    view.kind = kind;
    view.application.as_mut().unwrap().tenant = TENANT.parse().unwrap();
    view
}

fn with_secret() -> AssignedView {
    view(api::IdentityType::ServicePrincipal)
}

fn with_certificate() -> AssignedView {
    view(api::IdentityType::ServicePrincipalCertificate)
}

async fn fetch(minter: &Minter, view: &AssignedView) -> Result<String, MintError> {
    let key = MintKey::new(view, "https://vault.azure.net/".parse().unwrap(), None).unwrap();
    match minter.fetch(key, Call::default()).await {
        Ok(fetched) => {
            assert!(fetched.lifetime > Duration::from_secs(3000), "{:?}", fetched.lifetime);
            Ok(fetched.value.client_id.to_string())
        }
        Err(FetchError::Refused(error) | FetchError::Transient { error, .. }) => Err(error),
        Err(FetchError::Revoked(error)) => panic!("{error}"),
    }
}

/// Takes the good secret only.
fn by_secret(form: &Form) -> Response {
    if form.get("client_secret").map(String::as_str) == Some(GOOD) {
        token(CLIENT, TENANT)
    } else {
        let sent = form.get("client_secret").cloned().unwrap_or_default();
        let text = format!("AADSTS7000215: Invalid \"secret\" {sent} provided.\r\nTrace ID: 1");
        refusal(401, "invalid_client", &text)
    }
}

#[tokio::test]
async fn a_client_secret_is_shown_to_the_tenants_endpoint() {
    let entra = entra(by_secret).await;
    let stored = Stored::default();
    stored.put("team", "s", &[("clientSecret", GOOD.as_bytes())]);
    let minter = minter(&stored, &entra);
    assert_eq!(fetch(&minter, &with_secret()).await, Ok(CLIENT.to_owned()));
    {
        let asked = entra.asked.lock();
        let [(path, form)] = &asked[..] else { panic!("one call") };
        assert_eq!(*path, format!("/{TENANT}/oauth2/v2.0/token"));
        assert_eq!(form["scope"], "https://vault.azure.net//.default", "the resource verbatim");
        assert_eq!(
            (form["client_id"].as_str(), form["grant_type"].as_str()),
            (CLIENT, "client_credentials")
        );
    }
    fetch(&minter, &with_secret()).await.unwrap();
    assert_eq!((entra.asked.lock().len(), stored.reads()), (2, 1), "the Secret is kept a moment");
}

#[tokio::test]
async fn a_certificate_signs_an_assertion_for_the_tenants_endpoint() {
    for (algorithm, name) in [(&PKCS_RSA_SHA256, "RS256"), (&PKCS_ECDSA_P256_SHA256, "ES256")] {
        let entra = entra(|_| token(CLIENT, TENANT)).await;
        let stored = Stored::default();
        let (file, _) = certificate_file(algorithm, "p4ss");
        stored.put("team", "s", &[("certificate", &file), ("password", b"p4ss")]);
        assert_eq!(
            fetch(&minter(&stored, &entra), &with_certificate()).await,
            Ok(CLIENT.to_owned())
        );
        let asked = entra.asked.lock();
        let form = &asked[0].1;
        assert!(form["client_assertion_type"].ends_with("jwt-bearer"));
        let claims: Value = jwt::claims(&form["client_assertion"]).unwrap();
        assert_eq!(claims["aud"], format!("{}/{TENANT}/oauth2/v2.0/token", entra.authority));
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!(CLIENT), &json!(CLIENT)));
        let header = form["client_assertion"].split('.').next().unwrap();
        let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(header).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(header["alg"], name);
    }
}

#[tokio::test]
async fn a_replaced_credential_is_found_at_once() {
    let entra = entra(by_secret).await;
    let stored = Stored::default();
    stored.put("team", "s", &[("clientSecret", b"0ld")]);
    let minter = minter(&stored, &entra);
    fetch(&minter, &with_secret()).await.unwrap_err();
    assert_eq!((entra.asked.lock().len(), stored.reads()), (1, 1), "it was read just now");
    fetch(&minter, &with_secret()).await.unwrap_err();
    assert_eq!((entra.asked.lock().len(), stored.reads()), (2, 2), "it has not changed");
    stored.put("team", "s", &[("clientSecret", GOOD.as_bytes())]);
    assert_eq!(fetch(&minter, &with_secret()).await, Ok(CLIENT.to_owned()));
    assert_eq!((entra.asked.lock().len(), stored.reads()), (4, 3));
}

#[tokio::test]
async fn a_refusal_is_told_in_entras_words_without_the_secret() {
    let entra = entra(by_secret).await;
    let stored = Stored::default();
    stored.put("team", "s", &[("clientSecret", b"wr0ng")]);
    let minter = minter(&stored, &entra);
    let error = fetch(&minter, &with_secret()).await.unwrap_err();
    assert!(!format!("{error:?} {minter:?}").contains("wr0ng"));
    let error = NodeError::from(error);
    assert_eq!(error.code, NodeErrorCode::Refused);
    assert_eq!(error.message, "Entra refused: AADSTS7000215: Invalid 'secret' (removed) provided.");
}

#[tokio::test]
async fn only_the_identitys_own_namespace_is_read() {
    let entra = entra(by_secret).await;
    let stored = Stored::default();
    stored.put("victim", "s", &[("clientSecret", GOOD.as_bytes())]);
    let error = fetch(&minter(&stored, &entra), &with_secret()).await.unwrap_err();
    assert!(error.to_string().contains("the Secret team/s, which does not exist"), "{error}");
    assert_eq!(entra.asked.lock().len(), 0);
}

#[tokio::test]
async fn no_credential_leaves_for_an_endpoint_that_nobody_vouched_for() {
    let entra = entra(by_secret).await;
    let stored = Stored::default();
    stored.put("team", "s", &[("clientSecret", GOOD.as_bytes())]);
    let minter = minter(&stored, &entra);
    let plain = entra.authority.replace("https:", "http:");
    for endpoint in ["https://evil.example", &plain] {
        let mut view = with_secret();
        view.application.as_mut().unwrap().ad_endpoint = Some(endpoint.to_owned());
        let error = NodeError::from(fetch(&minter, &view).await.unwrap_err());
        assert_eq!(error.code, NodeErrorCode::Refused);
        assert!(error.message.contains("spec.adEndpoint"), "{}", error.message);
    }
    assert_eq!((entra.asked.lock().len(), stored.reads()), (0, 0), "nor is the Secret read");
    let mut view = with_secret();
    view.application.as_mut().unwrap().ad_endpoint = Some(format!("{}/", entra.authority));
    assert!(fetch(&minter, &view).await.is_ok());
}

#[tokio::test]
async fn without_the_admins_word_nothing_is_read_and_the_remedy_is_named() {
    let entra = entra(by_secret).await;
    let error = NodeError::from(
        fetch(&minter_of(entra.principals(None)), &with_secret()).await.unwrap_err(),
    );
    assert_eq!(error.code, NodeErrorCode::Refused);
    assert!(error.message.contains("nmiHost.allowAccessToSecrets"), "{}", error.message);
}

#[tokio::test]
async fn a_token_of_another_application_or_tenant_is_dropped() {
    let other = "00000000-0000-0000-0000-00000000000b";
    for (client, tenant, words) in
        [(other, TENANT, "another identity"), (CLIENT, other, "another tenant")]
    {
        let entra = entra(move |_| token(client, tenant)).await;
        let stored = Stored::default();
        stored.put("team", "s", &[("clientSecret", GOOD.as_bytes())]);
        let error = fetch(&minter(&stored, &entra), &with_secret()).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn failures_of_entra_pass() {
    type Answer = fn(&Form) -> Response;
    let cases: [(Answer, NodeErrorCode, &str); 4] = [
        (
            |_| refusal(503, "temporarily_unavailable", "AADSTS90033: x"),
            NodeErrorCode::Unavailable,
            "HTTP 503",
        ),
        (
            |_| (StatusCode::BAD_GATEWAY, "<html>").into_response(),
            NodeErrorCode::Unavailable,
            "HTTP 502",
        ),
        (
            |_| (StatusCode::FOUND, [(header::LOCATION, "https://evil.example/")]).into_response(),
            NodeErrorCode::Unavailable,
            "redirect",
        ),
        (
            |_| (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "7")]).into_response(),
            NodeErrorCode::Throttled,
            "slow down",
        ),
    ];
    for (answer, code, words) in cases {
        let entra = entra(answer).await;
        let stored = Stored::default();
        stored.put("team", "s", &[("clientSecret", GOOD.as_bytes())]);
        let error =
            NodeError::from(fetch(&minter(&stored, &entra), &with_secret()).await.unwrap_err());
        assert_eq!(error.code, code, "{}", error.message);
        assert!(error.message.contains(words), "{}", error.message);
        assert_eq!(entra.asked.lock().len(), 1, "to ask again is the cache's business");
        assert_eq!(error.retry_after, (code == NodeErrorCode::Throttled).then_some(7));
    }
}

#[tokio::test]
async fn an_entra_that_is_not_there_or_not_trusted_is_an_outage() {
    let mut gone = entra(by_secret).await;
    let stored = Stored::default();
    stored.put("team", "s", &[("clientSecret", GOOD.as_bytes())]);
    let other = entra(by_secret).await;
    gone.ca = other.ca;
    let error = NodeError::from(fetch(&minter(&stored, &gone), &with_secret()).await.unwrap_err());
    assert_eq!(error.code, NodeErrorCode::Unavailable, "{}", error.message);
    assert_eq!(gone.asked.lock().len(), 0, "the secret went nowhere");
    gone.authority = format!("https://{}", nowhere());
    let error = NodeError::from(fetch(&minter(&stored, &gone), &with_secret()).await.unwrap_err());
    assert_eq!(error.code, NodeErrorCode::Unavailable, "{}", error.message);
}

#[tokio::test]
async fn a_secret_that_holds_no_credential_is_refused_with_the_reason() {
    let entra = entra(by_secret).await;
    let (file, _) = certificate_file(&PKCS_ECDSA_P256_SHA256, "p4ss");
    type Data<'a> = &'a [(&'a str, &'a [u8])];
    let cases: [(AssignedView, Data<'_>, &str); 4] = [
        (with_secret(), &[("a", b"x"), ("b", b"y")], "under the key clientSecret"),
        (with_certificate(), &[("clientSecret", b"x")], "no key certificate"),
        (with_certificate(), &[("certificate", b"x")], "no PKCS#12 file"),
        (with_certificate(), &[("certificate", &file), ("password", b"0ther")], "not its password"),
    ];
    for (view, data, words) in cases {
        let stored = Stored::default();
        stored.put("team", "s", data);
        let error = NodeError::from(fetch(&minter(&stored, &entra), &view).await.unwrap_err());
        assert_eq!(error.code, NodeErrorCode::Refused);
        assert!(
            error.message.starts_with("the Secret team/s cannot be used: "),
            "{}",
            error.message
        );
        assert!(
            error.message.contains(words) && !error.message.contains("0ther"),
            "{}",
            error.message
        );
    }
    assert_eq!(entra.asked.lock().len(), 0);
}

const SECOND: &str = "20000000-0000-0000-0000-00000000000a";
const THIRD: &str = "30000000-0000-0000-0000-00000000000a";

/// A type 1 identity with two further tenants.
fn with_auxiliary() -> AssignedView {
    let mut view = with_secret();
    view.application.as_mut().unwrap().auxiliary =
        [SECOND, THIRD].map(|tenant| tenant.parse().unwrap()).into();
    view
}

/// One that answers by the path, which names the tenant.
async fn entra_of_tenants(answer: fn(&str) -> Response) -> Entra {
    entra_by_path(move |path, _| answer(path.split('/').nth(1).unwrap_or_default())).await
}

#[tokio::test]
async fn every_tenant_of_an_application_issues_a_token() {
    let entra = entra_of_tenants(|tenant| {
        let seconds = if tenant == SECOND { 3300 } else { 3600 };
        token_with(&json!({"aud": "r", "appid": CLIENT, "tid": tenant, "nbf": 7}), seconds)
    })
    .await;
    let stored = Stored::default();
    stored.put("team", "s", &[("clientSecret", GOOD.as_bytes())]);
    let key = MintKey::new(&with_auxiliary(), "r".parse().unwrap(), None).unwrap();
    let fetched = minter(&stored, &entra).fetch(key, Call::default()).await.unwrap();
    let tenant = |token: &str| jwt::claims::<Value>(token).unwrap()["tid"].clone();
    assert_eq!(tenant(&fetched.value.secret), TENANT);
    let auxiliary = &fetched.value.auxiliary;
    let tenants: Vec<Value> = auxiliary.iter().map(|token| tenant(&token.access_token)).collect();
    assert_eq!(tenants, [SECOND, THIRD], "in the order of the list");
    assert!(fetched.lifetime <= Duration::from_secs(3300), "the earliest end is that of the whole");
    assert!(fetched.lifetime > Duration::from_secs(3200));
    assert_eq!(fetched.value.expires_on, auxiliary[0].expires_on);
    assert!(auxiliary[1].expires_on > auxiliary[0].expires_on);
    assert_eq!((entra.count(), stored.reads()), (3, 1), "the Secret is read once");
    assert!(!format!("{:?}", fetched.value).contains(&fetched.value.secret));
}

#[tokio::test]
async fn a_tenant_that_refuses_is_named() {
    let other = "00000000-0000-0000-0000-00000000000b";
    let entra = entra_by_path(move |path, _| match path.contains(THIRD) {
        true => refusal(400, "unauthorized_client", "AADSTS700016: not found in the directory"),
        false => token(CLIENT, path.split('/').nth(1).unwrap_or_default()),
    })
    .await;
    let stored = Stored::default();
    stored.put("team", "s", &[("clientSecret", GOOD.as_bytes())]);
    let error = fetch(&minter(&stored, &entra), &with_auxiliary()).await.unwrap_err();
    let error = NodeError::from(error);
    assert_eq!(error.code, NodeErrorCode::Refused);
    let expected = format!("spec.auxiliaryTenantIDs, tenant {THIRD}: Entra refused: AADSTS700016");
    assert!(error.message.starts_with(&expected), "{}", error.message);

    let mixed = entra_by_path(move |path, _| match path.contains(SECOND) {
        true => token(other, SECOND),
        false => token(CLIENT, path.split('/').nth(1).unwrap_or_default()),
    })
    .await;
    let error = fetch(&minter(&stored, &mixed), &with_auxiliary()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(SECOND) && text.contains("another identity's token"), "{text}");
}
