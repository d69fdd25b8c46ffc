//! The minter against a metadata service on loopback.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use token_cache::{GetError, Policy, TokenCache};

use super::*;
use crate::assigned::testing::assigned;
use crate::testing::{CLIENT, FakeImds, error_answer, imds, nowhere, token_answer};

const OTHER: &str = "00000000-0000-0000-0000-00000000000b";

fn cache(endpoint: &str) -> TokenCache<Minter> {
    let minter =
        Minter::of_imds(Imds::new(endpoint, HostMetrics::detached()), HostMetrics::detached());
    TokenCache::new(minter, Policy::default())
}

fn key() -> MintKey {
    let resource = "https://vault.azure.net".parse().unwrap();
    MintKey::new(&assigned("db", Some(CLIENT)), resource, None).unwrap()
}

/// The outcome of one request, and the service that was asked.
async fn minted(
    answer: impl Fn(usize) -> Response + Clone + Send + Sync + 'static,
) -> (Result<Token, MintError>, FakeImds) {
    let imds = imds(answer).await;
    let outcome = match cache(&imds.endpoint).get(&key()).await {
        Ok(hit) => Ok(hit.value),
        Err(GetError::Source(error)) => Err(error),
        Err(other) => panic!("{other}"),
    };
    (outcome, imds)
}

#[tokio::test]
async fn a_token_is_asked_for_by_resource_id_and_checked() {
    let (token, imds) = minted(|_| token_answer(CLIENT)).await;
    let token = token.unwrap();
    assert_eq!(token.client_id.as_str(), CLIENT);
    assert_eq!(token.not_before, 7);
    let target = imds.target(0);
    assert!(target.starts_with("/metadata/identity/oauth2/token?api-version=2018-02-01&resource="));
    assert!(target.ends_with("userAssignedIdentities%2Fdb"), "{target}");
    assert!(!target.contains("client_id"), "{target}");
}

#[tokio::test]
async fn an_identity_that_has_not_spread_yet_is_asked_for_again() {
    let (token, imds) = minted(|number| match number {
        0 | 1 => error_answer(400, "Identity not found"),
        _ => token_answer(CLIENT),
    })
    .await;
    assert_eq!(token.unwrap().client_id.as_str(), CLIENT);
    assert_eq!(imds.count(), 3);
}

#[tokio::test]
async fn a_service_that_is_updating_or_throttling_is_asked_again() {
    let (token, imds) = minted(|number| match number {
        0 => error_answer(410, "gone"),
        1 => error_answer(503, "down"),
        _ => token_answer(CLIENT),
    })
    .await;
    assert!(token.is_ok());
    assert_eq!(imds.count(), 3);
}

#[tokio::test]
async fn another_identitys_token_is_dropped_and_not_asked_for_again() {
    let (outcome, imds) = minted(|_| token_answer(OTHER)).await;
    assert_eq!(outcome, Err(MintError::WrongToken(WrongToken::OtherIdentity)));
    assert_eq!(imds.count(), 1);
    let error = NodeError::from(outcome.unwrap_err());
    assert_eq!(error.code, NodeErrorCode::Refused);
}

#[tokio::test]
async fn a_definitive_refusal_is_passed_on_in_azures_words() {
    let (outcome, imds) = minted(|_| error_answer(400, "AADSTS500011: no such resource")).await;
    let error = NodeError::from(outcome.unwrap_err());
    assert_eq!(error.code, NodeErrorCode::Refused);
    assert_eq!(error.message, "Azure refused: invalid_request: AADSTS500011: no such resource");
    assert_eq!(imds.count(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = imds(|_| token_answer(CLIENT)).await;
    let location = format!("{}/metadata/identity/oauth2/token", elsewhere.endpoint);
    let redirecting =
        imds(move |_| (StatusCode::FOUND, [(header::LOCATION, location.clone())]).into_response())
            .await;
    let minter = Minter::of_imds(
        Imds::new(&redirecting.endpoint, HostMetrics::detached()),
        HostMetrics::detached(),
    );
    match minter.fetch(key(), Call::default()).await {
        Err(FetchError::Transient {
            error: MintError::Imds(ImdsError::Unavailable(text)), ..
        }) => {
            assert!(text.contains("redirect"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((redirecting.count(), elsewhere.count()), (1, 0));
}

#[tokio::test]
async fn a_service_that_is_not_there_is_an_outage() {
    let minter = Minter::of_imds(
        Imds::new(&format!("http://{}", nowhere()), HostMetrics::detached()),
        HostMetrics::detached(),
    );
    let error = minter.fetch(key(), Call::default()).await.unwrap_err();
    assert!(matches!(error, FetchError::Transient { .. }), "{error:?}");
    assert_eq!(minter.patience(&error), OUTAGE);
    assert_eq!(NodeError::from(error.error().clone()).code, NodeErrorCode::Unavailable);
}

#[tokio::test]
async fn pods_with_one_identity_share_one_call() {
    let imds = imds(|_| token_answer(CLIENT)).await;
    let cache = cache(&imds.endpoint);
    let mut elsewhere = assigned("db", Some(CLIENT));
    elsewhere.pod.uid = "uid-2".to_owned();
    elsewhere.resource_id =
        Some(elsewhere.resource_id.unwrap().as_str().to_uppercase().parse().unwrap());
    let other_pod =
        MintKey::new(&elsewhere, "https://vault.azure.net".parse().unwrap(), None).unwrap();
    cache.get(&key()).await.unwrap();
    cache.get(&other_pod).await.unwrap();
    assert_eq!(imds.count(), 1);
    let other_resource =
        MintKey::new(&elsewhere, "https://vault.azure.net/".parse().unwrap(), None);
    cache.get(&other_resource.unwrap()).await.unwrap();
    assert_eq!(imds.count(), 2, "the resource is taken literally");
}

#[test]
fn what_a_throttling_service_says_reaches_the_sidecar() {
    let retry_after = Some(Duration::from_secs(7));
    let error = NodeError::from(MintError::Imds(ImdsError::Throttled(retry_after)));
    assert_eq!((error.code, error.retry_after), (NodeErrorCode::Throttled, Some(7)));
}
