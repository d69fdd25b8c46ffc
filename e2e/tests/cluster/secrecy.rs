//! No token in what anybody can read: logs, events, objects, metrics.

use e2e::release;

use crate::env::env;
use crate::namespace::Namespace;

/// How every JWT begins.
const TOKEN: &str = concat!("ey", "J");

#[tokio::test]
async fn no_token_is_logged_or_stored() {
    let space = Namespace::new("secrecy").await;
    let identity = env().await.azure.identity("secrecy", 60).await;
    space.bind(&identity, "app").await;
    space.start(&space.pod("app", "app")).await;
    space.token("app", "").await.is_of(&identity);
    space.token("app", "&client_id=2a000000-0000-0000-0000-000000000999").await;

    let sidecar = ["-n", &space.name, "logs", "app", "-c", "nmi-sidecar"];
    let mut texts = vec![("sidecar".to_owned(), space.env.kubectl(&sidecar).await.unwrap())];
    for part in ["webhook", "controller", "nmi-host"] {
        let selector = format!("app.kubernetes.io/component={part}");
        let logs = ["-n", release::NAMESPACE, "logs", "-l", &selector, "--tail=-1"];
        let logs = space.env.kubectl(&logs).await.unwrap();
        assert!(!logs.is_empty(), "{part} logs nothing at all");
        texts.push((part.to_owned(), logs));
    }
    for kind in ["events", "azureassignedidentities", "azureidentities", "pods"] {
        let objects = space.env.kubectl(&["get", kind, "-A", "-o", "yaml"]).await.unwrap();
        texts.push((kind.to_owned(), objects));
    }
    let metrics = space.exec("app", "curl -sS http://127.0.0.1:2580/metrics").await.unwrap();
    assert!(metrics.contains("podidentity_sidecar_requests_total"), "{metrics}");
    texts.push(("metrics".to_owned(), metrics));
    for (where_, text) in texts {
        let line = text.lines().find(|line| line.contains(TOKEN));
        assert_eq!(line, None, "a token in {where_}");
    }
    space.done().await;
}
