//! Command line of the local cluster.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use e2e::cluster::{Cluster, Config};
use e2e::demo;
use e2e::forward;
use e2e::images::{self, Image};
use e2e::paths::{Cache, State};
use e2e::progress::Progress;
use e2e::tools::control_plane::ControlPlane;
use e2e::tools::debian;

/// A real Kubernetes in network namespaces of this machine, with a fake Azure beside it.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Folder of the cluster.
    #[arg(long, global = true, env = "POD_IDENTITY_STATE", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the main job end to end, on a cluster that is brought up for it.
    Demo,
    /// Install and build what clusters, images and tests need, as far as it is missing.
    Tools,
    /// Bring the cluster up, or what is missing of it.
    Up {
        /// At least this many nodes; a running cluster grows, and never shrinks.
        #[arg(long, env = "POD_IDENTITY_NODES", default_value_t = 1)]
        nodes: u8,
        /// The fake Azure to run; by default the one beside this program.
        #[arg(long, env = "POD_IDENTITY_FAKE_AZURE", value_name = "PROGRAM")]
        fake_azure: Option<PathBuf>,
    },
    /// Take the cluster down and remove all traces of it.
    Down,
    /// Say which processes run and whether the nodes are ready.
    Status,
    /// Run kubectl; without arguments print the path of the kubeconfig.
    Kubectl {
        /// Arguments for kubectl.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run helm.
    Helm {
        /// Arguments for helm.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build the images whose inputs changed, print their archives, and import them into the nodes
    /// of a cluster that is up.
    Images {
        /// Only this image; can be given several times.
        #[arg(long, value_name = "IMAGE")]
        only: Vec<String>,
    },
    /// Import a docker or OCI archive into every node.
    LoadImage {
        /// The archive.
        archive: PathBuf,
    },
    /// Forward ports into a namespace; started by `up`.
    #[command(hide = true)]
    Forward {
        /// File of the namespace to connect from.
        #[arg(long)]
        netns: PathBuf,
        /// `LISTEN=TARGET`.
        rules: Vec<forward::Rule>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    // Before any thread exists: it changes the namespace of the whole process.
    let result = if let Command::Forward { netns, rules } = &args.command {
        forward::run(netns, rules)
    } else {
        tokio::runtime::Runtime::new()
            .context("cannot start the runtime")
            .and_then(|runtime| runtime.block_on(run(args)))
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not Debug: what helps here is a sentence and not a backtrace.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "results go to standard output")]
async fn run(args: Args) -> Result<()> {
    let state = State::locate(args.state_dir.as_deref())?;
    let progress = Progress::to_stderr();
    match args.command {
        Command::Up { nodes, fake_azure } => {
            let mut config = Config { nodes, state, ..Config::standard(progress)? };
            config.fake_azure = fake_azure.unwrap_or(config.fake_azure);
            let cluster = Cluster::ensure(config).await?;
            println!("source {}", cluster.state().env_file().display());
        }
        Command::Demo => demo::run(Config { state, ..Config::standard(progress)? }).await?,
        Command::Tools => {
            for needs in [debian::RUN, debian::BUILD_IMAGES, debian::BUILD_CLIENTS] {
                debian::ensure(needs, &progress).await?;
            }
            ControlPlane::ensure(&Cache::locate()?, &progress).await?;
        }
        Command::Down => {
            let was_there = Cluster::down(&state, &progress).await?;
            progress.step(if was_there { "the cluster is gone" } else { "there was no cluster" });
        }
        Command::Status => status(&attach(state).await?).await?,
        Command::Kubectl { args } if args.is_empty() => {
            println!("{}", attach(state).await?.kubeconfig().display());
        }
        Command::Kubectl { args } => become_tool(&attach(state).await?, "kubectl", &args)?,
        Command::Helm { args } => become_tool(&attach(state).await?, "helm", &args)?,
        Command::Images { only } => {
            let wanted: Vec<Image> = if only.is_empty() {
                Image::standard().collect()
            } else {
                only.iter().map(|name| Image::by_name(name)).collect::<Result<_>>()?
            };
            let built = images::build(&wanted, &Cache::locate()?, &progress).await?;
            if state.record().is_file() {
                Cluster::attach(state, progress).await?.load(&built).await?;
            } else {
                progress.step("no cluster is up to import them into");
            }
            for image in built {
                println!("{}  {}", images::reference(image.name), image.archive.display());
            }
        }
        Command::LoadImage { archive } => {
            Cluster::attach(state, progress).await?.load_archive(&archive).await?;
        }
        Command::Forward { .. } => unreachable!("handled before the runtime"),
    }
    Ok(())
}

async fn attach(state: State) -> Result<Cluster> {
    Cluster::attach(state, Progress::to_stderr()).await
}

#[expect(clippy::print_stdout, reason = "results go to standard output")]
async fn status(cluster: &Cluster) -> Result<()> {
    for process in cluster.processes() {
        let state = process.pid.map_or("DEAD".to_owned(), |pid| pid.to_string());
        println!("{:24} {state:>8}  {}", process.name, process.log.display());
    }
    let mut list = cluster.kubectl(&["get", "nodes", "--output=wide", "--request-timeout=5s"]);
    let nodes = e2e::exec::output(&mut list).await;
    print!("\n{}", nodes.context("the API server does not answer: run `e2e up`")?);
    Ok(())
}

/// The tool takes this process's place, so that signals and the exit code are its own.
fn become_tool(cluster: &Cluster, name: &str, args: &[String]) -> Result<()> {
    let error = std::process::Command::new(cluster.program(name))
        .env("KUBECONFIG", cluster.kubeconfig())
        .args(args)
        .exec();
    Err(error).with_context(|| format!("cannot run {name}"))
}
