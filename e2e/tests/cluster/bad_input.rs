//! Bad input is refused at the earliest place, with words that say what to do.

use serde_json::{Value, json};

use crate::env::env;
use crate::namespace::Namespace;

const ID: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n";
const GUID: &str = "00000000-0000-0000-0000-00000000000a";

/// A federated identity with some fields changed.
fn federated(changes: &[(&str, Value)]) -> Value {
    let mut spec =
        json!({"type": 3, "federatedBy": "NodeAgent", "clientID": GUID, "tenantID": "t.example"});
    for (field, value) in changes {
        spec[field] = value.clone();
    }
    spec
}

/// A service principal with auxiliary tenants.
fn principal(tenants: &Value) -> Value {
    json!({
        "type": 1, "tenantID": "t", "clientID": GUID, "clientPassword": {"name": "s"},
        "AuxiliaryTenantIDs": tenants
    })
}

#[tokio::test]
async fn the_schema_refuses_identities_that_cannot_work() {
    let space = Namespace::new("schema").await;
    let cases: [(&str, Value, &str); 19] = [
        (
            "malformed resource id",
            json!({"type": 0, "resourceID": "demo"}),
            "type 0 needs resourceID in the form",
        ),
        (
            "old spelling, malformed",
            json!({"type": 0, "ResourceID": "demo"}),
            "type 0 needs resourceID in the form",
        ),
        (
            "no resource id",
            json!({"type": 0, "clientID": GUID}),
            "type 0 needs resourceID in the form",
        ),
        ("no type, no resource id", json!({}), "type 0 needs resourceID in the form"),
        ("unknown type", json!({"type": 7}), "spec.type"),
        ("type as text", json!({"type": "0", "resourceID": ID}), "spec.type"),
        ("client id", json!({"resourceID": ID, "clientID": "demo"}), "clientID must be a GUID"),
        (
            "missing fields",
            json!({"type": 1, "clientID": GUID}),
            "types 1 and 2 need clientID, tenantID",
        ),
        ("two spellings", json!({"resourceID": ID, "ResourceID": ID}), "set resourceID once"),
        (
            "plain http",
            json!({"resourceID": ID, "adEndpoint": "http://x"}),
            "adEndpoint must be an https URL",
        ),
        ("no form", federated(&[("federatedBy", Value::Null)]), "type 3 needs clientID, tenantID"),
        ("unknown form", federated(&[("federatedBy", json!("pod"))]), "spec.federatedBy"),
        ("tenant", federated(&[("tenantID", json!("a/b"))]), "type 3 needs clientID, tenantID"),
        (
            "a secret for a federated identity",
            federated(&[("clientPassword", json!({"name": "s"}))]),
            "type 3 has no credential",
        ),
        (
            "resource id of a federated identity",
            federated(&[("resourceID", json!("demo"))]),
            "resourceID of type 3 must be",
        ),
        (
            "form for another type",
            json!({"resourceID": ID, "federatedBy": "Pod"}),
            "federatedBy is for type 3 only",
        ),
        (
            "tenants of a managed identity",
            json!({"resourceID": ID, "auxiliaryTenantIDs": ["a"]}),
            "auxiliaryTenantIDs are for type 1 only",
        ),
        ("tenants", principal(&json!(["a", "b", "c", "d"])), "at most 3 items"),
        ("tenants in old spelling", principal(&json!(["../b"])), "should match"),
    ];
    for (case, spec, expected) in cases {
        let error = space.apply(&space.object("AzureIdentity", "bad", &spec)).await.unwrap_err();
        assert!(error.contains(expected), "{case}: {error}");
    }
    for (spec, expected) in [
        (json!({"selector": "s"}), "azureIdentity must name an AzureIdentity"),
        (json!({"azureIdentity": "a"}), "selector must be a label value"),
        (json!({"azureIdentity": "a", "selector": "no spaces"}), "selector must be a label value"),
    ] {
        let object = space.object("AzureIdentityBinding", "bad", &spec);
        let error = space.apply(&object).await.unwrap_err();
        assert!(error.contains(expected), "{spec}: {error}");
    }
    space.done().await;
}

#[tokio::test]
async fn every_spelling_of_upstream_applies() {
    let space = Namespace::new("spelling").await;
    for (kind, name, spec) in [
        ("AzureIdentity", "oldest", json!({"type": 0, "ResourceID": ID, "ClientID": GUID})),
        ("AzureIdentity", "empty", json!({"resourceID": ID, "clientID": ""})),
        (
            "AzureIdentity",
            "principal",
            json!({"type": 1, "tenantID": "contoso", "clientID": GUID, "auxiliaryTenantIDs": null,
                "clientPassword": {"name": "s", "namespace": space.name}}),
        ),
        ("AzureIdentity", "tenants", principal(&json!(["a", "b.example", GUID]))),
        ("AzureIdentity", "federated", federated(&[])),
        ("AzureIdentity", "named", federated(&[("resourceID", json!(ID))])),
        ("AzureIdentityBinding", "oldest", json!({"AzureIdentity": "oldest", "Selector": "s"})),
        ("AzurePodIdentityException", "oldest", json!({"PodLabels": {"app": "mic"}})),
    ] {
        space.apply(&space.object(kind, name, &spec)).await.unwrap();
    }
    space.done().await;
}

#[tokio::test]
async fn a_binding_without_identity_says_so() {
    let space = Namespace::new("missing").await;
    space.bind_name("nowhere", "app").await;
    let (ready, reason, message) = space.condition("azureidentitybinding", "nowhere").await;
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "IdentityNotFound"), "{message}");
    assert!(message.contains("nowhere"), "{message}");
    space.done().await;
}

#[tokio::test]
async fn an_annotation_that_is_no_boolean_is_never_read_as_true() {
    let space = Namespace::new("annotation").await;
    let mut pod = space.pod("app", "app");
    pod["metadata"]["annotations"] = json!({"aadpodidentity.k8s.io/inject": "yes"});
    let words = match space.apply(&pod).await {
        Ok(words) => words,
        Err(words) => words,
    };
    assert!(words.contains("aadpodidentity.k8s.io/inject"), "{words}");
    assert!(words.contains("\"true\""), "{words}");
    space.done().await;
}

#[tokio::test]
async fn a_pod_that_could_undo_the_redirect_is_denied() {
    let space = Namespace::new("unsafe").await;
    for (name, change) in [
        ("privileged", json!({"privileged": true})),
        ("net-admin", json!({"capabilities": {"add": ["NET_ADMIN"]}})),
    ] {
        let mut pod = space.pod(name, "app");
        pod["spec"]["containers"][0]["securityContext"] = change;
        let error = space.apply(&pod).await.unwrap_err();
        assert!(error.contains("denied the request"), "{error}");
    }
    let mut pod = space.pod("shared", "app");
    pod["spec"]["shareProcessNamespace"] = json!(true);
    let error = space.apply(&pod).await.unwrap_err();
    assert!(error.contains("shareProcessNamespace"), "{error}");
    space.done().await;
}

#[tokio::test]
async fn a_pod_on_the_hosts_network_is_warned_and_left_alone() {
    let space = Namespace::new("hostnetwork").await;
    let mut pod = space.pod("app", "app");
    pod["spec"]["hostNetwork"] = json!(true);
    let words = space.apply(&pod).await.unwrap();
    assert!(words.contains("Warning") && words.contains("hostNetwork"), "{words}");
    let pod = space.env.get(&["-n", &space.name, "pod", "app"]).await;
    assert!(pod["spec"]["initContainers"].is_null());
    space.done().await;
}

#[tokio::test]
async fn nobody_but_the_controller_writes_assignments() {
    let space = Namespace::new("assignments").await;
    let spec = json!({"pod": "app", "podNamespace": space.name, "nodename": "node1"});
    let mut object = space.object("AzureAssignedIdentity", "stolen", &spec);
    object["status"] = json!({"status": "Assigned"});
    let error = space.apply(&object).await.unwrap_err();
    assert!(error.contains("only the controller"), "{error}");
    assert!(
        env().await.kubectl(&["auth", "can-i", "create", "azureassignedidentities"]).await.is_ok()
    );
    space.done().await;
}
