//! The token endpoint.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fake_azure::{decode_claims, seed};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize, SigningKey};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Fixture, jwt, read, start};

const VAULT: &str = "https://vault.azure.net/.default";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn rsa_key() -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
}

pub(crate) async fn with_assertion(
    fixture: &Fixture,
    client: &str,
    assertion: &str,
) -> (StatusCode, Value) {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", client),
        ("client_assertion_type", ASSERTION_TYPE),
        ("client_assertion", assertion),
        ("scope", VAULT),
    ];
    fixture.entra(seed::TENANT, &form).await
}

#[tokio::test]
async fn a_secret_buys_a_token_whose_lifetime_is_a_number() {
    let fixture = start().await;
    let (status, body) = fixture.secret_token(seed::DEMO_APP, seed::DEMO_APP_SECRET, VAULT).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let lifetime = body["expires_in"].as_u64().unwrap();
    assert!((3600..=5400).contains(&lifetime), "{lifetime}");
    assert!(body["ext_expires_in"].is_u64());
    let claims = fixture.claims(&body);
    assert_eq!(
        (claims.appid.as_str(), claims.aud.as_str()),
        (seed::DEMO_APP, "https://vault.azure.net")
    );
    assert_eq!((claims.exp - claims.iat, claims.xms_mirid), (lifetime, None));

    fixture.faults(json!({"token_lifetime": {"application_seconds": 60}})).await;
    let (_, body) = fixture.secret_token(seed::DEMO_APP, seed::DEMO_APP_SECRET, VAULT).await;
    assert_eq!(body["expires_in"], 60);
}

#[tokio::test]
async fn wrong_requests_get_the_codes_that_clients_know() {
    let fixture = start().await;
    let (app, secret, grant) = (seed::DEMO_APP, seed::DEMO_APP_SECRET, "client_credentials");
    let unknown = "99999999-0000-0000-0000-000000000000";
    for (tenant, client, secret, scope, status, error, code) in [
        (seed::TENANT, app, "wrong", VAULT, 401, "invalid_client", 7_000_215),
        (seed::TENANT, unknown, secret, VAULT, 400, "unauthorized_client", 700_016),
        (unknown, app, secret, VAULT, 400, "invalid_request", 90_002),
        (seed::TENANT, app, secret, "https://vault.azure.net", 400, "invalid_scope", 1_002_012),
        (seed::TENANT, app, secret, "api://unknown-app/.default", 400, "invalid_resource", 500_011),
    ] {
        let form = [
            ("grant_type", grant),
            ("client_id", client),
            ("client_secret", secret),
            ("scope", scope),
        ];
        let (found, body) = fixture.entra(tenant, &form).await;
        assert_eq!((found.as_u16(), &body["error"]), (status, &json!(error)), "{body}");
        assert_eq!(body["error_codes"], json!([code]));
        let text = body["error_description"].as_str().unwrap();
        assert!(text.starts_with(&format!("AADSTS{code}: ")), "{text}");
        assert!(body["trace_id"].is_string() && body["correlation_id"].is_string());
        let stamp = body["timestamp"].as_str().unwrap();
        assert!(stamp.len() == 20 && stamp.contains(' ') && stamp.ends_with('Z'), "{stamp}");
        assert!(text.ends_with(&format!("Timestamp: {stamp}")), "{text}");
    }
    let (_, body) = fixture.entra("demo.example", &[("grant_type", "password")]).await;
    assert_eq!(body["error"], "unsupported_grant_type");
    let form = [("grant_type", grant), ("client_id", app), ("scope", VAULT)];
    let (_, body) = fixture.entra(seed::TENANT, &form).await;
    assert_eq!(body["error_codes"], json!([7_000_216]), "no credential at all");
}

#[tokio::test]
async fn a_certificate_assertion_is_checked_against_the_registered_certificate() {
    let fixture = start().await;
    let (key, stranger) = (rsa_key(), rsa_key());
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    let app = json!({"client_id": seed::DEMO_APP, "certificates": [certificate.pem()]});
    fixture.ask(Method::POST, "/_fake/apps", app).await;

    let endpoint = |tenant| format!("{}/{tenant}/oauth2/v2.0/token", fixture.fake.entra_url());
    let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, certificate.der());
    let x5t = json!({"alg": "RS256", "x5t": URL_SAFE_NO_PAD.encode(sha1)});
    let sha256 = digest(&SHA256, certificate.der());
    let x5t_s256 = json!({"alg": "RS256", "x5t#S256": URL_SAFE_NO_PAD.encode(sha256)});
    let unknown = json!({"alg": "RS256", "x5t": "AAAA"});
    let claims = |audience: String, expires: u64| {
        json!({"iss": seed::DEMO_APP, "sub": seed::DEMO_APP, "aud": audience, "nbf": now() - 10,
               "exp": expires, "jti": "1"})
    };
    let good = claims(endpoint(seed::TENANT), now() + 300);
    let old = claims(endpoint(seed::TENANT), now() - 3600);
    let elsewhere = claims(endpoint("elsewhere"), now() + 300);
    for (header, claims, key, code) in [
        (&x5t, &good, &key, None),
        (&x5t_s256, &good, &key, None),
        (&unknown, &good, &key, Some(700_027)),
        (&x5t, &good, &stranger, Some(700_027)),
        (&x5t, &old, &key, Some(700_024)),
        (&x5t, &elsewhere, &key, Some(700_023)),
    ] {
        let assertion = jwt(header, claims, |message| key.sign(message).unwrap());
        let (status, body) = with_assertion(&fixture, seed::DEMO_APP, &assertion).await;
        match code {
            None => assert_eq!(status, StatusCode::OK, "{header} {body}"),
            Some(code) => assert_eq!(body["error_codes"], json!([code]), "{header} {body}"),
        }
    }
    let journal = fixture.journal("entra").await;
    assert!(journal.iter().all(|entry| entry.credential.as_deref() == Some("certificate")));
    assert_eq!(journal[2].error.as_deref(), Some("AADSTS700027"));
}

#[tokio::test]
async fn discovery_leads_to_the_keys_that_verify_tokens() {
    let fixture = start().await;
    let url = format!(
        "{}/{}/v2.0/.well-known/openid-configuration",
        fixture.fake.entra_url(),
        seed::TENANT
    );
    let (_, discovery) = read(fixture.http.get(url).send().await.unwrap()).await;
    let token_endpoint = discovery["token_endpoint"].as_str().unwrap();
    assert!(token_endpoint.starts_with(&fixture.fake.entra_url()), "{token_endpoint}");
    let jwks = fixture.http.get(discovery["jwks_uri"].as_str().unwrap()).send().await.unwrap();
    let (_, jwks) = read(jwks).await;
    let (_, body) = fixture.secret_token(seed::DEMO_APP, seed::DEMO_APP_SECRET, VAULT).await;
    assert!(decode_claims(body["access_token"].as_str().unwrap(), &jwks).is_ok());
}

#[tokio::test]
async fn faults_and_secrets_stay_where_they_belong() {
    let fixture = start().await;
    fixture
        .faults(json!({"entra": {"failure_rate": 1.0, "status": 503, "retry_after_seconds": 2}}))
        .await;
    let (status, body) = fixture.secret_token(seed::DEMO_APP, seed::DEMO_APP_SECRET, VAULT).await;
    assert_eq!((status.as_u16(), &body["error"]), (503, &json!("temporarily_unavailable")));
    fixture.faults(json!({})).await;
    let (status, _) = fixture.secret_token(seed::DEMO_APP, seed::DEMO_APP_SECRET, VAULT).await;
    assert_eq!(status, StatusCode::OK);
    let journal = serde_json::to_string(&fixture.journal("entra").await).unwrap();
    assert!(journal.contains("client_secret") && !journal.contains(seed::DEMO_APP_SECRET));
}

#[tokio::test]
async fn an_authority_is_discovered_as_clients_do_it() {
    let fixture = start().await;
    let base = fixture.fake.entra_url();
    let ask = async |path: String| read(fixture.http.get(path).send().await.unwrap()).await;
    let endpoint = format!("{base}/{}/oauth2/v2.0/authorize", seed::TENANT);
    let (status, body) = ask(format!(
        "{base}/common/discovery/instance?api-version=1.1&authorization_endpoint={endpoint}"
    ))
    .await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let aliases = body["metadata"].to_string();
    assert!(aliases.contains(base.trim_start_matches("https://")), "{aliases}");
    let (status, document) = ask(body["tenant_discovery_endpoint"].as_str().unwrap().into()).await;
    assert_eq!(status, StatusCode::OK, "{document}");
    assert_eq!(document["issuer"], format!("{base}/{}/v2.0", seed::TENANT));

    let (status, body) = ask(format!(
        "{base}/common/discovery/instance?authorization_endpoint=https://evil.example/x/authorize"
    ))
    .await;
    assert_eq!((status.as_u16(), &body["error"]), (400, &json!("invalid_instance")));
}

#[tokio::test]
async fn an_application_is_somebody_else_in_another_tenant() {
    const GUEST: &str = "10000000-0000-0000-0000-000000000002";
    const OBJECT: &str = "50000000-0000-0000-0000-0000000000aa";
    let fixture = start().await;
    fixture.ask(Method::POST, "/_fake/tenants", json!({"id": GUEST})).await;
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", seed::DEMO_APP),
        ("client_secret", seed::DEMO_APP_SECRET),
        ("scope", VAULT),
    ];
    let (_, body) = fixture.entra(GUEST, &form).await;
    assert_eq!(body["error_codes"], json!([700_016]), "not let in yet");
    let app = json!({"client_id": seed::DEMO_APP, "guest_tenants": {GUEST: OBJECT}});
    fixture.ask(Method::POST, "/_fake/apps", app).await;
    let (status, body) = fixture.entra(GUEST, &form).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let claims = fixture.claims(&body);
    assert_eq!((claims.tid.as_str(), claims.oid.as_str()), (GUEST, OBJECT));
    assert_eq!(claims.appid.as_str(), seed::DEMO_APP);
    let (_, body) = fixture.entra(seed::TENANT, &form).await;
    assert_eq!(fixture.claims(&body).tid.as_str(), seed::TENANT);
}

#[tokio::test]
async fn the_callers_correlation_id_comes_back_and_is_recorded() {
    const ID: &str = "0f0f0f0f-0000-0000-0000-000000000001";
    let fixture = start().await;
    let url = format!("{}/{}/oauth2/v2.0/token", fixture.fake.entra_url(), seed::TENANT);
    let request = fixture.http.post(url).header("client-request-id", ID).body("grant_type=x");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["client-request-id"], ID);
    let (_, body) = read(response).await;
    assert_eq!(body["correlation_id"], ID);
    assert!(body["error_description"].as_str().unwrap().contains(ID));
    let journal = fixture.journal("entra").await;
    assert_eq!(journal[0].correlation_id.as_deref(), Some(ID));
}
