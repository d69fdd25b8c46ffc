//! The writes against a scripted API server.

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use runtime::Metrics;
use tower_test::mock;

use super::*;
use crate::content;
use crate::desired::{Assignment, Place};
use crate::testing::{binding, identity, pod};

type Handle = mock::Handle<Request<Body>, Response<Body>>;

fn writes(leadership: Leadership) -> (Writes, Handle) {
    let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
    let metrics = ControllerMetrics::new(&Metrics::new("test", "0"));
    (Writes::new(Client::new(service, "default"), leadership, metrics), handle)
}

fn object(state: AssignedState) -> AzureAssignedIdentity {
    let (pod, identity) = (pod("apps", "web", "sel", "n1"), identity("team", "db"));
    let binding = binding("team", "b", "db", "sel");
    let assignment = Assignment {
        name: "web-1".to_owned(),
        pod: &pod,
        binding: &binding,
        identity: &identity,
        place: Place::Nowhere,
    };
    content::assigned(&assignment, content::status(state, None))
}

fn create(state: AssignedState) -> Write {
    Write::Assigned(Change::Create(Box::new(object(state))))
}

fn delete() -> Write {
    Write::Assigned(Change::Delete {
        key: ObjectKey::new("apps", "web-1"),
        uid: Some("u".to_owned()),
    })
}

fn to_assigned() -> Write {
    Write::Assigned(Change::Move {
        key: ObjectKey::new("apps", "web-1"),
        version: Some("7".to_owned()),
        status: Box::new(content::status(AssignedState::Assigned, None)),
        was: AssignedState::Created,
    })
}

/// Takes the next request, answers it, and returns its method, path and body.
async fn serve(
    handle: &mut Handle,
    answer: Result<&AzureAssignedIdentity, (u16, &str)>,
) -> (Method, String, serde_json::Value) {
    let (request, send) = handle.next_request().await.expect("a request");
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let (code, json) = match answer {
        Ok(object) => (200, serde_json::to_value(object).unwrap()),
        Err((code, reason)) => {
            let status = serde_json::json!({"kind": "Status", "apiVersion": "v1",
                "status": "Failure", "reason": reason, "code": code, "message": reason});
            (code, status)
        }
    };
    let response = Response::builder().status(code);
    send.send_response(response.body(Body::from(json.to_string().into_bytes())).unwrap());
    let body = serde_json::from_slice(&body).unwrap_or_default();
    (parts.method, parts.uri.to_string(), body)
}

async fn one(
    write: Write,
    answer: Result<&AzureAssignedIdentity, (u16, &str)>,
) -> (Finished, (Method, String, serde_json::Value)) {
    let (mut writes, mut handle) = writes(Leadership::for_ever());
    writes.start(write);
    let served = serve(&mut handle, answer).await;
    let finished = writes.finished().await.unwrap();
    (finished, served)
}

#[tokio::test]
async fn an_attached_identity_takes_one_write() {
    let object = object(AssignedState::Assigned);
    let (finished, (method, _, body)) = one(create(AssignedState::Assigned), Ok(&object)).await;
    assert_eq!((method, &body["status"]["status"]), (Method::POST, &"Assigned".into()));
    assert!(finished.newly_assigned().is_some());
}

#[tokio::test]
async fn a_status_goes_to_the_object_itself_at_its_version_and_clears_what_is_gone() {
    let object = object(AssignedState::Assigned);
    let (finished, (method, path, body)) = one(to_assigned(), Ok(&object)).await;
    assert_eq!(method, Method::PATCH);
    assert!(path.contains("/namespaces/apps/azureassignedidentities/web-1?"), "{path}");
    assert_eq!(body["metadata"]["resourceVersion"], "7");
    for field in ["message", "clientID", "objectID", "host"] {
        assert_eq!(body["status"].get(field), Some(&serde_json::Value::Null), "{field}");
    }
    assert!(finished.newly_assigned().is_some());
}

#[tokio::test]
async fn only_the_object_that_was_meant_is_deleted() {
    for answer in [(404, "NotFound"), (409, "Conflict")] {
        let (finished, (method, _, body)) = one(delete(), Err(answer)).await;
        assert_eq!((method, &body["preconditions"]["uid"]), (Method::DELETE, &"u".into()));
        assert!(matches!(finished.result, Ok(Written::Deleted)), "{answer:?}");
    }
}

#[tokio::test]
async fn a_write_for_an_old_plan_is_stale_and_not_an_error_of_the_server() {
    for (write, answer) in [
        (create(AssignedState::Created), (409, "AlreadyExists")),
        (to_assigned(), (409, "Conflict")),
        (to_assigned(), (404, "NotFound")),
    ] {
        let (finished, _) = one(write, Err(answer)).await;
        assert!(matches!(finished.result, Err(WriteError::Stale)), "{answer:?}");
    }
    let (finished, _) = one(create(AssignedState::Created), Err((403, "Forbidden"))).await;
    assert!(matches!(finished.result, Err(WriteError::Refused(_))));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_without_the_lease() {
    let (claim, leadership) = Leadership::until_revoked();
    let (mut writes, mut handle) = writes(leadership);
    claim.send_replace(None);
    writes.start(delete());
    let finished = writes.finished().await.unwrap();
    assert!(matches!(finished.result, Err(WriteError::NotLeading)));
    let request = tokio::time::timeout(Duration::from_secs(1), handle.next_request()).await;
    assert!(request.is_err(), "no request was made");
}

#[tokio::test]
async fn no_more_than_so_many_are_in_flight() {
    let (mut writes, mut handle) = writes(Leadership::for_ever());
    let mut started = 0;
    while writes.has_room() {
        writes.start(delete());
        started += 1;
    }
    assert_eq!(started, IN_FLIGHT);
    serve(&mut handle, Err((404, "NotFound"))).await;
    writes.finished().await.unwrap();
    assert!(writes.has_room());
}
