//! The `fake-azure` program: arguments, logging, signals.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use fake_azure::{Config, FakeAzure};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Parser)]
#[command(version, about = "A fake Azure: IMDS, Entra, ARM and Key Vault over one world")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT.
    Serve(Serve),
}

#[derive(clap::Args)]
struct Serve {
    /// Keeps the authority (`ca.crt`, `ca.key`), the signing key and the world.
    #[arg(long, env = "FAKE_AZURE_STATE_DIR")]
    state_dir: PathBuf,
    /// The metadata service, plain HTTP.
    #[arg(long, env = "FAKE_AZURE_IMDS", default_value = "169.254.169.254:80")]
    imds: SocketAddr,
    /// The token endpoint, TLS.
    #[arg(long, env = "FAKE_AZURE_ENTRA", default_value = "10.77.0.254:8443")]
    entra: SocketAddr,
    /// The resource manager, TLS.
    #[arg(long, env = "FAKE_AZURE_ARM", default_value = "10.77.0.254:9443")]
    arm: SocketAddr,
    /// The key vaults, TLS.
    #[arg(long, env = "FAKE_AZURE_VAULT", default_value = "10.77.0.254:10443")]
    vault: SocketAddr,
    /// The control API, plain HTTP.
    #[arg(long, env = "FAKE_AZURE_CONTROL", default_value = "10.77.0.254:8000")]
    control: SocketAddr,
    /// One more DNS name in the certificate; may be repeated.
    #[arg(long = "tls-name", env = "FAKE_AZURE_TLS_NAMES", value_delimiter = ',')]
    tls_names: Vec<String>,
    /// One more address in the certificate; may be repeated.
    #[arg(long = "tls-ip", env = "FAKE_AZURE_TLS_IPS", value_delimiter = ',')]
    tls_addresses: Vec<IpAddr>,
    /// One more token audience that the resource manager accepts; may be repeated.
    #[arg(long = "arm-audience", env = "FAKE_AZURE_ARM_AUDIENCES", value_delimiter = ',')]
    arm_audiences: Vec<String>,
    /// The world to start from, in the form of `GET /_fake/state`, instead of the default one.
    #[arg(long, env = "FAKE_AZURE_SEED")]
    seed: Option<PathBuf>,
    /// How many journal entries are kept.
    #[arg(long, env = "FAKE_AZURE_JOURNAL_CAPACITY", default_value_t = 100_000)]
    journal_capacity: usize,
    /// What is logged: error, warn, info, debug, trace, or a filter.
    #[arg(long, env = "FAKE_AZURE_LOG", default_value = "info")]
    log_level: String,
}

impl TryFrom<Serve> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Serve) -> Result<Self, Self::Error> {
        let mut config = Self::local(&args.state_dir);
        if let Some(path) = &args.seed {
            let text = std::fs::read(path)
                .with_context(|| format!("cannot read the seed {}", path.display()))?;
            config.seed = serde_json::from_slice(&text)
                .with_context(|| format!("{} is not a world", path.display()))?;
        }
        anyhow::ensure!(args.journal_capacity > 0, "--journal-capacity must be at least 1");
        Ok(Self {
            imds: args.imds,
            entra: args.entra,
            arm: args.arm,
            vault: args.vault,
            control: args.control,
            tls_names: args.tls_names,
            tls_addresses: args.tls_addresses,
            arm_audiences: args.arm_audiences,
            journal_capacity: args.journal_capacity,
            ..config
        })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Command::Serve(args) = Args::parse().command;
    let targets: Targets = args
        .log_level
        .parse()
        .with_context(|| format!("--log-level {:?} is not a filter", args.log_level))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
    // Before the services start: who sees them answer may send the signal at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let fake = FakeAzure::start(args.try_into()?).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("Stopping");
    fake.stop().await;
    Ok(())
}
