//! Service principals, exceptions, init containers.

use e2e::pods;
use serde_json::json;

use super::LIMIT;
use crate::env::{env, eventually};
use crate::namespace::{Answer, Namespace, curl, parse};

const APP: &str = "40000000-0000-0000-0000-000000000001";
const TENANT: &str = "10000000-0000-0000-0000-000000000001";
const SECRET: &str = "not-a-secret-demo-app";
const CLUSTER: &str = "20000000-0000-0000-0000-000000000004";

/// Of `When deploying service principal`.
#[tokio::test]
async fn should_pass_the_identity_validation() {
    let space = Namespace::new("principal-valid").await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"namespace": space.name, "name": "app"},
        "stringData": {"clientSecret": SECRET}});
    space.apply(&secret).await.unwrap();
    let spec = json!({"type": 1, "tenantID": TENANT, "clientID": APP,
        "clientPassword": {"name": "app", "namespace": space.name}});
    space.apply(&space.object("AzureIdentity", "principal", &spec)).await.unwrap();
    space.bind_name("principal", "app").await;
    space.start(&space.pod("app", "app")).await;
    for query in [format!("&client_id={APP}"), String::new()] {
        assert_eq!(space.token("app", &query).await.claims()["appid"], APP);
    }
    space.done().await;
}

/// Of `When deploying AzurePodIdentityException`. It reaches IMDS itself, not its own identity.
#[tokio::test]
async fn should_pass_validation_by_bypassing_nmi_using_azurepodidentityexception_crd() {
    let space = Namespace::plain("bypass").await;
    let spec = json!({"podLabels": {"foo": "bar"}});
    space.apply(&space.object("AzurePodIdentityException", "bypass", &spec)).await.unwrap();
    let mut pod = pods::client(&space.name, "app", pods::IDLE);
    // An empty binding label, as the predecessor's test has it.
    pod["metadata"]["labels"] = json!({"foo": "bar", "aadpodidbinding": ""});
    space.start(&pod).await;
    let answer = eventually("the exception is applied", LIMIT, async || {
        let answer = space.token("app", &format!("&client_id={CLUSTER}")).await;
        matches!(answer, Answer::Http(..)).then_some(answer)
    })
    .await;
    assert_eq!(answer.claims()["appid"], CLUSTER);
    space.done().await;
}

/// Of `When init containers are enabled`.
#[tokio::test]
async fn should_assign_identity_with_init_container() {
    let space = Namespace::new("init-assigned").await;
    let identity = env().await.azure.identity("init-assigned", 30_167).await;
    space.bind(&identity, "app").await;
    let mut pod = space.pod("app", "app");
    let command = curl("");
    pod["spec"]["initContainers"] = json!([pods::container("login", &["bash", "-c", &command])]);
    space.start(&pod).await;
    let logs = ["-n", &space.name, "logs", "app", "-c", "login"];
    parse(&space.env.kubectl(&logs).await.unwrap()).is_of(&identity);
    space.done().await;
}

/// Of `When using AAD Pod Identity with Gatekeeper`. The schema does it, without Gatekeeper.
#[tokio::test]
async fn should_pass_the_identity_format_validation_with_gatekeeper_constraint() {
    let space = Namespace::new("format").await;
    let id = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n";
    let bad = id.replace("resourceGroups", "resourcegroup");
    for (name, id, fits) in [("good", id, true), ("bad", bad.as_str(), false)] {
        let spec = json!({"type": 0, "resourceID": id});
        let applied = space.apply(&space.object("AzureIdentity", name, &spec)).await;
        assert_eq!(applied.is_ok(), fits, "{applied:?}");
    }
    space.done().await;
}
