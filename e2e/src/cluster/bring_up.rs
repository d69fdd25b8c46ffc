//! Starts what is not running and waits until it works. Safe to repeat: a healthy cluster stays as
//! it is.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Node as KubeNode, Service, ServiceAccount};
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

use crate::cluster::components::Components;
use crate::cluster::pki::Pki;
use crate::cluster::{Config, Record, client, federation, render};
use crate::exec;
use crate::files::{self, Access};
use crate::host::{cgroup, net, sysctl};
use crate::images::{self, Built};
use crate::process::{Daemon, Started};
use crate::tools::control_plane::ControlPlane;
use crate::topology::{DNS_SERVICE_IP, FAKE_AZURE_FORWARD, Node};

const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// A part of the cluster does not come up. Another attempt from the beginning may help.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unhealthy(String);

/// Processes that were asked for, to be looked at while waiting.
struct Running<'a> {
    config: &'a Config,
    daemons: Vec<Daemon>,
    changed: usize,
}

/// Brings up everything of these nodes.
pub(super) async fn run(
    config: &Config,
    nodes: &[Node],
    programs: &ControlPlane,
    pause: &Built,
) -> Result<()> {
    let state = &config.state;
    Record { nodes: u8::try_from(nodes.len())? }.write(state)?;
    let pki = Pki::ensure(state)?;
    let components = Components {
        state,
        pki: &pki,
        programs,
        helper: &config.helper,
        fake_azure: &config.fake_azure,
    };
    // Before anything runs, so that a missing program does not leave half a cluster.
    let fake_azure = components.fake_azure()?;
    components.write_admin_kubeconfig()?;
    sysctl::save(&state.saved_sysctls())?;
    let cgroups = cgroup::Hierarchies::of_this_machine()?;
    for node in nodes {
        cgroups.create(&render::node_cgroup(node))?;
    }
    net::ensure(state, nodes).await?;

    let mut running = Running { config, daemons: Vec::new(), changed: 0 };
    running.ensure(components.etcd())?;
    running.ensure(components.api_server())?;
    running.ensure(components.forward())?;
    running.ensure(fake_azure)?;
    for node in nodes {
        running.ensure(components.containerd(node)?)?;
    }
    running.containerd_answers(nodes).await?;
    images::load_built(pause, state, nodes, &config.progress).await?;
    let client = client(&state.kubeconfig()).await?;
    running.api_server_is_ready(&client).await?;
    running.ensure(components.controller_manager()?)?;
    running.ensure(components.scheduler()?)?;
    for node in nodes {
        running.ensure(components.kubelet(node)?)?;
        running.ensure(components.kube_proxy(node)?)?;
    }
    running.pods_can_be_made(&client, nodes).await?;
    refuse_dns(&client).await?;
    running.fake_azure_answers().await?;
    federation::publish_issuer(&client).await?;
    write_env_file(config, programs)?;
    let verb = if running.changed == 0 { "was up already" } else { "is up" };
    config.progress.step(format!("the cluster {verb}, {} node(s)", nodes.len()));
    Ok(())
}

impl Running<'_> {
    fn ensure(&mut self, daemon: Daemon) -> Result<()> {
        let started = daemon.ensure(&self.config.state)?;
        if started != Started::Already {
            self.changed += 1;
            let verb = if started == Started::Replaced { "restarted" } else { "started" };
            self.config.progress.step(format!("{verb} {}", daemon.name));
        }
        self.daemons.push(daemon);
        Ok(())
    }

    async fn containerd_answers(&self, nodes: &[Node]) -> Result<()> {
        for node in nodes {
            let socket = self.config.state.containerd_socket(node);
            self.until(&format!("containerd of {}", node.name()), async || {
                let mut command = exec::command("ctr");
                exec::succeeds(command.arg("--address").arg(&socket).arg("version")).await
            })
            .await?;
        }
        Ok(())
    }

    async fn api_server_is_ready(&self, client: &kube::Client) -> Result<()> {
        self.until("the API server", async || says_ok(client, "/readyz").await).await
    }

    /// Nodes are ready, and the account that every pod needs is there.
    async fn pods_can_be_made(&self, client: &kube::Client, nodes: &[Node]) -> Result<()> {
        let api = Api::<KubeNode>::all(client.clone());
        self.until("the nodes", async || {
            let Ok(list) = api.list(&ListParams::default()).await else { return false };
            nodes.iter().all(|node| {
                list.items.iter().any(|kube| {
                    kube.metadata.name.as_deref() == Some(&node.name()) && is_ready(kube)
                })
            })
        })
        .await?;
        // A kubelet that just died is still called ready for a while.
        for node in nodes {
            let health = format!("/api/v1/nodes/{}/proxy/healthz", node.name());
            self.until(&format!("kubelet of {}", node.name()), async || {
                says_ok(client, &health).await
            })
            .await?;
        }
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
        self.until("the default service account", async || accounts.get("default").await.is_ok())
            .await
    }

    async fn fake_azure_answers(&self) -> Result<()> {
        let ca = self.config.state.fake_azure().join("ca.crt");
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
        self.until("fake Azure", async || {
            let answer = http.get(format!("http://{FAKE_AZURE_FORWARD}/")).send().await;
            answer.is_ok() && ca.is_file()
        })
        .await
    }

    /// Waits until `probe` says yes. A process that ends meanwhile ends the wait, with its last words.
    async fn until(&self, what: &str, probe: impl AsyncFn() -> bool) -> Result<()> {
        let state = &self.config.state;
        let deadline = Instant::now() + PATIENCE;
        let wait = async {
            while !probe().await {
                for daemon in &self.daemons {
                    daemon.check(state).map_err(|error| Unhealthy(format!("{error:#}")))?;
                }
                if Instant::now() > deadline {
                    let logs = state.root().join("log");
                    bail!(Unhealthy(format!(
                        "{what} did not become ready in {} s: look into {}",
                        PATIENCE.as_secs(),
                        logs.display()
                    )));
                }
                tokio::time::sleep(PAUSE).await;
            }
            Ok(())
        };
        self.config.progress.watch(&format!("waiting for {what}"), wait).await
    }
}

async fn says_ok(client: &kube::Client, path: &str) -> bool {
    let Ok(request) = http::Request::get(path).body(Vec::new()) else { return false };
    client.request_text(request).await.is_ok_and(|answer| answer == "ok")
}

/// There is no DNS. A Service with nothing behind it makes a lookup fail at once and not after
/// seconds: kube-proxy answers for it that the port is closed.
async fn refuse_dns(client: &kube::Client) -> Result<()> {
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "kube-dns" },
        "spec": {
            "clusterIP": DNS_SERVICE_IP,
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP" },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
            ],
        },
    }))?;
    let api = Api::<Service>::namespaced(client.clone(), "kube-system");
    // Not "create and see": a second one is refused for its address and not for its name.
    let made = match api.get_opt("kube-dns").await {
        Ok(None) => api.create(&PostParams::default(), &service).await.map(drop),
        found => found.map(drop),
    };
    made.context("cannot make the Service for DNS")
}

fn is_ready(node: &KubeNode) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// For `source`: the kubeconfig, and kubectl and helm of the cluster's own versions.
fn write_env_file(config: &Config, programs: &ControlPlane) -> Result<()> {
    let folder = |name: &str| {
        programs.program(name).parent().map(|dir| dir.display().to_string()).unwrap_or_default()
    };
    let text = format!(
        "export KUBECONFIG='{}'\nexport PATH='{}:{}':\"$PATH\"\n",
        config.state.kubeconfig().display(),
        folder("kubectl"),
        folder("helm"),
    );
    files::write(&config.state.env_file(), text, Access::Public)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus};

    use super::*;

    #[test]
    fn a_node_is_ready_when_its_condition_says_so() {
        let node = |status: &str| KubeNode {
            status: Some(NodeStatus {
                conditions: Some(vec![NodeCondition {
                    type_: "Ready".into(),
                    status: status.into(),
                    ..NodeCondition::default()
                }]),
                ..NodeStatus::default()
            }),
            ..KubeNode::default()
        };
        assert!(is_ready(&node("True")));
        assert!(!is_ready(&node("Unknown")));
        assert!(!is_ready(&KubeNode::default()));
    }
}
