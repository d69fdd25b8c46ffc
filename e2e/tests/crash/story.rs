//! What happens to the controller in every case, and what has to be true after each step.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fake_azure::seed;
use serde_json::{Value, json};

use crate::subject::{NAMESPACE, Subject};
use crate::world::{TEAM, World};

const LIMIT: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_millis(20);

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

/// What happens in a world.
pub(crate) struct Story<'a> {
    pub(crate) world: World<'a>,
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
        self.world.post("reset", &json!({})).await;
        let slow = json!({"operations": {"async": true, "duration_ms": 250}});
        self.world.set_faults(&slow).await;
        self.world.reset_cluster().await;
        for (name, provider) in NODES {
            self.world.create("Node", "", name, json!({"spec": {"providerID": provider}})).await;
        }
        for name in [TEAM, NAMESPACE] {
            self.world.ensure_namespace(name).await;
        }
        for (identity, selector) in [("demo-identity", "one"), ("second-identity", "two")] {
            let spec = json!({"type": 0, "resourceID": seed::identity_id(identity)});
            self.world.create("AzureIdentity", TEAM, identity, json!({"spec": spec})).await;
            let spec = json!({"azureIdentity": identity, "selector": selector});
            self.world.create("AzureIdentityBinding", TEAM, identity, json!({"spec": spec})).await;
        }
    }

    /// What aad-pod-identity left of a pod that is gone.
    pub(crate) async fn a_leftover_is_there(&self) {
        let host = seed::scale_set_id();
        let left = seed::identity_id("third-identity");
        self.world.post("hosts/attach", &json!({"host": host, "identities": [left]})).await;
        self.world.create("AzureAssignedIdentity", "default", "gone-team-third-identity", json!({
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
            self.a_pod_comes(name, node, label).await;
        }
        Self::all_pods()
    }

    /// Those of the scale set, after they went.
    pub(crate) async fn some_pods_return(&self) -> Scene {
        self.a_pod_comes("p1", "n1", "one").await;
        self.a_pod_comes("p2", "n1", "two").await;
        Self::all_pods()
    }

    pub(crate) async fn a_pod_comes(&self, name: &str, node: &str, label: &str) {
        let pod = json!({
            "metadata": {"labels": {"aadpodidbinding": label}},
            "spec": {"nodeName": node, "containers": [{"name": "app", "image": "none"}]},
        });
        self.world.create("Pod", TEAM, name, pod).await;
    }

    /// One whose identity its host does not have yet.
    pub(crate) async fn another_pod_comes(&self) -> Scene {
        self.a_pod_comes("p4", "n3", "two").await;
        let mut scene = Self::all_pods();
        for names in [&mut scene.attached[1], &mut scene.recorded[1]] {
            names.insert("second-identity".to_owned());
        }
        scene.assigned.insert("p4 second-identity Assigned".to_owned());
        scene
    }

    /// What all three pods need.
    pub(crate) fn all_pods() -> Scene {
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
        self.world.change("AzureIdentity", TEAM, "demo-identity", &patch).await;
    }

    /// The pods of the scale set go, the machine's stays.
    pub(crate) async fn some_pods_go(&self) -> Scene {
        for name in ["p1", "p2"] {
            self.world.delete("Pod", TEAM, name).await;
        }
        Scene {
            attached: [names(&[FOREIGN]), names(&["demo-identity"])],
            recorded: [names(&[]), names(&["demo-identity"])],
            assigned: names(&["p3 demo-identity Assigned"]),
            leftovers: 0,
        }
    }

    pub(crate) async fn the_last_pod_goes(&self) -> Scene {
        self.world.delete("Pod", TEAM, "p3").await;
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
            let all = self.world.list("AzureAssignedIdentity").await;
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
        let mut all = BTreeSet::new();
        for entry in self.world.journal("arm").await {
            for id in &entry.detached {
                all.insert(format!("{} {}", entry.host.as_ref().unwrap().name(), id.name()));
            }
        }
        all
    }

    /// Whether the machine has its own identity.
    pub(crate) async fn has_system_identity(&self) -> bool {
        self.world.host("vm3").await["system_assigned"].is_object()
    }

    async fn scene(&self) -> Scene {
        let all = self.world.list("AzureAssignedIdentity").await;
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
        let records = self.world.list("AzureIdentityAttachment").await;
        let mut scene =
            Scene { assigned: assigned.collect(), leftovers: left.len(), ..Scene::default() };
        for (number, host) in ["nodes", "vm3"].into_iter().enumerate() {
            let attached =
                self.world.host(host).await["identities"].as_array().cloned().unwrap_or_default();
            let name = |id: &Value| text(id).rsplit('/').next().unwrap_or_default().to_owned();
            scene.attached[number] = attached.iter().map(name).collect();
            let record = records.iter().filter(|it| text(&it["spec"]["host"]).ends_with(host));
            let ids = record.flat_map(|it| it["spec"]["identities"].as_array().cloned().unwrap());
            scene.recorded[number] = ids.map(|it| name(&it["resourceID"])).collect();
        }
        scene
    }
}
