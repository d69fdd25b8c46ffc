//! The two writes that remove an object.

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use tower_test::mock;

use super::*;
use crate::snapshot::ObjectKey;

fn removal(held: bool) -> Removal {
    Removal {
        key: ObjectKey::new("default", "web-apps-db"),
        uid: "left".to_owned(),
        version: "7".to_owned(),
        finalizers: vec!["other".to_owned()],
        held,
    }
}

/// Removes one object from an API server that answers with these codes. Returns what was asked.
async fn requests(removal: Removal, codes: &'static [u16]) -> Vec<(Method, serde_json::Value)> {
    let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    let client = Client::new(service, "default");
    let task = tokio::spawn(async move {
        let at = removal;
        remove_one(&client, &at).await
    });
    let mut asked = Vec::new();
    for code in codes {
        let (request, send) = handle.next_request().await.unwrap();
        let (parts, body) = request.into_parts();
        assert!(parts.uri.path().ends_with("/azureassignedidentities/web-apps-db"));
        let body = body.collect().await.unwrap().to_bytes();
        asked.push((parts.method, serde_json::from_slice(&body).unwrap()));
        let reason = if *code == 404 { "NotFound" } else { "Conflict" };
        let answer = match code {
            200 => serde_json::json!({"apiVersion": "aadpodidentity.k8s.io/v1",
                "kind": "AzureAssignedIdentity", "metadata": {"name": "web-apps-db"}, "spec": {}}),
            code => serde_json::json!({"kind": "Status", "apiVersion": "v1",
                "status": "Failure", "reason": reason, "code": code, "message": reason}),
        };
        let body = Body::from(answer.to_string().into_bytes());
        send.send_response(Response::builder().status(*code).body(body).unwrap());
    }
    task.await.unwrap().unwrap();
    asked
}

#[tokio::test]
async fn the_finalizer_goes_first_and_both_writes_are_for_this_object_only() {
    let asked = requests(removal(true), &[200, 200]).await;
    let [(patch, sent), (delete, options)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((patch, delete), (&Method::PATCH, &Method::DELETE));
    assert_eq!(sent["metadata"]["resourceVersion"], "7");
    assert_eq!(sent["metadata"]["finalizers"], serde_json::json!(["other"]));
    assert_eq!(options["preconditions"]["uid"], "left");
    let asked = requests(removal(false), &[200]).await;
    assert_eq!(asked[0].0, Method::DELETE, "what is half removed needs only the rest");
}

#[tokio::test]
async fn what_changed_meanwhile_is_left_to_the_next_look() {
    for codes in [&[409_u16][..], &[404], &[200, 404], &[200, 409]] {
        requests(removal(true), codes).await;
    }
}
