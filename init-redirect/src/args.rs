//! The command line, and the configuration that is made of it once it is known to make sense.

use std::net::{IpAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use netfilter::BackendChoice;

use crate::failure::Failure;
use crate::rules::{Redirect, Wireserver};

/// Redirects calls of the instance metadata service to the pod's sidecar, and verifies it.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    /// Where applications expect the instance metadata service
    #[arg(long, env = "METADATA_ADDRESS", default_value = "169.254.169.254:80")]
    metadata_address: SocketAddrV4,

    /// The sidecar's port on the pod's loopback address
    #[arg(long, env = "TO_PORT", default_value_t = 2579)]
    to_port: u16,

    /// The node's address (status.hostIP): if it is an address of ours, this is the host's
    /// network namespace
    #[arg(long, env = "NODE_IP")]
    node_ip: IpAddr,

    /// The pod's address (status.podIP), if known: equal to the node's with hostNetwork
    #[arg(long, env = "POD_IP")]
    pod_ip: Option<IpAddr>,

    /// Which iptables to use: auto, nft or legacy
    #[arg(long, env = "BACKEND", default_value_t = BackendChoice::Auto)]
    backend: BackendChoice,

    /// How long one iptables command may take
    #[arg(long, env = "COMMAND_TIMEOUT", default_value = "10s", value_parser = duration)]
    command_timeout: Duration,

    /// How long one connection of the verification may take
    #[arg(long, env = "VERIFY_TIMEOUT", default_value = "3s", value_parser = duration)]
    verify_timeout: Duration,

    /// Whether to reject tcp to ports 80 and 32526 of Azure's wireserver, 168.63.129.16
    #[arg(long, env = "BLOCK_WIRESERVER", default_value_t = true, action = ArgAction::Set)]
    block_wireserver: bool,

    /// Where to leave the reason of a failure
    #[arg(long, env = "TERMINATION_LOG", default_value = crate::DEFAULT_TERMINATION_LOG)]
    pub(crate) termination_log: PathBuf,
}

/// What to do, checked.
#[derive(Debug)]
pub(crate) struct Config {
    /// What is redirected where, and what is rejected.
    pub(crate) redirect: Redirect,
    /// The address that must not be one of ours.
    pub(crate) node_ip: IpAddr,
    /// The pod's address, if the injector told.
    pub(crate) pod_ip: Option<IpAddr>,
    /// Which iptables to use.
    pub(crate) backend: BackendChoice,
    /// How long one command may take.
    pub(crate) command_timeout: Duration,
    /// How long one connection may take.
    pub(crate) verify_timeout: Duration,
}

// === impl Config ===

impl TryFrom<Args> for Config {
    type Error = Failure;

    fn try_from(args: Args) -> Result<Self, Failure> {
        let Args {
            metadata_address: metadata,
            to_port,
            node_ip,
            pod_ip,
            backend,
            command_timeout,
            verify_timeout,
            block_wireserver,
            termination_log: _,
        } = args;
        if to_port == 0 {
            return Err(Failure::Usage("--to-port must not be 0".to_owned()));
        }
        if metadata.port() == 0 || metadata.ip().is_unspecified() || metadata.ip().is_loopback() {
            let reason = format!("--metadata-address {metadata} is not an address to intercept");
            return Err(Failure::Usage(reason));
        }
        let wireserver = if block_wireserver { Wireserver::Blocked } else { Wireserver::Open };
        let redirect = Redirect { metadata, to_port, wireserver };
        Ok(Self { redirect, node_ip, pod_ip, backend, command_timeout, verify_timeout })
    }
}

/// Parses `10s` or `500ms`; zero is no time to do anything in.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.strip_suffix("ms") {
        Some(number) => number.parse().map(Duration::from_millis),
        None => text.strip_suffix('s').unwrap_or("").parse().map(Duration::from_secs),
    };
    parsed
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "use seconds or milliseconds above zero, such as 10s or 500ms".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let args = ["init-redirect", "--node-ip", "192.0.2.1"].iter().chain(args);
        let args = Args::try_parse_from(args).map_err(|error| error.to_string())?;
        Config::try_from(args).map_err(|failure| failure.line())
    }

    #[test]
    fn the_defaults_are_those_of_azure_and_the_sidecar() {
        let config = config(&[]).unwrap();
        assert_eq!(config.redirect.metadata, "169.254.169.254:80".parse().unwrap());
        assert_eq!(config.redirect.to_port, 2579);
        assert_eq!(config.redirect.wireserver, Wireserver::Blocked);
        assert_eq!(config.backend, BackendChoice::Auto);
    }

    #[test]
    fn a_boolean_is_true_or_false_and_nothing_else() {
        let open = config(&["--block-wireserver", "false"]).unwrap();
        assert_eq!(open.redirect.wireserver, Wireserver::Open);
        for value in ["yes", "1", "", "False"] {
            config(&["--block-wireserver", value]).unwrap_err();
        }
    }

    #[test]
    fn senseless_values_are_refused() {
        for args in [
            ["--to-port", "0"],
            ["--to-port", "65536"],
            ["--metadata-address", "169.254.169.254"],
            ["--metadata-address", "169.254.169.254:0"],
            ["--metadata-address", "127.0.0.1:80"],
            ["--metadata-address", "0.0.0.0:80"],
            ["--metadata-address", "[fe80::1]:80"],
            ["--backend", "iptables"],
            ["--command-timeout", "10"],
            ["--command-timeout", "0s"],
            ["--verify-timeout", "1m"],
            ["--node-ip", "node-1"],
        ] {
            config(&args).expect_err(&args.join(" "));
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
    }
}
