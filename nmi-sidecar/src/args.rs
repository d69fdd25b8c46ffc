//! The command line, and what it amounts to once it has been checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use api::is_resource;
use clap::Parser;
use runtime::LogArgs;
use rustls::pki_types::ServerName;

use crate::imds::Hosts;

/// Answers the instance metadata service's token calls for the pod it runs in.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Where the application's redirected requests arrive; a loopback address.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:2579")]
    pub listen: SocketAddr,

    /// Where probes and metrics are served.
    #[arg(long, env = "ADMIN", default_value = "0.0.0.0:2580")]
    pub admin: SocketAddr,

    /// The agent of this node: IP address and port.
    #[arg(long, env = "NODE", value_parser = node_address)]
    pub node: SocketAddr,

    /// The name in the agent's certificate, such as nmi-host.pod-identity-system.svc.
    #[arg(long, env = "SERVER_NAME", value_parser = server_name)]
    pub server_name: ServerName<'static>,

    /// The pod's projected service account token for the agent.
    #[arg(
        long,
        env = "TOKEN_FILE",
        default_value = "/var/run/secrets/aadpodidentity.k8s.io/token"
    )]
    pub token_file: PathBuf,

    /// The pod's projected service account token for Entra, which the agent asks for where an
    /// identity is federated by the pod; the file need not exist.
    #[arg(
        long,
        env = "FEDERATED_TOKEN_FILE",
        default_value = "/var/run/secrets/aadpodidentity.k8s.io/federated-token"
    )]
    pub federated_token_file: PathBuf,

    /// The certificates that sign the agent's.
    #[arg(long, env = "CA_FILE", default_value = "/var/run/secrets/aadpodidentity.k8s.io/ca.crt")]
    pub ca_file: PathBuf,

    /// How long the application is held back until its identities are assigned, such as 60s or 2m;
    /// 0 does not hold it back.
    #[arg(long, env = "GATE_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub gate_timeout: Duration,

    /// A resource whose token of the default identity is to be there before the application starts,
    /// such as https://vault.azure.net; may be repeated.
    #[arg(long, value_parser = resource)]
    pub warm_up: Vec<String>,

    /// How old the agent's last word on an identity may be before it is asked again, such as 10s:
    /// so long a removed binding may go on working.
    #[arg(long, env = "VERIFY_AFTER", default_value = "10s", value_parser = duration)]
    pub verify_after: Duration,

    /// A Host header to accept besides the metadata address's own; may be repeated.
    #[arg(long, env = "ALLOWED_HOSTS", value_delimiter = ',')]
    pub allowed_host: Vec<String>,

    /// Namespace of the pod, for the log.
    #[arg(long, env = "POD_NAMESPACE", default_value = "")]
    pub pod_namespace: String,

    /// Name of the pod, for the log.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,

    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The checked arguments.
#[derive(Clone, Debug)]
pub struct Config {
    /// See [`Args::listen`].
    pub listen: SocketAddr,
    /// See [`Args::admin`].
    pub admin: SocketAddr,
    /// The agent of the node.
    pub node: NodeConfig,
    /// See [`Args::gate_timeout`].
    pub gate_timeout: Duration,
    /// See [`Args::federated_token_file`].
    pub federated_token_file: PathBuf,
    /// See [`Args::warm_up`].
    pub warm_up: Vec<String>,
    /// See [`Args::verify_after`].
    pub verify_after: Duration,
    /// The accepted Host headers.
    pub hosts: Hosts,
    /// `namespace/name` of the pod.
    pub pod: String,
}

/// How the agent of the node is reached and recognised.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// See [`Args::node`].
    pub address: SocketAddr,
    /// See [`Args::server_name`].
    pub server_name: ServerName<'static>,
    /// See [`Args::token_file`].
    pub token_file: PathBuf,
    /// See [`Args::ca_file`].
    pub ca_file: PathBuf,
}

/// The arguments contradict what the sidecar is for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Other pods could ask for this pod's tokens.
    #[error("--listen {0} is not a loopback address: other pods could take this pod's tokens")]
    NotLoopback(SocketAddr),
}

// === impl Config ===

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        if !args.listen.ip().is_loopback() {
            return Err(ConfigError::NotLoopback(args.listen));
        }
        Ok(Self {
            listen: args.listen,
            admin: args.admin,
            node: NodeConfig {
                address: args.node,
                server_name: args.server_name,
                token_file: args.token_file,
                ca_file: args.ca_file,
            },
            gate_timeout: args.gate_timeout,
            federated_token_file: args.federated_token_file,
            warm_up: args.warm_up,
            verify_after: args.verify_after,
            hosts: Hosts::with(args.allowed_host),
            pod: format!("{}/{}", args.pod_namespace, args.pod_name),
        })
    }
}

/// `10.0.0.4:2579`, `[fd00::4]:2579`, and `fd00::4:2579`, which is what comes out when a template
/// joins the node's IP and a port with a colon.
fn node_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let split = text.rsplit_once(':').and_then(|(ip, port)| {
        Some(SocketAddr::new(ip.parse::<IpAddr>().ok()?, port.parse().ok()?))
    });
    split.ok_or_else(|| "not an IP address and a port, such as 10.0.0.4:2579".to_owned())
}

fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| "not a DNS name such as nmi-host.pod-identity-system.svc".to_owned())
}

fn resource(text: &str) -> Result<String, String> {
    if is_resource(text) {
        Ok(text.to_owned())
    } else {
        Err("not a resource: 1 to 512 printable ASCII characters without spaces".to_owned())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .unwrap_or((text, 1000));
    let millis = number.parse::<u32>().map(|number| u64::from(number) * factor);
    millis.map(Duration::from_millis).map_err(|_| "not a duration such as 60s or 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(extra: &[&str]) -> Args {
        let must = ["nmi-sidecar", "--node", "10.0.0.4:2579", "--server-name", "nmi-host.x.svc"];
        Args::try_parse_from(must.iter().chain(extra)).unwrap()
    }

    #[test]
    fn what_the_webhook_passes_is_understood() {
        let line = "--listen 127.0.0.1:2579 --admin 0.0.0.0:2580 --token-file /t --ca-file /c \
                    --gate-timeout 60s --log-level info";
        let extra: Vec<&str> = line.split_whitespace().collect();
        let config = Config::try_from(args(&extra)).unwrap();
        assert_eq!(config.gate_timeout, Duration::from_secs(60));
        assert_eq!(config.node.address, "10.0.0.4:2579".parse().unwrap());
        assert_eq!(config.verify_after, Duration::from_secs(10));
    }

    #[test]
    fn resources_to_warm_up_are_taken_verbatim() {
        let config = Config::try_from(args(&["--warm-up=b,c/", "--warm-up=-a"])).unwrap();
        assert_eq!(config.warm_up, ["b,c/", "-a"]);
        assert_eq!(resource("a b").unwrap_err().split(':').next(), Some("not a resource"));
    }

    #[test]
    fn a_listener_that_other_pods_reach_is_refused() {
        for listen in ["0.0.0.0:2579", "10.0.0.4:2579", "[::]:2579"] {
            let error = Config::try_from(args(&["--listen", listen])).unwrap_err();
            assert!(error.to_string().contains("not a loopback address"), "{listen}");
        }
    }

    #[test]
    fn node_addresses_are_read_as_templates_write_them() {
        assert_eq!(node_address("fd00::4:2579"), Ok("[fd00::4]:2579".parse().unwrap()));
        assert_eq!(node_address("[fd00::4]:2579"), Ok("[fd00::4]:2579".parse().unwrap()));
        for bad in ["", "$(NODE_IP):2579", "node:2579", "10.0.0.4", ":2579"] {
            assert!(node_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        let rows = [("60s", 60_000), ("2m", 120_000), ("0", 0), ("5", 5000), ("1h", 3_600_000)];
        for (text, millis) in rows {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        for bad in ["", "s", "-1s", "1d", "1.5s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
