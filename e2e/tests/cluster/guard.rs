//! A pod that is not injected does not reach the metadata address.

use serde_json::json;

use crate::env::env;
use crate::namespace::{Answer, Namespace};

#[tokio::test]
async fn a_pod_that_is_not_injected_is_refused() {
    let space = Namespace::plain("plain").await;
    space.start(&space.pod("app", "app")).await;
    let started = std::time::Instant::now();
    let answer = space.token("app", "").await;
    let Answer::NoConnection(error) = answer else { panic!("answered: {answer:?}") };
    assert!(error.contains("Failed to connect"), "{error}");
    assert!(started.elapsed().as_secs() < 5, "refused, not dropped");
    space.done().await;
}

#[tokio::test]
async fn an_excepted_pod_reaches_the_nodes_own_identity() {
    let space = Namespace::plain("excepted").await;
    let spec = json!({"podLabels": {"app": "agent"}});
    let exception = space.object("AzurePodIdentityException", "agent", &spec);
    space.apply(&exception).await.unwrap();
    space.start(&e2e::pods::client(&space.name, "agent", e2e::pods::IDLE)).await;
    space.start(&e2e::pods::client(&space.name, "other", e2e::pods::IDLE)).await;

    let query = "&client_id=20000000-0000-0000-0000-000000000004";
    let answer = crate::env::eventually(
        "the exception is applied",
        std::time::Duration::from_secs(20),
        async || {
            let answer = space.token("agent", query).await;
            matches!(answer, Answer::Http(..)).then_some(answer)
        },
    )
    .await;
    assert_eq!(answer.claims()["appid"], "20000000-0000-0000-0000-000000000004");
    assert!(matches!(space.token("other", query).await, Answer::NoConnection(_)));

    space.delete("azurepodidentityexception", "agent").await;
    crate::env::eventually("it is closed again", std::time::Duration::from_secs(20), async || {
        matches!(space.token("agent", query).await, Answer::NoConnection(_)).then_some(())
    })
    .await;
    space.done().await;
}

#[tokio::test]
async fn the_other_paths_and_ports_of_the_metadata_address_are_closed_in_a_pod() {
    let space = Namespace::new("paths").await;
    let identity = env().await.azure.identity("paths", 30).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    for path in [
        "/metadata/instance",
        "/metadata/identity%2Foauth2/token",
        "/metadata/identity\\oauth2\\token/",
    ] {
        let command = format!(
            "curl -sS --path-as-is -o /dev/null -w '%{{http_code}}' -H Metadata:true 'http://169.254.169.254{path}?api-version=2018-02-01&resource=x'"
        );
        assert_eq!(space.exec("app", &command).await.unwrap(), "404", "{path}");
    }
    let other_port = "curl -sS --max-time 5 http://169.254.169.254:8080/";
    assert!(space.exec("app", other_port).await.unwrap_err().contains("Failed to connect"));
    space.done().await;
}
