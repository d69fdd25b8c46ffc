//! The local cluster as a whole: brought up, found again, used, taken down.

mod bring_up;
mod claim;
mod components;
mod federation;
mod pki;
mod render;
mod teardown;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::exec;
use crate::files::{self, Access};
use crate::host::{net, preflight};
use crate::images::{self, Built};
use crate::paths::{self, Cache, State};
use crate::process;
use crate::progress::Progress;
use crate::tools::control_plane::ControlPlane;
use crate::tools::debian;
use crate::topology::{self, AZURE_NETNS, FAKE_AZURE_FORWARD, Node};
use bring_up::Unhealthy;
use claim::Claim;

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least this many nodes; a running cluster grows, and never shrinks.
    pub nodes: u8,
    /// Its folder.
    pub state: State,
    /// Where things are kept that outlive it.
    pub cache: Cache,
    /// The `e2e` program, which is also the port forwarder.
    pub helper: PathBuf,
    /// The `fake-azure` program.
    pub fake_azure: PathBuf,
    /// Who hears about it.
    pub progress: Progress,
}

/// A cluster that is up.
#[derive(Clone, Debug)]
pub struct Cluster {
    state: State,
    nodes: Vec<Node>,
    programs: ControlPlane,
    progress: Progress,
}

/// One process of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStatus {
    /// Its name, also that of its log.
    pub name: String,
    /// Its number, if it runs.
    pub pid: Option<i32>,
    /// What it wrote.
    pub log: PathBuf,
}

/// Kept in the folder to find the cluster again.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    nodes: u8,
}

impl Config {
    /// One node, the folders of the environment, and the programs beside this one.
    pub fn standard(progress: Progress) -> Result<Self> {
        Ok(Self {
            nodes: 1,
            state: State::locate(None)?,
            cache: Cache::locate()?,
            helper: paths::sibling_binary("e2e")?,
            fake_azure: paths::sibling_binary("fake-azure")?,
            progress,
        })
    }
}

impl Cluster {
    /// Brings it up, or what is missing of it; a healthy one is used as it is.
    ///
    /// One that was left by a crash and does not recover is taken down first.
    pub async fn ensure(config: Config) -> Result<Self> {
        preflight::check()?;
        let asked = topology::standard_nodes(config.nodes)?;
        // Now, so that a missing program does not cost a running cluster.
        components::check_programs(&config)?;
        let _claim = Claim::take(&config.state, &config.progress).await?;
        components::check_ports(&config.state)?;
        debian::ensure(debian::RUN, &config.progress).await?;
        let programs = ControlPlane::ensure(&config.cache, &config.progress).await?;
        let pause = images::build_pause(&config.cache, &programs, &config.progress).await?;
        let mut nodes = asked;
        if let Some(record) = Record::read(&config.state) {
            nodes = topology::standard_nodes(record.nodes.max(config.nodes))?;
            if can_be_kept(&config.state, record.nodes) {
                match bring_up::run(&config, &nodes, &programs, &pause).await {
                    Ok(()) => return Ok(Self::new(config, nodes, programs)),
                    Err(error) if error.is::<Unhealthy>() => config.progress.step(format!(
                        "the cluster that is there does not recover, starting over: {error:#}"
                    )),
                    Err(error) => return Err(error),
                }
            }
        }
        if !is_clean(&config.state) {
            config.progress.step("removing what another cluster left");
            teardown::run(&config.state).await?;
        }
        bring_up::run(&config, &nodes, &programs, &pause).await?;
        Ok(Self::new(config, nodes, programs))
    }

    /// The cluster of a folder, as it is.
    pub async fn attach(state: State, progress: Progress) -> Result<Self> {
        let record = Record::read(&state).filter(|_| state.kubeconfig().is_file());
        let record = record.with_context(|| {
            format!("there is no cluster in {}: run `e2e up`", state.root().display())
        })?;
        let programs = ControlPlane::ensure(&Cache::locate()?, &progress).await?;
        let nodes = topology::standard_nodes(record.nodes)?;
        Ok(Self { state, nodes, programs, progress })
    }

    /// Takes it down, whatever is left of it. Says whether there was something.
    pub async fn down(state: &State, progress: &Progress) -> Result<bool> {
        preflight::check()?;
        let claim = Claim::take(state, progress).await?;
        let was_there = !is_clean(state);
        teardown::run(state).await?;
        claim.release()?;
        Ok(was_there)
    }

    /// Cluster admin, for programs of the root namespace.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.kubeconfig()
    }

    /// A client with cluster admin's rights.
    pub async fn client(&self) -> Result<kube::Client> {
        client(&self.kubeconfig()).await
    }

    /// A program that runs in a node's network, as if on the node.
    #[must_use]
    pub fn in_node(&self, node: &Node, program: &str) -> Command {
        in_netns(&node.netns(), program)
    }

    /// A program that runs outside the cluster, where fake Azure is.
    #[must_use]
    pub fn in_azure(&self, program: &str) -> Command {
        in_netns(AZURE_NETNS, program)
    }

    /// Base URL of fake Azure's control API, from the root namespace.
    #[must_use]
    pub fn fake_azure(&self) -> String {
        format!("http://{FAKE_AZURE_FORWARD}")
    }

    /// The CA that fake Azure's certificates are from.
    #[must_use]
    pub fn fake_azure_ca(&self) -> PathBuf {
        self.state.fake_azure().join("ca.crt")
    }

    /// kubectl with these arguments.
    #[must_use]
    pub fn kubectl(&self, args: &[&str]) -> Command {
        self.tool("kubectl", args)
    }

    /// Helm with these arguments.
    #[must_use]
    pub fn helm(&self, args: &[&str]) -> Command {
        self.tool("helm", args)
    }

    /// Where kubectl or helm is.
    #[must_use]
    pub fn program(&self, name: &str) -> &Path {
        self.programs.program(name)
    }

    /// Its nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Its folder.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Gives images from the cache to all nodes that do not have them.
    pub async fn load(&self, built: &[Built]) -> Result<()> {
        for image in built {
            images::load_built(image, &self.state, &self.nodes, &self.progress).await?;
        }
        Ok(())
    }

    /// Gives an archive to all nodes.
    pub async fn load_archive(&self, archive: &Path) -> Result<()> {
        images::load_archive(archive, &self.state, &self.nodes, &self.progress).await
    }

    /// Its processes, running or not.
    #[must_use]
    pub fn processes(&self) -> Vec<ProcessStatus> {
        let status = |name: String| ProcessStatus {
            pid: process::pid(&self.state, &name),
            log: self.state.log(&name),
            name,
        };
        process::names(&self.state).into_iter().map(status).collect()
    }

    fn new(config: Config, nodes: Vec<Node>, programs: ControlPlane) -> Self {
        Self { state: config.state, nodes, programs, progress: config.progress }
    }

    fn tool(&self, name: &str, args: &[&str]) -> Command {
        let mut command = exec::command(self.programs.program(name));
        command.env("KUBECONFIG", self.kubeconfig()).args(args);
        command
    }
}

impl Record {
    fn read(state: &State) -> Option<Self> {
        serde_json::from_slice(&fs::read(state.record()).ok()?).ok()
    }

    fn write(&self, state: &State) -> Result<()> {
        files::write(&state.record(), serde_json::to_vec(self)?, Access::Public)
    }
}

/// Namespaces cannot be mended: the cables of the others end in them.
fn can_be_kept(state: &State, nodes: u8) -> bool {
    let namespaces = (1..=nodes).map(|index| Node::standard(index).netns());
    namespaces.chain([AZURE_NETNS.to_owned()]).all(|netns| net::is_set_up(state, &netns))
}

fn is_clean(state: &State) -> bool {
    !state.record().exists()
        && !net::all_netns().iter().any(|netns| net::netns_path(netns).exists())
}

/// A client that goes straight to the cluster, whatever proxy the environment names.
async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let file = Kubeconfig::read_from(kubeconfig).context("cannot read the kubeconfig")?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .context("cannot use the kubeconfig")?;
    config.proxy_url = None;
    kube::Client::try_from(config).context("cannot make a client")
}

fn in_netns(netns: &str, program: &str) -> Command {
    let mut command = exec::command("nsenter");
    command.arg(format!("--net={}", net::netns_path(netns).display())).arg(program);
    command
}
