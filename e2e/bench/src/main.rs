//! Measures what ships: the commands behind `make bench`.

use clap::{Parser, Subcommand};

/// Measures the release programs and compares them with what was promised.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The token path: sidecar, node agent and sizes.
    Tokens,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Tokens => Ok(()),
    }
}
