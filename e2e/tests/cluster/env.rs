//! The one installation that all tests share, and fake Azure beside it.

use std::time::Duration;

use e2e::cluster::{Cluster, Config};
use e2e::images::{self, Image};
use e2e::paths::State;
use e2e::progress::Progress;
use e2e::release;
use e2e::topology::Node;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub(crate) const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
const KUBELET: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/MC_demo/providers/Microsoft.ManagedIdentity/userAssignedIdentities/nodes-agentpool";

/// Host of the first two nodes.
pub(crate) const SCALE_SET: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/MC_demo/providers/Microsoft.Compute/virtualMachineScaleSets/nodes";

/// Host of the third node.
pub(crate) const MACHINE: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/MC_demo/providers/Microsoft.Compute/virtualMachines/vm3";

/// An identity of fake Azure.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) resource_id: String,
    pub(crate) client_id: String,
    pub(crate) object_id: String,
}

/// The cluster with the product on it.
pub(crate) struct Env {
    pub(crate) cluster: Cluster,
    pub(crate) azure: Azure,
}

/// Fake Azure's control API.
pub(crate) struct Azure {
    base: String,
    client: reqwest::Client,
    /// Where the journal was when the tests began: earlier runs are of no interest.
    since: u64,
}

static ENV: OnceCell<Env> = OnceCell::const_new();

/// Set to anything: the tests take the installation that is there and build nothing.
pub(crate) const AS_IS: &str = "POD_IDENTITY_AS_IS";

/// The installation; made by the first test that asks.
pub(crate) async fn env() -> &'static Env {
    ENV.get_or_init(|| async {
        let cluster = match std::env::var_os(AS_IS) {
            Some(_) => {
                let state = State::locate(None).unwrap();
                Cluster::attach(state, Progress::to_stderr()).await.unwrap()
            }
            None => install().await,
        };
        let azure = Azure::connect(cluster.fake_azure()).await;
        Env { cluster, azure }
    })
    .await
}

async fn install() -> Cluster {
    let config = Config { nodes: 3, ..Config::standard(Progress::to_stderr()).unwrap() };
    let (cache, progress) = (config.cache.clone(), config.progress.clone());
    let cluster = Cluster::ensure(config).await.unwrap();
    let wanted: Vec<Image> = Image::standard().collect();
    let built = images::build(&wanted, &cache, &progress).await.unwrap();
    cluster.load(&built).await.unwrap();
    // As AKS does it: the kubelet's identity is on all nodes. The controller signs in with it,
    // wherever it runs.
    let kubelet = json!({"host": MACHINE, "identities": [KUBELET]});
    Azure::connect(cluster.fake_azure()).await.post("hosts/attach", &kubelet).await;
    release::install(&cluster, &built).await.unwrap();
    cluster
}

impl Env {
    /// A node by its name.
    pub(crate) fn node(&self, name: &str) -> &Node {
        self.cluster.nodes().iter().find(|node| node.name() == name).unwrap()
    }

    /// Runs a command in the network of a node, as if on it: standard output, or standard error as
    /// the error.
    pub(crate) async fn on_node(&self, node: &str, command: &str) -> Result<String, String> {
        let mut shell = self.cluster.in_node(self.node(node), "bash");
        let output = shell.args(["-c", command]).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// kubectl with these arguments: standard output, or standard error as the error.
    pub(crate) async fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let output = self.cluster.kubectl(args).output().await.unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// One object as JSON.
    pub(crate) async fn get(&self, args: &[&str]) -> Value {
        let all: Vec<&str> = [&["get", "-o", "json"], args].concat();
        serde_json::from_str(&self.kubectl(&all).await.unwrap()).unwrap()
    }
}

impl Azure {
    async fn connect(base: String) -> Self {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
        let azure = Self { base, client, since: 0 };
        let since = azure.get("journal?service=none").await["next"].as_u64().unwrap();
        Self { since, ..azure }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = self.client.get(format!("{}/_fake/{path}", self.base)).send().await;
        response.unwrap().error_for_status().unwrap().json().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.client.post(format!("{}/_fake/{path}", self.base)).json(body);
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "POST {path}: {status}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Makes an identity that no other test uses. `number` tells it from all others.
    pub(crate) async fn identity(&self, name: &str, number: u16) -> Identity {
        let identity = Identity {
            name: name.to_owned(),
            resource_id: format!(
                "/subscriptions/{SUBSCRIPTION}/resourceGroups/identities/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
            ),
            client_id: format!("2a000000-0000-0000-0000-{number:012}"),
            object_id: format!("3a000000-0000-0000-0000-{number:012}"),
        };
        let body = json!({
            "id": identity.resource_id,
            "client_id": identity.client_id,
            "principal_id": identity.object_id,
        });
        self.post("identities", &body).await;
        identity
    }

    /// Merges into the faults. Tests run side by side: a fault is to be about their own identity.
    pub(crate) async fn faults(&self, faults: &Value) {
        let request = self.client.patch(format!("{}/_fake/faults", self.base)).json(faults);
        request.send().await.unwrap().error_for_status().unwrap();
    }

    /// A fault of this identity's tokens from IMDS; `null` ends it.
    pub(crate) async fn imds_fault(&self, identity: &Identity, then: Value) {
        let when = json!({"on": ["imds"], "client_id": identity.client_id});
        let rule = if then.is_null() { Value::Null } else { json!({"when": when, "then": then}) };
        self.faults(&json!({"rules": {identity.name.as_str(): rule}})).await;
    }

    /// What `imds`, `entra`, `arm` or `vault` were asked by, or for, an identity in these tests.
    pub(crate) async fn journal(&self, service: &str, identity: &Identity) -> Vec<Value> {
        let mut entries = self.entries(service).await;
        entries.retain(|entry| entry["client_id"] == identity.client_id.as_str());
        entries
    }

    /// What a service was asked by anybody since the tests began.
    pub(crate) async fn entries(&self, service: &str) -> Vec<Value> {
        let since = self.since;
        let page = self.get(&format!("journal?limit=100000&service={service}&since={since}")).await;
        page["entries"].as_array().cloned().unwrap()
    }

    /// A VM or scale set.
    pub(crate) async fn host(&self, id: &str) -> Value {
        let state = self.get("state").await;
        let hosts = state["hosts"].as_array().cloned().unwrap();
        let is_it = |host: &Value| host["id"].as_str().unwrap().eq_ignore_ascii_case(id);
        hosts.into_iter().find(is_it).expect("a host of the seed")
    }

    /// The identities that are attached to a VM or scale set.
    pub(crate) async fn attached(&self, host: &str) -> Vec<String> {
        let host = self.host(host).await;
        let attached = host["identities"].as_array().unwrap();
        attached.iter().map(|id| id.as_str().unwrap().to_ascii_lowercase()).collect()
    }

    pub(crate) async fn is_attached(&self, identity: &Identity, host: &str) -> bool {
        self.attached(host).await.contains(&identity.resource_id.to_ascii_lowercase())
    }
}

/// Asks again until the answer is there; fails with what was asked for after `limit`.
pub(crate) async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
