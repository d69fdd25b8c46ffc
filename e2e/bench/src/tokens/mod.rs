//! The token path, measured on the release programs: `bench tokens`.

mod node_agent;
mod sidecar;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::fakes::Fakes;
use crate::fakes::authority::Authority;
use crate::load::{self, Plan, Times};
use crate::machine::Watch;
use crate::report::{LoadSample, Report};
use crate::subject::Subject;
use crate::summary::{mebibytes, milliseconds};
use crate::{namespace, sizes};

/// What is measured, how often, and where the results go.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of the programs; by default that of this one.
    #[arg(long)]
    programs: Option<PathBuf>,

    /// Folder of the image archives, whose sizes are reported.
    #[arg(long)]
    images: Option<PathBuf>,

    /// Where everything is written as JSON.
    #[arg(long, default_value = "target/bench/tokens.json")]
    output: PathBuf,

    /// How often each load is repeated, each time with fresh processes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// How long each load is measured.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    milliseconds: u64,

    /// How often a start is repeated.
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..))]
    starts: u32,

    /// Measure only this part.
    #[arg(long, value_enum)]
    only: Option<Part>,

    /// Fail if a promise is exceeded by more than this factor; without a number by half.
    #[arg(long, num_args = 0..=1, default_missing_value = "1.5")]
    check: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The sidecar.
    Sidecar,
    /// The node agent.
    NodeAgent,
    /// Programs and images.
    Sizes,
}

/// What the parts share.
struct Stage {
    programs: PathBuf,
    rounds: u32,
    starts: u32,
    times: Times,
    dir: TempDir,
    fakes: Fakes,
    authority: Authority,
}

/// After connections were made and caches filled, until it counts.
const SETTLE: Duration = Duration::from_millis(200);

/// Measures and reports.
pub(crate) fn run(args: &Args) -> Result<()> {
    namespace::enter()?;
    let (watch, mut report) = (Watch::begin()?, Report::default());
    let stage = Stage::set(args)?;
    let wanted = |part| args.only.is_none_or(|only| only == part);
    if wanted(Part::Sidecar) {
        sidecar::measure(&stage, &mut report).context("the sidecar cannot be measured")?;
    }
    if wanted(Part::NodeAgent) {
        node_agent::measure(&stage, &mut report).context("nmi-host cannot be measured")?;
    }
    if wanted(Part::Sizes) {
        sizes::measure(&stage.programs, args.images.as_deref(), &mut report)?;
    }
    report.publish(watch.end()?, &args.output, args.check)
}

// === impl Stage ===

impl Stage {
    fn set(args: &Args) -> Result<Self> {
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let beside = || own.parent().map(PathBuf::from).context("this program has no folder");
        let programs = args.programs.clone().map_or_else(beside, Ok)?;
        for program in ["nmi-sidecar", "nmi-host", "bench"] {
            let file = programs.join(program);
            ensure!(file.is_file(), "{} is missing: run make bench", file.display());
        }
        Ok(Self {
            programs,
            rounds: args.rounds,
            starts: args.starts,
            times: Times { settle: SETTLE, measure: Duration::from_millis(args.milliseconds) },
            dir: tempfile::tempdir().context("no folder for certificates and logs")?,
            fakes: Fakes::start()?,
            authority: Authority::new()?,
        })
    }

    /// A file of this run.
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Loads a server once.
    #[expect(clippy::cast_precision_loss, reason = "no run has 2^52 requests")]
    fn sample(&self, plan: &Plan, server: &Subject) -> Result<LoadSample> {
        let load = load::run(plan, self.times, || server.usage())?;
        let requests = load.latencies.len() as f64;
        let [p50, p99] = load.latencies.percentiles([50, 99]).map(milliseconds);
        let processor = load.after.processor.saturating_sub(load.before.processor);
        Ok(LoadSample {
            rate: requests / load.elapsed.as_secs_f64(),
            p50_ms: p50,
            p99_ms: p99,
            processor_us: processor.as_secs_f64() * 1e6 / requests,
            resident_mib: mebibytes(load.after.memory.resident),
        })
    }
}

/// The same requests, begun at another place by each caller.
fn rotated(script: &[Rc<[u8]>], caller: usize) -> Vec<Rc<[u8]>> {
    let mut script = script.to_vec();
    let by = caller % script.len().max(1);
    script.rotate_left(by);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_send_the_same_requests_from_different_places_on() {
        let script: Vec<Rc<[u8]>> = ["a", "b", "c"].map(|text| Rc::from(text.as_bytes())).into();
        for (caller, expected) in [(0, "abc"), (1, "bca"), (5, "cab")] {
            assert_eq!(rotated(&script, caller).concat(), expected.as_bytes(), "{caller}");
        }
        assert!(rotated(&[], 3).is_empty());
    }
}
