//! `make demo`: the main job end to end, step by step, for somebody who has never seen it.

mod clients;
mod narrator;
mod refusals;

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Config};
use crate::exec;
use crate::images::{self, Built, Image};
use crate::{pods, release};
use narrator::Narrator;

/// The pod of the documents' own commands.
const POD: &str = "nginx-flex-kv-int";
const STEPS: usize = 9;

const IDENTITY: &str = "\
apiVersion: \"aadpodidentity.k8s.io/v1\"
kind: AzureIdentity
metadata:
 name: test-azure-identity
spec:
 type: 0
 ResourceID: /subscriptions/00000000-0000-0000-0000-000000000001/resourcegroups/identities/providers/Microsoft.ManagedIdentity/userAssignedIdentities/demo-identity
 ClientID: 20000000-0000-0000-0000-000000000001
";

const BINDING: &str = "\
apiVersion: \"aadpodidentity.k8s.io/v1\"
kind: AzureIdentityBinding
metadata:
 name: test-azure-id-binding
spec:
 AzureIdentity: \"test-azure-identity\"
 Selector: \"select_it\"
";

/// Runs the demo; a failure names the step and what to read.
pub async fn run(config: Config) -> Result<()> {
    let progress = config.progress.clone();
    let mut narrator = Narrator::new(STEPS);
    narrator.say(
        "Pod Identity Sidecar: an application in an unprivileged pod gets a Microsoft Entra token",
    );
    narrator.say("for exactly the identity that was bound to it. Everything here is real (API server, kubelet,");
    narrator.say("iptables, chart, images) except Azure, which is a fake on this machine.");

    narrator.step("A Kubernetes cluster of one node, in network namespaces of this machine");
    let state = config.state.clone();
    let cache = config.cache.clone();
    let cluster = Cluster::ensure(config).await.with_context(|| {
        format!("step 1: see the logs in {}", state.root().join("log").display())
    })?;
    narrator.kubectl(&cluster, "get nodes -o wide").await?;

    narrator.step("The images, built from this checkout");
    let wanted: Vec<Image> = Image::standard().collect();
    let built =
        images::build(&wanted, &cache, &progress).await.context("step 2: building images")?;
    cluster.load(&built).await.context("step 2: importing images")?;
    for image in &built {
        narrator.show(&images::reference(image.name));
    }

    let rest = Demo { cluster: &cluster, narrator };
    rest.run(&built).await.with_context(|| {
        format!(
            "the demo stopped. Look around with `KUBECONFIG={} {}`; the logs of the cluster's processes are in {}",
            cluster.kubeconfig().display(),
            cluster.program("kubectl").display(),
            state.root().join("log").display()
        )
    })
}

struct Demo<'a> {
    cluster: &'a Cluster,
    narrator: Narrator,
}

impl Demo<'_> {
    async fn run(mut self, built: &[Built]) -> Result<()> {
        self.install(built).await.context("step 3: installing the chart")?;
        self.bind().await.context("steps 4 and 5: namespace, identity and binding")?;
        self.start_pod().await.context("step 6: an application pod")?;
        clients::run(&mut self).await.context("step 7: three clients")?;
        self.look_behind().await.context("step 8: what happened behind it")?;
        refusals::run(&mut self).await.context("step 9: who gets nothing")?;
        self.farewell();
        Ok(())
    }

    async fn install(&mut self, built: &[Built]) -> Result<()> {
        self.narrator.step("Install the chart");
        release::apply_crds(self.cluster).await?;
        let args = release::install_args(self.cluster, built)?;
        self.narrator.command(&format!("helm {}", args.join(" ")));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let notes = exec::output(&mut self.cluster.helm(&args)).await.with_context(|| {
            format!(
                "read `kubectl -n {0} get events,pods` and `kubectl -n {0} logs …`",
                release::NAMESPACE
            )
        })?;
        self.narrator.show(&notes);
        self.narrator.kubectl(self.cluster, &format!("-n {} get pods", release::NAMESPACE)).await
    }

    async fn bind(&mut self) -> Result<()> {
        self.narrator.step("Opt a namespace in");
        let label = "label namespace default aadpodidentity.k8s.io/inject=enabled --overwrite";
        self.narrator.kubectl(self.cluster, label).await?;

        self.narrator.step("Bind an identity to a label, in the spelling of the oldest README");
        self.narrator.apply(self.cluster, &[IDENTITY, BINDING]).await
    }

    async fn start_pod(&mut self) -> Result<()> {
        self.narrator.step("Start an application: nothing in it knows of this project");
        let old = ["-n", "default", "delete", "pod", "--ignore-not-found", "--wait", "-l", "demo"];
        exec::run(&mut self.cluster.kubectl(&old)).await?;
        self.start(&demo_pod("default", POD, Some("select_it"))).await?;
        self.narrator.say(
            "The webhook put an init container and a sidecar before the application's container:",
        );
        let containers =
            "get pod nginx-flex-kv-int -o jsonpath={.spec['initContainers','containers'][*].name}";
        self.narrator.kubectl(self.cluster, containers).await
    }

    /// Creates a pod and waits until it runs.
    async fn start(&self, pod: &Value) -> Result<()> {
        self.narrator.create(self.cluster, pod).await?;
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let name = format!("pod/{}", pod["metadata"]["name"].as_str().unwrap_or_default());
        let wait = ["-n", namespace, "wait", "--for=condition=Ready", "--timeout=90s", &name];
        exec::run(&mut self.cluster.kubectl(&wait)).await.with_context(|| {
            format!("the pod did not start: read `kubectl -n {namespace} describe {name}`")
        })
    }

    async fn look_behind(&mut self) -> Result<()> {
        self.narrator.step("Behind it");
        self.narrator.say("The controller wrote one object for the pod and its identity:");
        self.narrator
            .kubectl(
                self.cluster,
                "get azureassignedidentities,azureidentities,azureidentitybindings",
            )
            .await?;
        self.narrator
            .say("What Azure Resource Manager was asked to change since the cluster came up:");
        let journal = arm_writes(self.cluster).await?;
        self.narrator.show(&journal);
        self.narrator.say("What the controller noted as its own to detach, before it asked:");
        let record = format!("-n {} get azureidentityattachments", release::NAMESPACE);
        self.narrator.kubectl(self.cluster, &record).await
    }

    fn farewell(&self) {
        let narrator = &self.narrator;
        narrator.say("");
        narrator.say("That is the main job. Go on:");
        narrator.command(&format!("source {}", self.cluster.state().env_file().display()));
        narrator.command("kubectl get azureassignedidentities -A");
        narrator.command(&format!("kubectl exec -it {POD} -- bash"));
        narrator.command("make demo-down        # stops the cluster and removes what it left");
    }
}

/// An idle application pod of the demo.
fn demo_pod(namespace: &str, name: &str, selector: Option<&str>) -> Value {
    let mut pod = pods::client(namespace, name, pods::IDLE);
    pod["metadata"]["labels"]["demo"] = json!("yes");
    match selector {
        Some(selector) => pods::bound(pod, selector),
        None => pod,
    }
}

/// What fake Azure's ARM was asked to change, a line each.
async fn arm_writes(cluster: &Cluster) -> Result<String> {
    let url = format!("{}/_fake/journal?service=arm", cluster.fake_azure());
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    let journal: Value = client.get(url).send().await?.error_for_status()?.json().await?;
    let entries = journal["entries"].as_array().cloned().unwrap_or_default();
    let line = |entry: &Value| {
        let names = |key: &str| {
            let ids = entry[key].as_array().cloned().unwrap_or_default();
            let last = |id: &Value| id.as_str()?.rsplit('/').next().map(str::to_owned);
            ids.iter().filter_map(last).collect::<Vec<_>>().join(", ")
        };
        format!(
            "PATCH …/{} → {}; attached: [{}], detached: [{}]\n",
            entry["path"].as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default(),
            entry["status"],
            names("attached"),
            names("detached"),
        )
    };
    Ok(entries.iter().filter(|entry| entry["method"] == "PATCH").map(line).collect())
}
