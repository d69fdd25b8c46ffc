//! Plays MIC, the controller of aad-pod-identity: its leader election and its objects.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use crate::env::{Env, Identity, eventually};
use crate::namespace::Namespace;

/// The service account that MIC runs as.
pub(crate) const NAMESPACE: &str = "kube-system";
pub(crate) const ACCOUNT: &str = "aad-pod-identity-mic";

/// Where MIC's leader election and most of its objects are.
pub(crate) const RECORD_NAMESPACE: &str = "default";
const RECORD: &str = "aad-pod-identity-mic";
const FINALIZER: &str = "azureassignedidentity.finalizers.aadpodidentity.k8s.io";

/// As often as MIC.
const RENEWAL: Duration = Duration::from_secs(3);

/// A MIC that leads.
pub(crate) struct Mic {
    env: &'static Env,
    pub(crate) holder: String,
    renewals: JoinHandle<()>,
}

// === impl Mic ===

impl Mic {
    pub(crate) async fn start(env: &'static Env) -> Self {
        let holder = format!("mic-{}", now().as_millisecond());
        renew(env, &holder).await;
        let leader = holder.clone();
        let renewals = tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEWAL).await;
                renew(env, &leader).await;
            }
        });
        Self { env, holder, renewals }
    }

    /// Stops renewing and, as MIC does, leaves its record behind.
    pub(crate) async fn stop(self) {
        self.renewals.abort();
        drop(self.renewals.await);
    }

    /// Writes the object that MIC writes for a pod and an identity that exists, as its two calls
    /// do. Returns its name.
    pub(crate) async fn assigns(
        &self,
        space: &Namespace,
        pod: &str,
        node: &str,
        identity: &Identity,
    ) -> String {
        let name = format!("{pod}-{}-{}", space.name, identity.name);
        let mut copy = self.copy(space, "AzureIdentity", &identity.name).await;
        copy["spec"]["clientPassword"] = json!({});
        let binding = self.copy(space, "AzureIdentityBinding", &identity.name).await;
        let object = json!({
            "apiVersion": "aadpodidentity.k8s.io/v1",
            "kind": "AzureAssignedIdentity",
            "metadata": {
                "name": name,
                "namespace": RECORD_NAMESPACE,
                "creationTimestamp": null,
                "labels": {"nodename": node},
                "finalizers": [FINALIZER],
            },
            "spec": {
                "metadata": {"creationTimestamp": null},
                "azureIdentityRef": copy,
                "azureBindingRef": binding,
                "pod": pod,
                "podNamespace": space.name,
                "nodename": node,
            },
            "status": {
                "metadata": {"creationTimestamp": null},
                "status": "Created",
                "availableReplicas": 1,
            },
        });
        // The admission policy follows the chart after a moment.
        let limit = Duration::from_secs(30);
        eventually("MIC may write", limit, async || self.create(&object).await.ok()).await;
        self.marks_assigned(&name).await;
        name
    }

    /// The whole object, as Go writes it: empty metadata in spec and status, of the status nothing
    /// that it does not know, and the kind that MIC's type upgrade leaves.
    async fn copy(&self, space: &Namespace, kind: &str, name: &str) -> Value {
        let mut object = self.env.get(&["-n", &space.name, kind, name]).await;
        object["kind"] = json!(format!("{kind}List"));
        object["spec"]["metadata"] = json!({"creationTimestamp": null});
        object["status"] = json!({"metadata": {"creationTimestamp": null}});
        object
    }

    /// A JSON patch that fails where a schema has pruned the member.
    async fn marks_assigned(&self, name: &str) {
        let patch = json!([{"op": "replace", "path": "/status/status", "value": "Assigned"}]);
        let patch = format!("--patch={patch}");
        let [account, group] = Self::credentials();
        let object = ["-n", RECORD_NAMESPACE, "patch", "azureassignedidentity", name];
        let how = ["--type=json", &patch, &account, &group];
        self.env.kubectl(&[&object[..], &how[..]].concat()).await.unwrap();
    }

    async fn create(&self, object: &Value) -> Result<(), String> {
        let [account, group] = Self::credentials();
        // Its own client does not ask for strictness; unknown fields are pruned.
        let args = ["create", "--validate=ignore", "-f", "-", &account, &group];
        pipe(self.env, &args, object).await
    }

    fn credentials() -> [String; 2] {
        let account = format!("--as=system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        [account, "--as-group=system:masters".to_owned()]
    }
}

/// MIC's objects for pods of the namespace.
pub(crate) async fn leftovers(env: &Env, space: &Namespace) -> Vec<Value> {
    let all = env.get(&["-n", RECORD_NAMESPACE, "azureassignedidentities"]).await;
    let of_space = |object: &&Value| object["spec"]["podNamespace"] == space.name.as_str();
    all["items"].as_array().unwrap().iter().filter(of_space).cloned().collect()
}

/// Removes the record.
pub(crate) async fn forget(env: &Env) {
    let delete = ["-n", RECORD_NAMESPACE, "delete", "endpoints", RECORD, "--ignore-not-found"];
    env.kubectl(&delete).await.unwrap();
}

async fn renew(env: &Env, holder: &str) {
    let now = now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let record = json!({"holderIdentity": holder, "leaseDurationSeconds": 15,
        "acquireTime": now, "renewTime": now, "leaderTransitions": 1});
    let object = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": RECORD,
            "namespace": RECORD_NAMESPACE,
            "annotations": {"control-plane.alpha.kubernetes.io/leader": record.to_string()},
        },
    });
    pipe(env, &["apply", "-f", "-"], &object).await.unwrap();
}

async fn pipe(env: &Env, args: &[&str], object: &Value) -> Result<(), String> {
    let mut command = env.cluster.kubectl(args);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(object.to_string().as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn now() -> k8s_openapi::jiff::Timestamp {
    k8s_openapi::jiff::Timestamp::now()
}
