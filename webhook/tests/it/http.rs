//! Statuses and bodies of `POST /mutate`.

use axum::Router;
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::fixtures::{INJECT, injector, pod, pod_with, review};

async fn send(router: &Router, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, Vec<u8>) {
    let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

async fn mutate(router: &Router, review: &Value) -> Value {
    let body = review.to_string().into_bytes();
    let (status, body) = send(router, Method::POST, "/mutate?timeout=5s", body).await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn a_pod_that_asks_is_patched_and_the_audit_log_says_so() {
    let (injector, metrics, _server) = injector().await;
    let router = webhook::router(injector);
    let answer = mutate(&router, &review("shop", &pod())).await;
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("5f1e"), &json!(true)));
    assert_eq!(response["auditAnnotations"]["outcome"], "injected");
    let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut patched = pod();
    json_patch::patch(&mut patched, &patch).unwrap();

    let again = mutate(&router, &review("shop", &patched)).await;
    assert_eq!(again["response"]["auditAnnotations"]["outcome"], "unchanged");
    assert!(again["response"].get("patch").is_none() && again["response"]["allowed"] == true);

    let text = metrics.text();
    for outcome in ["injected", "unchanged"] {
        let line =
            format!(r#"podidentity_webhook_reviews_total{{outcome="{outcome}",reason=""}} 1"#);
        assert!(text.contains(&line), "{text}");
    }
    assert!(text.contains("podidentity_webhook_review_duration_seconds_count 2"), "{text}");
}

#[tokio::test]
async fn a_refusal_is_an_answer_with_code_and_remedy() {
    let (injector, metrics, _server) = injector().await;
    let router = webhook::router(injector);
    let pod = pod_with(|pod| pod["spec"]["shareProcessNamespace"] = json!(true));
    let answer = mutate(&router, &review("shop", &pod)).await;
    let response = &answer["response"];
    assert_eq!(response["allowed"], false);
    assert_eq!(response["status"]["code"], 403);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("shareProcessNamespace") && message.contains("to do:"), "{message}");
    assert_eq!(response["auditAnnotations"]["reasons"], "unsafe_pod");
    assert!(metrics.text().contains(r#"outcome="denied",reason="unsafe_pod"} 1"#));
}

#[tokio::test]
async fn a_pod_left_alone_is_let_in_with_the_reason() {
    let (injector, metrics, _server) = injector().await;
    let router = webhook::router(injector);
    let pod = pod_with(|pod| pod["spec"]["hostNetwork"] = json!(true));
    let answer = mutate(&router, &review("shop", &pod)).await;
    assert_eq!(answer["response"]["allowed"], true);
    assert!(answer["response"].get("patch").is_none());
    assert!(answer["response"]["warnings"][0].as_str().unwrap().contains("NO identity"));
    assert!(metrics.text().contains(r#"outcome="skipped",reason="host_network"} 1"#));
}

#[tokio::test]
async fn the_namespace_comes_from_the_request_and_one_never_seen_is_taken_as_opted_in() {
    let (injector, _metrics, _server) = injector().await;
    let router = webhook::router(injector);
    for (namespace, outcome) in [("shop", "injected"), ("plain", "skipped"), ("new", "injected")] {
        let answer = mutate(&router, &review(namespace, &pod())).await;
        assert_eq!(answer["response"]["auditAnnotations"]["outcome"], outcome, "{namespace}");
    }
}

#[tokio::test]
async fn other_requests_pass_untouched() {
    let (injector, _metrics, _server) = injector().await;
    let router = webhook::router(injector);
    let mut update = review("shop", &pod());
    update["request"]["operation"] = json!("UPDATE");
    let answer = mutate(&router, &update).await;
    assert_eq!(answer["response"], json!({"uid": "5f1e", "allowed": true}));
}

#[tokio::test]
async fn what_is_not_a_review_is_the_callers_fault() {
    let (injector, metrics, _server) = injector().await;
    let router = webhook::router(injector);
    for body in ["", "{", "[]", "{}", r#"{"apiVersion":"admission.k8s.io/v1beta1"}"#] {
        let (status, _) = send(&router, Method::POST, "/mutate", body.into()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    }
    assert!(metrics.text().contains(r#"outcome="bad_request",reason=""} 5"#));
}

#[tokio::test]
async fn what_is_not_a_pod_is_an_error_that_the_failure_policy_decides_on() {
    let (injector, metrics, _server) = injector().await;
    let router = webhook::router(injector);
    let pod = json!({"metadata": {"annotations": {INJECT: "true"}}, "spec": []});
    let body = review("shop", &pod).to_string().into_bytes();
    let (status, body) = send(&router, Method::POST, "/mutate", body).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(String::from_utf8(body).unwrap().contains("/spec of the pod is not an object"));
    assert!(metrics.text().contains(r#"outcome="failed",reason=""} 1"#));
}

#[tokio::test]
async fn size_method_and_path_are_bounded() {
    let (injector, _metrics, _server) = injector().await;
    let router = webhook::router(injector);
    for (method, path, body, expected) in [
        (Method::POST, "/mutate", vec![b' '; 3 * 1024 * 1024 + 1], StatusCode::PAYLOAD_TOO_LARGE),
        (Method::GET, "/mutate", Vec::new(), StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, "/", Vec::new(), StatusCode::NOT_FOUND),
        (Method::POST, "/mutate/", Vec::new(), StatusCode::NOT_FOUND),
    ] {
        let (status, _) = send(&router, method.clone(), path, body).await;
        assert_eq!(status, expected, "{method} {path}");
    }
    let mut large = pod();
    large["metadata"]["annotations"] = json!({"big": "x".repeat(2_500_000)});
    let answer = mutate(&router, &review("shop", &large)).await;
    assert_eq!(answer["response"]["auditAnnotations"]["outcome"], "injected");
}
