//! Federated credentials: a cluster's service account tokens as the proof of an identity.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fake_azure::seed;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::entra::{now, with_assertion};
use crate::fixture::{Fixture, demo, jwt, start};

const ISSUER: &str = "https://cluster.example";
const SUBJECT: &str = "system:serviceaccount:team:app";
const AUDIENCE: &str = "api://AzureADTokenExchange";

/// A cluster's signing key of either kind.
enum Key {
    Rsa(aws_lc_rs::rsa::KeyPair),
    Ec(EcdsaKeyPair),
}

impl Key {
    fn rsa() -> Self {
        Self::Rsa(aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn jwks(&self) -> Value {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = match self {
            Self::Rsa(key) => {
                let public = key.public_key();
                json!({
                    "kty": "RSA", "alg": "RS256", "kid": "1",
                    "n": part(public.modulus().big_endian_without_leading_zero()),
                    "e": part(public.exponent().big_endian_without_leading_zero()),
                })
            }
            Self::Ec(key) => {
                let point = key.public_key().as_ref();
                json!({
                    "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "1",
                    "x": part(&point[1..33]), "y": part(&point[33..]),
                })
            }
        };
        json!({"keys": [key]})
    }

    fn sign(&self, claims: &Value) -> String {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => jwt(&json!({"alg": "RS256", "kid": "1"}), claims, |message| {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }),
            Self::Ec(key) => jwt(&json!({"alg": "ES256", "kid": "1"}), claims, |message| {
                key.sign(&random, message).unwrap().as_ref().to_vec()
            }),
        }
    }
}

fn service_account_claims() -> Value {
    json!({
        "iss": ISSUER, "sub": SUBJECT, "aud": [AUDIENCE],
        "iat": now(), "nbf": now(), "exp": now() + 600,
    })
}

/// Lets the service account be the identity, and tells the issuer's keys. The client id.
async fn trust(fixture: &Fixture, key: &Key) -> String {
    let issuer = json!({"issuer": ISSUER, "jwks": key.jwks()});
    fixture.ask(Method::POST, "/_fake/issuers", issuer).await;
    let credential = json!({"issuer": ISSUER, "subject": SUBJECT, "audiences": [AUDIENCE]});
    let identity = json!({"id": demo(), "federated_credentials": [credential]});
    let identity = fixture.ask(Method::POST, "/_fake/identities", identity).await;
    identity["client_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_service_account_is_an_identity_whichever_key_its_cluster_has() {
    for key in [Key::rsa(), Key::ec()] {
        let fixture = start().await;
        let client = trust(&fixture, &key).await;
        let assertion = key.sign(&service_account_claims());
        let (status, body) = with_assertion(&fixture, &client, &assertion).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(fixture.claims(&body).xms_mirid.unwrap(), demo().as_str());
        assert_eq!(body["expires_in"], 86_400, "a managed identity's lifetime");

        let journal = fixture.journal("entra").await;
        assert_eq!(journal[0].credential.as_deref(), Some("federated"));
        assert_eq!(journal[0].signature_checked, Some(true));
        assert_eq!(journal[0].subject.as_deref(), Some(SUBJECT));
        let text = serde_json::to_string(&journal).unwrap();
        assert!(!text.contains(&assertion), "no assertion in the journal");
    }
}

#[tokio::test]
async fn what_does_not_match_is_refused_in_the_words_of_entra() {
    let fixture = start().await;
    let key = Key::ec();
    let client = trust(&fixture, &key).await;
    let stranger = Key::ec();
    for (field, value, signer, code, words) in [
        ("iss", json!("https://other"), &key, 700_211, "assertion issuer 'https://other'"),
        ("sub", json!("system:serviceaccount:team:x"), &key, 700_213, "subject 'system:service"),
        ("aud", json!(["sts"]), &key, 700_212, "assertion audience 'sts'"),
        ("exp", json!(now() - 600), &key, 700_024, "not within its valid time range"),
        ("nbf", json!(now() + 600), &key, 700_024, "not within its valid time range"),
        ("jti", json!("1"), &stranger, 700_027, "failed signature validation"),
    ] {
        let mut claims = service_account_claims();
        claims[field] = value;
        let (status, body) = with_assertion(&fixture, &client, &signer.sign(&claims)).await;
        assert_eq!((status.as_u16(), &body["error"]), (401, &json!("invalid_client")), "{field}");
        assert_eq!(body["error_codes"], json!([code]), "{field}");
        let text = body["error_description"].as_str().unwrap();
        assert!(text.starts_with(&format!("AADSTS{code}: ")) && text.contains(words), "{text}");
        assert!(text.contains("Trace ID: ") && text.contains("Correlation ID: "), "{text}");
    }
    let (_, body) = with_assertion(&fixture, seed::DEMO_APP, &key.sign(&json!({"sub": 1}))).await;
    assert_eq!(body["error_codes"], json!([50_027]), "no issuer and no subject");
}

#[tokio::test]
async fn without_any_credential_the_answer_names_what_was_presented() {
    let fixture = start().await;
    let assertion = Key::ec().sign(&service_account_claims());
    let (status, body) = with_assertion(&fixture, seed::DEMO_APP, &assertion).await;
    assert_eq!((status.as_u16(), &body["error_codes"]), (400, &json!([70_021])));
    let text = body["error_description"].as_str().unwrap();
    for part in [ISSUER, SUBJECT, AUDIENCE] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn an_application_may_have_several_credentials() {
    let fixture = start().await;
    let key = Key::ec();
    trust(&fixture, &key).await;
    let app = json!({"client_id": seed::DEMO_APP, "federated_credentials": [
        {"issuer": ISSUER, "subject": "system:serviceaccount:team:other"},
        {"issuer": ISSUER, "subject": SUBJECT, "audiences": ["api://one", "api://two"]},
    ]});
    fixture.ask(Method::POST, "/_fake/apps", app).await;
    let mut claims = service_account_claims();
    for (audience, expected) in [("api://two", None), (AUDIENCE, Some(json!([700_212])))] {
        claims["aud"] = json!(audience);
        let (_, body) = with_assertion(&fixture, seed::DEMO_APP, &key.sign(&claims)).await;
        assert_eq!(body.get("error_codes"), expected.as_ref(), "{audience}");
    }
    claims["sub"] = json!("system:serviceaccount:team:other");
    let (status, body) = with_assertion(&fixture, seed::DEMO_APP, &key.sign(&claims)).await;
    assert_eq!(status, StatusCode::OK, "the usual audience is the default: {body}");
}

#[tokio::test]
async fn a_managed_identity_has_no_secret() {
    let fixture = start().await;
    let client = trust(&fixture, &Key::ec()).await;
    let (status, body) =
        fixture.secret_token(&client, "guessed", "https://vault.azure.net/.default").await;
    assert_eq!((status.as_u16(), &body["error_codes"]), (401, &json!([7_000_215])));
}

#[tokio::test]
async fn without_keys_no_signature_is_checked_and_the_journal_says_so() {
    let fixture = start().await;
    let app = json!({"client_id": seed::DEMO_APP, "federated_credentials": [
        {"issuer": ISSUER, "subject": SUBJECT},
    ]});
    fixture.ask(Method::POST, "/_fake/apps", app).await;
    let assertion = Key::ec().sign(&service_account_claims());
    let (status, body) = with_assertion(&fixture, seed::DEMO_APP, &assertion).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(fixture.journal("entra").await[0].signature_checked, Some(false));
}
