//! The local copy of namespaces, against an API server that the tests play.

use std::time::Duration;

use http::Response;
use kube::client::Body;
use runtime::Shutdown;
use serde_json::json;
use webhook::NamespaceView;

use crate::fixtures::{INJECT, answer_list, listed, namespace, until, watched};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn ready_means_that_all_namespaces_have_been_seen() {
    let (namespaces, ready, mut server) = watched(&Shutdown::manual());
    assert!(!ready.is_set());
    assert_eq!(namespaces.get("shop"), NamespaceView::unknown());
    answer_list(&mut server, &json!([listed("shop", Some("enabled"))])).await;
    until(|| ready.is_set()).await;
    assert_eq!(namespaces.get("shop"), namespace(&[], &[]));
    assert_eq!(namespaces.get("other"), NamespaceView::unknown());
}

#[tokio::test]
async fn a_namespace_that_the_watch_has_yet_to_learn_of_is_waited_for() {
    let (namespaces, ready, mut server) = watched(&Shutdown::manual());
    answer_list(&mut server, &json!([listed("shop", None)])).await;
    until(|| ready.is_set()).await;
    let copy = namespaces.clone();
    let waiting = tokio::spawn(async move { copy.enabled("shop", LONG).await });

    let (request, send) = server.next_request().await.unwrap();
    assert!(request.uri().query().unwrap().contains("watch=true"));
    let mut object = listed("shop", Some("enabled"));
    object["metadata"]["resourceVersion"] = json!("2");
    let event = json!({"type": "MODIFIED", "object": object}).to_string() + "\n";
    let mut opted_in = namespaces.opted_in();
    assert!(opted_in.borrow_and_update().is_empty());
    send.send_response(Response::new(Body::from(event.into_bytes())));
    opted_in.changed().await.unwrap();
    assert_eq!(opted_in.borrow().iter().collect::<Vec<_>>(), ["shop"]);
    assert_eq!(waiting.await.unwrap(), namespace(&[], &[]));
}

#[tokio::test]
async fn patience_ends_with_what_is_known() {
    let (namespaces, ready, mut server) = watched(&Shutdown::manual());
    answer_list(&mut server, &json!([listed("shop", Some("disabled"))])).await;
    until(|| ready.is_set()).await;
    let short = Duration::from_millis(20);
    assert_eq!(namespaces.enabled("shop", short).await, namespace(&[(INJECT, "disabled")], &[]));
    assert_eq!(namespaces.enabled("new", short).await, NamespaceView::unknown());
}

#[tokio::test]
async fn the_watch_ends_with_the_process() {
    let shutdown = Shutdown::manual();
    let (_namespaces, _ready, mut server) = watched(&shutdown);
    shutdown.begin();
    // The client goes away with the watch, and the server's side says so.
    while let Some((_, send)) = tokio::time::timeout(LONG, server.next_request()).await.unwrap() {
        send.send_response(Response::new(Body::empty()));
    }
}
