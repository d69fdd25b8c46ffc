//! A fake on free ports, and a client that trusts it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fake_azure::journal::{Entry, Page};
use fake_azure::{ArmId, Claims, Config, FakeAzure, decode_claims, seed};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running fake.
pub(crate) struct Fixture {
    pub(crate) fake: FakeAzure,
    pub(crate) http: Client,
    pub(crate) dir: TempDir,
}

pub(crate) async fn start() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let fake = FakeAzure::start(Config::local(dir.path())).await.unwrap();
    let http = client(&fake, None);
    Fixture { fake, http, dir }
}

/// A client whose requests come from `source`.
pub(crate) fn client(fake: &FakeAzure, source: Option<&str>) -> Client {
    Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(fake.ca_pem().as_bytes()).unwrap()])
        .local_address(source.map(|address| address.parse().unwrap()))
        .no_proxy()
        .build()
        .unwrap()
}

pub(crate) fn demo() -> ArmId {
    seed::identity_id("demo-identity")
}

pub(crate) fn second() -> ArmId {
    seed::identity_id("second-identity")
}

/// Status and JSON body.
pub(crate) async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let body = response.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// A token of the form header.claims.signature, signed by `sign`.
pub(crate) fn jwt(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

impl Fixture {
    // === control ===

    pub(crate) async fn control(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        let url = format!("{}{path}", self.fake.control_url());
        read(self.http.request(method, url).json(body).send().await.unwrap()).await
    }

    /// A control request that must succeed.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.control(method, path, &body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    pub(crate) async fn faults(&self, faults: Value) {
        self.ask(Method::PUT, "/_fake/faults", faults).await;
    }

    pub(crate) async fn attach(&self, host: &ArmId, identities: &[ArmId]) {
        let body = json!({"host": host, "identities": identities});
        self.ask(Method::POST, "/_fake/hosts/attach", body).await;
    }

    pub(crate) async fn journal(&self, service: &str) -> Vec<Entry> {
        let path = format!("/_fake/journal?service={service}");
        let page = self.ask(Method::GET, &path, Value::Null).await;
        let page: Page = serde_json::from_value(page).unwrap();
        page.entries.iter().map(|entry| Entry::clone(entry)).collect()
    }

    /// Waits until the journal of a service has this many entries.
    pub(crate) async fn journal_of(&self, service: &str, count: usize) -> Vec<Entry> {
        let wait = async {
            loop {
                let entries = self.journal(service).await;
                if entries.len() >= count {
                    return entries;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("entries arrive")
    }

    pub(crate) async fn host(&self, id: &ArmId) -> Value {
        let state = self.ask(Method::GET, "/_fake/state", Value::Null).await;
        let hosts = state["hosts"].as_array().unwrap().clone();
        hosts.into_iter().find(|host| host["id"] == id.as_str()).expect("the host exists")
    }

    // === IMDS ===

    pub(crate) async fn imds(&self, query: &str) -> (StatusCode, Value) {
        self.imds_from(&self.http, query).await
    }

    pub(crate) async fn imds_from(&self, client: &Client, query: &str) -> (StatusCode, Value) {
        let url = format!(
            "{}/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net{query}",
            self.fake.imds_url()
        );
        read(client.get(url).header("Metadata", "true").send().await.unwrap()).await
    }

    /// The claims of a token, its signature checked.
    pub(crate) fn claims(&self, body: &Value) -> Claims {
        let token = body["access_token"].as_str().expect("a token was issued");
        decode_claims(token, self.fake.jwks()).unwrap()
    }

    // === Entra ===

    pub(crate) async fn entra(&self, tenant: &str, form: &[(&str, &str)]) -> (StatusCode, Value) {
        let url = format!("{}/{tenant}/oauth2/v2.0/token", self.fake.entra_url());
        let body = url_encode(form);
        let request = self
            .http
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        read(request.send().await.unwrap()).await
    }

    pub(crate) async fn secret_token(
        &self,
        client: &str,
        secret: &str,
        scope: &str,
    ) -> (StatusCode, Value) {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", client),
            ("client_secret", secret),
            ("scope", scope),
        ];
        self.entra(seed::TENANT, &form).await
    }

    // === ARM ===

    pub(crate) async fn arm_token(&self) -> String {
        let scope = "https://management.azure.com/.default";
        let (_, body) =
            self.secret_token(seed::CONTROLLER_APP, seed::CONTROLLER_APP_SECRET, scope).await;
        body["access_token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn arm(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Response {
        let url = format!("{}{path}?api-version=2024-07-01", self.fake.arm_url());
        let mut request = self.http.request(method.clone(), url).bearer_auth(token);
        if method != Method::GET {
            request = request.json(body);
        }
        request.send().await.unwrap()
    }

    pub(crate) async fn get(&self, token: &str, id: &ArmId) -> (StatusCode, Value) {
        read(self.arm(token, Method::GET, id.as_str(), &Value::Null).await).await
    }

    /// PATCH of a host with a type and id → `{}` or `null`.
    pub(crate) async fn patch(
        &self,
        token: &str,
        host: &ArmId,
        kind: &str,
        identities: &[(&ArmId, Value)],
    ) -> Response {
        let map: serde_json::Map<_, _> =
            identities.iter().map(|(id, value)| (id.to_string(), value.clone())).collect();
        let body = json!({"identity": {"type": kind, "userAssignedIdentities": map}});
        self.arm(token, Method::PATCH, host.as_str(), &body).await
    }
}

fn url_encode(form: &[(&str, &str)]) -> String {
    let mut encoder = form_urlencoded::Serializer::new(String::new());
    encoder.extend_pairs(form);
    encoder.finish()
}
