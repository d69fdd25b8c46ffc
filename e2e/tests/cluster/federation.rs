//! Federated identities (type 3): nothing is attached, IMDS is not asked, Entra is shown the
//! service account token of the pod or of the node agent.

use std::time::Duration;

use e2e::release;
use e2e::topology::SERVICE_ACCOUNT_ISSUER;
use serde_json::{Value, json};

use crate::env::{Identity, MACHINE, SCALE_SET, env, eventually};
use crate::host;
use crate::namespace::{Answer, Namespace, curl, curl_for, fresh, parse};

const TENANT: &str = "10000000-0000-0000-0000-000000000001";
const LIMIT: Duration = Duration::from_secs(60);

impl Namespace {
    /// The name of a service account of this namespace in Entra.
    fn subject(&self, account: &str) -> String {
        format!("system:serviceaccount:{}:{account}", self.name)
    }

    /// Makes a service account.
    async fn account(&self, name: &str) {
        let account = json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"namespace": self.name, "name": name},
        });
        self.apply(&account).await.unwrap();
    }

    /// An idle pod of a service account.
    fn pod_of(&self, name: &str, selector: &str, account: &str) -> Value {
        let mut pod = self.pod(name, selector);
        pod["spec"]["serviceAccountName"] = json!(account);
        pod
    }

    /// Writes the identity as a federated one, whatever it was before.
    async fn federate(&self, identity: &Identity, form: &str) {
        let spec = json!({
            "type": 3,
            "federatedBy": form,
            "tenantID": TENANT,
            "clientID": identity.client_id,
            "resourceID": identity.resource_id,
        });
        self.apply(&self.object("AzureIdentity", &identity.name, &spec)).await.unwrap();
    }
}

/// In Entra: these subjects of the cluster may be the identity.
async fn trust(identity: &Identity, subjects: &[&str]) {
    let credential = |subject: &&str| json!({"issuer": SERVICE_ACCOUNT_ISSUER, "subject": subject});
    let credentials: Vec<Value> = subjects.iter().map(credential).collect();
    let body = json!({"id": identity.resource_id, "federated_credentials": credentials});
    env().await.azure.post("identities", &body).await;
}

/// The subjects whose assertions Entra took for the identity, in order.
async fn exchanged(identity: &Identity, resource: &str) -> Vec<String> {
    let mut entries = env().await.azure.journal("entra", identity).await;
    entries.retain(|entry| entry["status"] == 200 && entry["resource"] == resource);
    let subject = |entry: &Value| {
        assert_eq!(entry["signature_checked"], true, "{entry}");
        entry["subject"].as_str().unwrap().to_owned()
    };
    entries.iter().map(subject).collect()
}

async fn is_attached(identity: &Identity) -> bool {
    let azure = &env().await.azure;
    azure.is_attached(identity, SCALE_SET).await || azure.is_attached(identity, MACHINE).await
}

/// The subject of the node agents.
async fn agent() -> String {
    let daemonset = format!("{}-nmi-host", release::NAME);
    let object = env().await.get(&["-n", release::NAMESPACE, "daemonset", &daemonset]).await;
    let account = object["spec"]["template"]["spec"]["serviceAccountName"].as_str().unwrap();
    format!("system:serviceaccount:{}:{account}", release::NAMESPACE)
}

#[tokio::test]
async fn a_pods_service_account_is_its_identity_and_nothing_is_attached() {
    let space = Namespace::new("federated").await;
    let identity = env().await.azure.identity("federated", 76).await;
    trust(&identity, &[&space.subject("app")]).await;
    space.account("app").await;
    space.federate(&identity, "Pod").await;
    space.bind_name("federated", "app").await;
    space.start(&space.pod_of("app", "app", "app")).await;

    for selector in [
        String::new(),
        format!("&client_id={}", identity.client_id),
        // What an application of type 0 may have said goes on to be right.
        format!("&msi_res_id={}", identity.resource_id),
    ] {
        space.token("app", &selector).await.is_of(&identity);
        let command = curl_for(&fresh("federated"), &selector);
        let answer = parse(&space.exec("app", &command).await.unwrap());
        assert_eq!(answer.claims()["appid"], identity.client_id.as_str());
    }
    let exchanged = exchanged(&identity, &fresh("federated")).await;
    assert_eq!(exchanged, [space.subject("app")], "one exchange, then the cache");
    assert!(env().await.azure.journal("imds", &identity).await.is_empty());
    assert!(!is_attached(&identity).await);

    let app = "ls /var/run/secrets/aadpodidentity.k8s.io 2>&1";
    assert!(space.exec("app", app).await.is_err(), "the assertion is the sidecar's alone");
    space.done().await;
}

#[tokio::test]
async fn two_service_accounts_share_no_token() {
    let space = Namespace::new("accounts").await;
    let identity = env().await.azure.identity("accounts", 77).await;
    trust(&identity, &[&space.subject("one")]).await;
    space.federate(&identity, "Pod").await;
    space.bind_name("accounts", "app").await;
    for account in ["one", "two"] {
        space.account(account).await;
        let mut pod = space.pod_of(account, "app", account);
        // On one node, and so with one node agent and one cache.
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node1"});
        space.start(&pod).await;
    }
    let resource = fresh("accounts");
    let client_id = &space.token_for("one", &resource).await.claims()["appid"];
    assert_eq!(client_id, identity.client_id.as_str());
    let refused = space.token_for("two", &resource).await;
    let Answer::Http(400, body) = &refused else { panic!("not refused: {refused:?}") };
    let words = body["error_description"].as_str().unwrap();
    assert!(words.contains("AADSTS700213") && words.contains(&space.subject("two")), "{words}");
    space.token_for("one", &resource).await.claims();
    assert_eq!(exchanged(&identity, &resource).await, [space.subject("one")]);
    space.done().await;
}

#[tokio::test]
async fn a_missing_credential_is_named_to_the_application_and_mended_without_a_restart() {
    let space = Namespace::new("subject").await;
    let identity = env().await.azure.identity("subject", 78).await;
    trust(&identity, &["system:serviceaccount:elsewhere:app"]).await;
    space.account("app").await;
    space.federate(&identity, "Pod").await;
    space.bind_name("subject", "app").await;
    space.start(&space.pod_of("app", "app", "app")).await;

    let resource = fresh("subject");
    let refused = space.token_for("app", &resource).await;
    let Answer::Http(400, body) = &refused else { panic!("not refused: {refused:?}") };
    let words = body["error_description"].as_str().unwrap();
    assert!(words.contains("AADSTS700213"), "{words}");
    for part in [
        "az identity federated-credential create",
        "--identity-name 'subject'",
        &format!("--issuer '{SERVICE_ACCOUNT_ISSUER}'"),
        &format!("--subject '{}'", space.subject("app")),
    ] {
        assert!(words.contains(part), "the remedy, ready to be pasted: {words}");
    }

    trust(&identity, &[&space.subject("app")]).await;
    eventually("the credential is found", LIMIT, async || {
        matches!(space.token_for("app", &resource).await, Answer::Http(200, _)).then_some(())
    })
    .await;
    space.token("app", "").await.is_of(&identity);
    space.done().await;
}

#[tokio::test]
async fn the_node_agent_stands_in_for_pods_of_any_service_account() {
    let space = Namespace::new("agent").await;
    let identity = env().await.azure.identity("agent", 79).await;
    let agent = agent().await;
    trust(&identity, &[&agent]).await;
    space.federate(&identity, "NodeAgent").await;
    space.bind_name("agent", "app").await;
    space.account("one").await;
    for (pod, account) in [("one", "one"), ("two", "default")] {
        let mut pod = space.pod_of(pod, "app", account);
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node2"});
        space.start(&pod).await;
    }
    for pod in ["one", "two"] {
        space.token(pod, "").await.is_of(&identity);
        space.token_for(pod, &fresh("agent")).await.claims();
    }
    let exchanged = exchanged(&identity, &fresh("agent")).await;
    assert_eq!(exchanged, [agent], "one exchange for both");
    assert!(!is_attached(&identity).await);
    space.done().await;
}

#[tokio::test]
async fn a_process_on_the_node_gets_tokens_of_the_agents_form_only() {
    let space = Namespace::new("federated-host").await;
    let azure = &env().await.azure;
    let (by_agent, by_pod) =
        (azure.identity("by-agent", 80).await, azure.identity("by-pod", 81).await);
    trust(&by_agent, &[&agent().await]).await;
    trust(&by_pod, &[&space.subject("default")]).await;
    for (identity, form) in [(&by_agent, "NodeAgent"), (&by_pod, "Pod")] {
        space.federate(identity, form).await;
        space.bind_name(&identity.name, &identity.name).await;
        space.start(&space.pod(&identity.name, &identity.name)).await;
    }
    let Answer::Http(200, body) = host::ask_for(&space, "by-agent").await else {
        panic!("no token")
    };
    Answer::Http(200, body["token"].clone()).is_of(&by_agent);

    // Also when the pod itself has a token that the node keeps.
    for _ in 0..2 {
        let Answer::Http(403, body) = host::ask_for(&space, "by-pod").await else {
            panic!("not refused")
        };
        let words = body["error_description"].as_str().unwrap();
        assert!(words.contains("NodeAgent"), "the remedy: {words}");
        space.token("by-pod", "").await.is_of(&by_pod);
    }
    space.done().await;
}

#[tokio::test]
async fn an_identity_moves_from_imds_to_federation_under_a_running_pod() {
    let space = Namespace::new("moved").await;
    let identity = env().await.azure.identity("moved", 82).await;
    trust(&identity, &[&space.subject("app")]).await;
    space.account("app").await;
    space.bind(&identity, "app").await;
    space.start(&space.pod_of("app", "app", "app")).await;
    space.token("app", "").await.is_of(&identity);
    assert!(is_attached(&identity).await);

    let client = format!(
        r#"for n in $(seq 60); do
  answer=$({} 2>&1)
  case "$answer" in *access_token*$'\n200') ;; *) echo "request $n: $answer" ;; esac
  sleep 0.3
done"#,
        curl("")
    );
    let (complaints, ()) =
        tokio::join!(space.exec("app", &client), space.federate(&identity, "Pod"));
    assert_eq!(complaints.unwrap(), "", "the application notices the move");
    space.token_for("app", &fresh("moved")).await.claims();
    assert_eq!(exchanged(&identity, &fresh("moved")).await, [space.subject("app")]);
    eventually("the identity is detached", LIMIT, async || {
        (!is_attached(&identity).await).then_some(())
    })
    .await;
    space.token("app", "").await.is_of(&identity);
    space.done().await;
}

#[tokio::test]
async fn the_schema_refuses_what_is_no_federated_identity() {
    let space = Namespace::new("federated-schema").await;
    let id = "2a000000-0000-0000-0000-000000000083";
    for (spec, words) in [
        (json!({"type": 3, "clientID": id, "tenantID": TENANT}), "federatedBy (Pod or NodeAgent)"),
        (
            json!({"type": 3, "federatedBy": "Node", "clientID": id, "tenantID": TENANT}),
            "spec.federatedBy",
        ),
        (json!({"type": 3, "federatedBy": "Pod", "tenantID": TENANT}), "type 3 needs clientID"),
        (json!({"type": 3, "federatedBy": "Pod", "clientID": id}), "type 3 needs clientID"),
        (
            json!({"type": 1, "federatedBy": "Pod", "clientID": id, "tenantID": TENANT,
                "clientPassword": {"name": "s"}}),
            "federatedBy is for type 3 only",
        ),
        (
            json!({"type": 3, "federatedBy": "Pod", "clientID": id, "tenantID": TENANT,
                "clientPassword": {"name": "s"}}),
            "clientPassword",
        ),
    ] {
        let error = space.apply(&space.object("AzureIdentity", "bad", &spec)).await.unwrap_err();
        assert!(error.contains(words), "{spec}: {error}");
    }
    space.done().await;
}
