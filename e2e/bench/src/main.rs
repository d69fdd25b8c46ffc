//! Measures what ships: the commands behind `make bench`.

mod fakes;
mod floor;
mod load;
mod machine;
mod namespace;
mod procfs;
mod report;
mod scale;
mod sizes;
mod subject;
mod summary;
mod tokens;

use std::net::SocketAddr;

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
    Tokens(tokens::Args),
    /// The controller: many pods at once, and single ones.
    Scale(scale::Args),
    /// The least that a server in Rust costs, to compare with.
    #[command(hide = true)]
    Floor {
        /// Where it listens.
        #[arg(long)]
        listen: SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Tokens(args) => tokens::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::Floor { listen } => floor::run(listen),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
