//! Starts the sidecar.

use anyhow::Context;
use clap::Parser;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use nmi_sidecar::args::{Args, Config};

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    args.log.init()?;
    hide_memory();
    runtime::crypto::install_provider();
    let config = Config::try_from(args)?;
    // One thread: a pod asks for a few tokens a day, and every thread costs memory in every pod.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(nmi_sidecar::run::run(config))
}

/// Keeps tokens out of core files and out of the reach of other processes of the same user.
fn hide_memory() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "Cannot forbid core dumps");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "Cannot make the process undumpable");
    }
}
