//! The controller under many pods, measured on the release program with an API server and an ARM of
//! its own: `bench scale`.

mod azure;
mod burst;
mod control_plane;
mod controller;
mod follower;
mod single;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use serde_json::json;
use tempfile::TempDir;

use self::azure::Azure;
use self::burst::{Peers, Size};
use self::control_plane::ControlPlane;
use self::controller::Controller;
use crate::machine::Watch;
use crate::namespace;
use crate::report::Report;

/// What is measured, how often, and where the results go.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the programs; by default that of this one.
    #[arg(long)]
    programs: Option<PathBuf>,

    /// Folder with etcd and kube-apiserver, as `e2e tools` builds them.
    #[arg(long)]
    control_plane: PathBuf,

    /// Where everything is written as JSON.
    #[arg(long, default_value = "target/bench/scale.json")]
    output: PathBuf,

    /// How often the burst of 1000 pods is repeated.
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// How many single pods are measured.
    #[arg(long, default_value_t = 31)]
    pods: usize,

    /// Leave out the burst of 10 000 pods.
    #[arg(long)]
    small: bool,

    /// Measure only this part.
    #[arg(long, value_enum)]
    only: Option<Part>,

    /// Fail if a promise is exceeded by more than this factor; without a number by half.
    #[arg(long, num_args = 0..=1, default_missing_value = "1.5")]
    check: Option<f64>,

    /// Keep the logs in this folder.
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// One pod at a time.
    Single,
    /// 1000 pods at once.
    Burst,
    /// 10 000 pods at once.
    LargeBurst,
}

/// What the parts share.
struct Stage {
    client: Client,
    azure: Azure,
    control_plane: ControlPlane,
    controller: PathBuf,
    log: PathBuf,
}

/// How long ARM takes for each call.
const ARM_GET: Duration = Duration::from_millis(50);
const ARM_PATCH: Duration = Duration::from_secs(2);

const BURST: Size = Size {
    pods: 1000,
    nodes: 10,
    sets: 2,
    identities: 20,
    assigned_s: 5.0,
    gone_s: 5.0,
    processor_s: Some(0.8),
    memory_mib: 40.0,
    peers: Peers {
        assigned: "10.4; 400 as shipped",
        gone: "12.5; 600 as shipped",
        processor: "3.8; 10.1 as shipped",
        memory: "94; 101 as shipped",
    },
};

const LARGE_BURST: Size = Size {
    pods: 10_000,
    nodes: 100,
    sets: 10,
    identities: 20,
    assigned_s: 40.0,
    gone_s: 40.0,
    processor_s: None,
    memory_mib: 120.0,
    peers: Peers { assigned: "", gone: "", processor: "", memory: "" },
};

/// Measures and reports.
pub(crate) fn run(args: &Args) -> Result<()> {
    namespace::enter()?;
    // The load and its watch are cheap; the processors are for what is measured.
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watch = Watch::begin()?;
    let mut report = Report::default();
    threads.block_on(measure(args, &mut report))?;
    drop(threads);
    report.publish(watch.end()?, &args.output, args.check)
}

async fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir().context("no folder for keys and logs")?;
    let result = measure_in(args, &dir, report).await;
    if let Some(keep) = &args.keep {
        keep_logs(&dir, keep)?;
    }
    result
}

async fn measure_in(args: &Args, dir: &TempDir, report: &mut Report) -> Result<()> {
    let stage = Stage::set(args, dir).await?;
    let wanted =
        |part| args.only.map_or(part != Part::LargeBurst || !args.small, |only| only == part);
    if wanted(Part::Single) {
        single::measure(&stage, args.pods, report).await.context("single pods")?;
        world::clear(&stage.client).await?;
    }
    if wanted(Part::Burst) {
        burst::measure(&stage, &BURST, args.rounds, report).await.context("1000 pods")?;
    }
    if wanted(Part::LargeBurst) {
        burst::measure(&stage, &LARGE_BURST, 1, report).await.context("10 000 pods")?;
    }
    Ok(())
}

fn keep_logs(dir: &TempDir, keep: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(keep)?;
    for file in std::fs::read_dir(dir.path())?.flatten() {
        if file.path().extension().is_some_and(|extension| extension == "log") {
            std::fs::copy(file.path(), keep.join(file.file_name()))?;
        }
    }
    Ok(())
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn count(number: usize) -> f64 {
    number as f64
}

// === impl Stage ===

impl Stage {
    async fn set(args: &Args, dir: &TempDir) -> Result<Self> {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let beside = || own.parent().map(PathBuf::from).context("this program has no folder");
        let programs = args.programs.clone().map_or_else(beside, Ok)?;
        for program in ["controller", "fake-azure"] {
            let file = programs.join(program);
            ensure!(file.is_file(), "{} is missing: run make bench", file.display());
        }
        let control_plane = ControlPlane::start(&args.control_plane, dir.path())?;
        let client = control_plane.admin().await?;
        ready(&client).await?;
        world::prepare(&client).await?;
        let azure_dir = dir.path().join("azure");
        std::fs::create_dir(&azure_dir)?;
        Ok(Self {
            client,
            azure: Azure::start(&programs.join("fake-azure"), &azure_dir)?,
            control_plane,
            controller: programs.join("controller"),
            log: dir.path().join("controller.log"),
        })
    }

    /// Makes a world of nodes in scale sets, and of identities, of which nothing is attached.
    async fn begin(&self, (nodes, sets): (usize, usize), identities: &[String]) -> Result<()> {
        self.azure.reset(sets, identities)?;
        self.behave()?;
        world::add_nodes(&self.client, nodes, sets).await?;
        world::add_identities(&self.client, identities).await
    }

    /// Lets ARM take the usual time.
    fn behave(&self) -> Result<()> {
        self.azure.behave(&json!({
            "arm_get": {"latency_ms": ARM_GET.as_millis() as u64},
            "arm_patch": {"latency_ms": ARM_PATCH.as_millis() as u64},
        }))
    }

    fn controller(&self, linger: Duration) -> Result<Controller> {
        let around = (&self.control_plane, &self.azure);
        Controller::start(&self.controller, around, linger, &self.log)
    }

    /// Waits until ARM was asked to detach, on every scale set.
    async fn wait_for_detachment(&self, sets: usize) -> Result<()> {
        for _ in 0..100 {
            let calls = (0..sets).map(|set| self.azure.calls(set));
            let calls = calls.collect::<Result<Vec<_>>>()?;
            if calls.iter().all(|calls| calls.patch >= 2) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("nothing was detached within 10 s")
    }
}

/// Waits until the API server answers that it is ready.
async fn ready(client: &Client) -> Result<()> {
    for _ in 0..300 {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        if client.request_text(request).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("the API server is not ready within 30 s")
}
