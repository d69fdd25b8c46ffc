//! The `webhook` process: parses the arguments, starts logging, runs.

use std::process::ExitCode;

use clap::Parser;
use webhook::{Args, Config, run};

#[tokio::main]
async fn main() -> ExitCode {
    runtime::crypto::install_provider();
    let args = Args::parse();
    match start(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "Stopped");
            ExitCode::FAILURE
        }
    }
}

async fn start(args: Args) -> anyhow::Result<()> {
    args.log.init()?;
    run(Config::try_from(args)?).await
}
