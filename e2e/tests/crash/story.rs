//! What happens to the controller in every case, and what has to be true after each step.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fake_azure::{ArmId, FakeAzure, seed};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use crate::subject::{NAMESPACE, Subject};

const LIMIT: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_millis(20);

/// Where users' objects are.
const TEAM: &str = "team";
/// Two hosts: a scale set and a machine with an identity of its own.
const NODES: [(&str, &str); 2] = [
    (
        "n1",
        "azure:///subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/MC_demo/providers/Microsoft.Compute/virtualMachineScaleSets/nodes/virtualMachines/0",
    ),
    (
        "n3",
        "azure:///subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/MC_demo/providers/Microsoft.Compute/virtualMachines/vm3",
    ),
];

/// Kubernetes and Azure, and how to look at both.
pub(crate) struct Story<'a> {
    pub(crate) client: Client,
    pub(crate) azure: &'a FakeAzure,
    pub(crate) http: reqwest::Client,
}

/// All that has to come true at the end of a step.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scene {
    /// By host.
    attached: [BTreeSet<String>; 2],
    recorded: [BTreeSet<String>; 2],
    /// Pod, identity and state.
    assigned: BTreeSet<String>,
    leftovers: usize,
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|&name| name.to_owned()).collect()
}

/// What is attached from the start belongs to somebody else.
const FOREIGN: &str = "nodes-agentpool";

impl Story<'_> {
    // === the steps ===

    /// What is there before the controller is.
    pub(crate) async fn prepare(&self) {
        self.control("reset", &json!({})).await;
        let slow = json!({"operations": {"async": true, "duration_ms": 250}});
        self.put("faults", &slow).await;
        self.reset_cluster().await;
        for (name, provider) in NODES {
            self.create("Node", "", name, json!({"spec": {"providerID": provider}})).await;
        }
        for name in [TEAM, NAMESPACE] {
            // It may be there from the case before.
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            drop(self.api("Namespace", "").create(&PostParams::default(), &object(body)).await);
        }
        for (identity, selector) in [("demo-identity", "one"), ("second-identity", "two")] {
            let spec = json!({"type": 0, "resourceID": seed::identity_id(identity)});
            self.create("AzureIdentity", TEAM, identity, json!({"spec": spec})).await;
            let spec = json!({"azureIdentity": identity, "selector": selector});
            self.create("AzureIdentityBinding", TEAM, identity, json!({"spec": spec})).await;
        }
        // What aad-pod-identity left of a pod that is gone.
        let host = seed::scale_set_id();
        let left = seed::identity_id("third-identity");
        self.control("hosts/attach", &json!({"host": host, "identities": [left]})).await;
        self.create("AzureAssignedIdentity", "default", "gone-team-third-identity", json!({
            "spec": {
                "pod": "gone", "podNamespace": TEAM, "nodename": "n1",
                "azureIdentityRef": {
                    "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
                    "metadata": {"name": "third-identity", "namespace": TEAM},
                    "spec": {"type": 0, "resourceID": left},
                },
            },
            "status": {"status": "Assigned"},
            "metadata": {"finalizers": ["azureassignedidentity.finalizers.aadpodidentity.k8s.io"]},
        })).await;
    }

    /// Three pods on two hosts.
    pub(crate) async fn pods_come(&self) -> Scene {
        for (name, node, label) in [("p1", "n1", "one"), ("p2", "n1", "two"), ("p3", "n3", "one")] {
            self.create(
                "Pod",
                TEAM,
                name,
                json!({
                    "metadata": {"labels": {"aadpodidbinding": label}},
                    "spec": {"nodeName": node, "containers": [{"name": "app", "image": "none"}]},
                }),
            )
            .await;
        }
        Scene {
            attached: [
                names(&["demo-identity", FOREIGN, "second-identity"]),
                names(&["demo-identity"]),
            ],
            recorded: [names(&["demo-identity", "second-identity"]), names(&["demo-identity"])],
            assigned: names(&[
                "p1 demo-identity Assigned",
                "p2 second-identity Assigned",
                "p3 demo-identity Assigned",
            ]),
            leftovers: 0,
        }
    }

    /// An identity is edited: its pods' assignments are written anew.
    pub(crate) async fn an_identity_changes(&self) {
        let patch = json!({"spec": {"clientID": "20000000-0000-0000-0000-000000000001"}});
        let api = self.api("AzureIdentity", TEAM);
        api.patch("demo-identity", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// The pods of the scale set go, the machine's stays.
    pub(crate) async fn some_pods_go(&self) -> Scene {
        for name in ["p1", "p2"] {
            self.delete("Pod", TEAM, name).await;
        }
        Scene {
            attached: [names(&[FOREIGN]), names(&["demo-identity"])],
            recorded: [names(&[]), names(&["demo-identity"])],
            assigned: names(&["p3 demo-identity Assigned"]),
            leftovers: 0,
        }
    }

    pub(crate) async fn the_last_pod_goes(&self) -> Scene {
        self.delete("Pod", TEAM, "p3").await;
        Scene { attached: [names(&[FOREIGN]), names(&[])], ..Scene::default() }
    }

    // === what is ===

    /// Waits until everything is as in `scene`, and starts the controller again when it dies.
    pub(crate) async fn comes_to(&self, what: &str, scene: &Scene, subject: &mut Subject<'_>) {
        let start = Instant::now();
        loop {
            subject.tend();
            let now = self.scene().await;
            if now == *scene {
                return;
            }
            assert!(
                start.elapsed() < LIMIT,
                "{what}: {now:#?}\nand not {scene:#?}\n{}",
                subject.log()
            );
            tokio::time::sleep(STEP).await;
        }
    }

    /// Waits until every assignment of the identity that was edited says so.
    pub(crate) async fn the_edit_arrives(&self, subject: &mut Subject<'_>) {
        let start = Instant::now();
        loop {
            subject.tend();
            let all = self.list("AzureAssignedIdentity").await;
            let of = |object: &&Value| {
                object["spec"]["azureIdentityRef"]["metadata"]["name"] == "demo-identity"
            };
            let told = |object: &Value| {
                object["spec"]["azureIdentityRef"]["spec"]["clientID"].is_string()
                    && object["status"]["status"] == "Assigned"
            };
            if all.iter().filter(of).all(told) {
                return;
            }
            assert!(start.elapsed() < LIMIT, "the edit: {all:#?}\n{}", subject.log());
            tokio::time::sleep(STEP).await;
        }
    }

    /// What ARM was asked to detach so far: host and identity.
    pub(crate) async fn detached(&self) -> BTreeSet<String> {
        let journal = self.get("journal?service=arm&limit=100000").await;
        let entries = journal["entries"].as_array().unwrap().clone();
        let name = |id: &Value| id.as_str().unwrap().parse::<ArmId>().unwrap().name().to_owned();
        let mut all = BTreeSet::new();
        for entry in &entries {
            for id in entry["detached"].as_array().into_iter().flatten() {
                all.insert(format!("{} {}", name(&entry["host"]), name(id)));
            }
        }
        all
    }

    /// Whether the machine has its own identity.
    pub(crate) async fn has_system_identity(&self) -> bool {
        self.host("vm3").await["system_assigned"].is_object()
    }

    async fn scene(&self) -> Scene {
        let all = self.list("AzureAssignedIdentity").await;
        let (left, ours): (Vec<_>, Vec<_>) =
            all.iter().partition(|object| object["metadata"]["namespace"] == "default");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let assigned = ours.iter().map(|object| {
            let identity = text(&object["spec"]["azureIdentityRef"]["metadata"]["name"]);
            format!(
                "{} {identity} {}",
                text(&object["spec"]["pod"]),
                text(&object["status"]["status"])
            )
        });
        let records = self.list("AzureIdentityAttachment").await;
        let mut scene =
            Scene { assigned: assigned.collect(), leftovers: left.len(), ..Scene::default() };
        for (number, host) in ["nodes", "vm3"].into_iter().enumerate() {
            let attached =
                self.host(host).await["identities"].as_array().cloned().unwrap_or_default();
            let name = |id: &Value| text(id).rsplit('/').next().unwrap_or_default().to_owned();
            scene.attached[number] = attached.iter().map(name).collect();
            let record = records.iter().filter(|it| text(&it["spec"]["host"]).ends_with(host));
            let ids = record.flat_map(|it| it["spec"]["identities"].as_array().cloned().unwrap());
            scene.recorded[number] = ids.map(|it| name(&it["resourceID"])).collect();
        }
        scene
    }

    async fn host(&self, name: &str) -> Value {
        let state = self.get("state").await;
        let hosts = state["hosts"].as_array().cloned().unwrap();
        hosts.into_iter().find(|host| host["id"].as_str().unwrap().ends_with(name)).unwrap()
    }

    // === Kubernetes ===

    /// Nothing of an earlier case.
    async fn reset_cluster(&self) {
        let nothing = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let all = [
            ("Pod", TEAM),
            ("AzureIdentityBinding", TEAM),
            ("AzureIdentity", TEAM),
            ("AzureAssignedIdentity", TEAM),
            ("AzureIdentityAttachment", NAMESPACE),
            ("Lease", NAMESPACE),
            ("Node", ""),
        ];
        for (kind, namespace) in all {
            let api = self.api(kind, namespace);
            api.delete_collection(&nothing, &kube::api::ListParams::default()).await.unwrap();
        }
    }

    async fn create(&self, kind: &str, namespace: &str, name: &str, rest: Value) {
        let resource = resource(kind);
        let mut body = json!({"apiVersion": resource.api_version, "kind": kind});
        body.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        body["metadata"]["name"] = json!(name);
        let api = self.api(kind, namespace);
        api.create(&PostParams::default(), &object(body)).await.unwrap();
    }

    async fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        drop(self.api(kind, namespace).delete(name, &now).await.unwrap());
    }

    async fn list(&self, kind: &str) -> Vec<Value> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource(kind));
        let list = api.list(&kube::api::ListParams::default()).await.unwrap();
        list.items.iter().map(|item| serde_json::to_value(item).unwrap()).collect()
    }

    fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (client, resource) = (self.client.clone(), resource(kind));
        if namespace.is_empty() {
            return Api::all_with(client, &resource);
        }
        Api::namespaced_with(client, namespace, &resource)
    }

    // === Azure ===

    async fn get(&self, path: &str) -> Value {
        let url = format!("{}/_fake/{path}", self.azure.control_url());
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    async fn control(&self, path: &str, body: &Value) {
        let url = format!("{}/_fake/{path}", self.azure.control_url());
        let response = self.http.post(url).json(body).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
    }

    async fn put(&self, path: &str, body: &Value) {
        let url = format!("{}/_fake/{path}", self.azure.control_url());
        let response = self.http.put(url).json(body).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
    }
}

fn object(body: Value) -> DynamicObject {
    serde_json::from_value(body).unwrap()
}

fn resource(kind: &str) -> ApiResource {
    let group = match kind {
        "Pod" | "Node" | "Namespace" => "",
        "Lease" => "coordination.k8s.io",
        _ => "aadpodidentity.k8s.io",
    };
    let gvk = GroupVersionKind::gvk(group, "v1", kind);
    let plural = match kind {
        one if one.ends_with("ty") => format!("{}ies", one.trim_end_matches('y').to_lowercase()),
        other => format!("{}s", other.to_lowercase()),
    };
    ApiResource::from_gvk_with_plural(&gvk, &plural)
}
