//! CSI drivers and FlexVolumes: a process of the node gets a pod's secret from a key vault.

use e2e::topology::{AZURE_IP, FAKE_AZURE_VAULT_PORT};
use serde_json::{Value, json};

use crate::env::{Identity, env};
use crate::host;
use crate::namespace::{Answer, Namespace, parse};

const VAULT: &str = "flows";

/// Asks the agent of a node for a pod's token, with these headers.
async fn host_token(node: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let Answer::Http(status, body) = host::ask(node, headers).await else { panic!("no answer") };
    (status, body)
}

/// Gets a secret as a driver on this node would.
async fn secret(node: &str, name: &str, token: &str) -> (u16, Value) {
    let ca = env().await.cluster.fake_azure_ca();
    let host = format!("{VAULT}.vault.azure.net");
    let command = format!(
        "curl -sS --cacert {} --resolve {host}:{FAKE_AZURE_VAULT_PORT}:{AZURE_IP} -H 'Authorization: Bearer {token}' 'https://{host}:{FAKE_AZURE_VAULT_PORT}/secrets/{name}?api-version=7.4' -w '\\n%{{http_code}}'",
        ca.display()
    );
    let Answer::Http(status, body) = parse(&env().await.on_node(node, &command).await.unwrap())
    else {
        panic!("no answer")
    };
    (status, body)
}

async fn pod_of(space: &Namespace, identity: &Identity) -> String {
    space.bind(identity, &identity.name).await;
    space.start(&space.pod(&identity.name, &identity.name)).await;
    space.node_of(&identity.name).await
}

#[tokio::test]
async fn a_driver_on_the_node_gets_the_secrets_of_a_pods_identity() {
    let space = Namespace::new("vault").await;
    let azure = &env().await.azure;
    let (reader, other) = (azure.identity("reader", 70).await, azure.identity("other", 71).await);
    let vault = json!({
        "name": VAULT, "readers": [reader.object_id], "secrets": {"db": "not-a-secret-db"},
    });
    azure.post("vaults", &vault).await;
    let node = pod_of(&space, &reader).await;
    let other_node = pod_of(&space, &other).await;

    let of_pod = |name| [("podns", space.name.as_str()), ("podname", name)];
    let (status, body) = host_token(&node, &of_pod("reader")).await;
    assert_eq!((status, &body["clientid"]), (200, &json!(reader.client_id)), "{body}");
    let token = body["token"]["access_token"].as_str().unwrap();
    let (status, body) = secret(&node, "db", token).await;
    assert_eq!((status, &body["value"]), (200, &json!("not-a-secret-db")), "{body}");
    let (status, body) = secret(&node, "absent", token).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("SecretNotFound")));

    // The identity of another pod is a good one, but the vault does not let it in.
    let (_, body) = host_token(&other_node, &of_pod("other")).await;
    let token = body["token"]["access_token"].as_str().unwrap();
    let (status, body) = secret(&other_node, "db", token).await;
    assert_eq!((status, &body["error"]["code"]), (403, &json!("Forbidden")), "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains(&other.client_id), "{body}");
    space.done().await;
}

#[tokio::test]
async fn who_names_no_pod_of_the_node_gets_no_token() {
    let space = Namespace::new("vault-refused").await;
    let identity = env().await.azure.identity("refused-host", 72).await;
    let node = pod_of(&space, &identity).await;
    let (namespace, pod) = (("podns", space.name.as_str()), ("podname", "refused-host"));
    assert_eq!(host_token(&node, &[namespace, pod]).await.0, 200);
    for (headers, expected) in [
        (&[namespace, ("podname", "nobody")][..], 404),
        (&[("podns", "default"), pod], 404),
        (&[namespace], 400),
        (&[pod], 400),
        (&[], 400),
        (&[namespace, pod, ("podname", "second")], 400),
        (&[namespace, ("podname", "../etc")], 400),
        (&[namespace, pod, ("Origin", "https://evil.example")], 403),
        (&[namespace, pod, ("Host", "evil.example")], 403),
    ] {
        let (status, body) = host_token(&node, headers).await;
        assert_eq!(status, expected, "{headers:?}: {body}");
        assert!(body["error_description"].is_string(), "{headers:?}: {body}");
        assert!(body.get("token").is_none(), "{headers:?}");
    }
    let elsewhere = ["node1", "node2", "node3"].into_iter().find(|name| *name != node).unwrap();
    let (status, body) = host_token(elsewhere, &[namespace, pod]).await;
    assert_ne!(status, 200, "the pod of another node: {body}");
    space.done().await;
}
