//! The agent of a node: proves which pod a sidecar speaks for, hands out the tokens of its
//! identities, and keeps all other pods away from the metadata service.

mod args;
mod assigned;
mod authn;
mod broker;
mod caller;
mod certificate;
mod correlation;
mod crowd;
mod entra_args;
mod exceptions;
mod guard;
mod guard_task;
mod host;
mod jwt;
mod metrics;
mod mint;
mod pods;
mod removed;
mod run;
mod select;
mod serve;
mod sidecar;
#[cfg(test)]
mod testing;
mod watched;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use runtime::Shutdown;
use rustix::process::{Resource, Rlimit, setrlimit};

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = mint::unpack_for_parent() {
        return Ok(code);
    }
    removed::NMI.refuse(std::env::args_os(), |name| std::env::var_os(name).is_some())?;
    let args = args::Args::parse();
    args.log().init()?;
    no_core_dumps()?;
    runtime::crypto::install_provider();
    let config = args::Config::try_from(args)?;
    // One thread: an answer from the cache takes microseconds, and threads that wake each other for
    // it cost several times as much.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(async { run::run(config, Shutdown::on_signals()?).await })?;
    Ok(ExitCode::SUCCESS)
}

/// A core dump would hold every token of the node.
fn no_core_dumps() -> anyhow::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).context("cannot switch core dumps off")
}
