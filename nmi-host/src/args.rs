//! The command line, and what is made of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use api::labels::NMI_AUDIENCE;
use api::matching::Scope;
use clap::{ArgAction, Parser, ValueEnum};
use netfilter::BackendChoice;
use runtime::LogArgs;

use crate::entra_args::{EntraArgs, EntraArgsError, EntraSettings};
use crate::mint::is_endpoint;

/// Gives the pods of one node the tokens of their Azure identities, and keeps everybody else on
/// the node away from the metadata service.
#[derive(Parser, Clone, Debug)]
#[command(name = "nmi-host", version)]
pub(crate) struct Args {
    #[command(flatten)]
    log: LogArgs,

    /// Name of the node that this runs on.
    #[arg(long, env = "NODE_NAME")]
    node_name: String,

    /// Address of the node, where sidecars connect.
    #[arg(long, env = "NODE_IP")]
    node_ip: IpAddr,

    /// Namespace of the release: of the certificate's Secret and of the DaemonSet.
    #[arg(long, env = "NAMESPACE")]
    namespace: String,

    /// Name of the Secret with the serving certificate (tls.crt, tls.key).
    #[arg(long, env = "TLS_SECRET")]
    tls_secret: String,

    /// Name of the DaemonSet that this runs as: when it is gone, the node guard is removed.
    #[arg(long, env = "DAEMONSET")]
    daemonset: String,

    /// Audience of the tokens that sidecars authenticate with.
    #[arg(long, env = "AUDIENCE", default_value = NMI_AUDIENCE)]
    audience: String,

    /// Azure's instance metadata service.
    #[arg(long, env = "IMDS_ENDPOINT", default_value = "http://169.254.169.254")]
    imds_endpoint: String,

    /// Port on the node's address for sidecars.
    #[arg(long, env = "SIDECAR_PORT", default_value_t = 2579)]
    sidecar_port: u16,

    /// Whether processes on the node may ask for pods' tokens at --host-listen.
    #[arg(long, env = "HOST_ENDPOINT", value_enum, default_value_t = Switch::Enabled)]
    host_endpoint: Switch,

    /// IPv4 loopback address for processes on the node.
    #[arg(long, env = "HOST_LISTEN", default_value = "127.0.0.1:2579")]
    host_listen: SocketAddrV4,

    /// Address for probes and metrics, for example $(NODE_IP):8085.
    #[arg(long, env = "ADMIN_ADDRESS")]
    admin_address: SocketAddr,

    /// Match pods only with identities of their own namespace: true or false.
    #[arg(
        long = "forceNamespaced",
        env = "FORCENAMESPACED",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true"
    )]
    force_namespaced: bool,

    /// Whether to reject pods' traffic to the metadata service in the node's FORWARD path.
    #[arg(long, env = "GUARD", value_enum, default_value_t = Switch::Enabled)]
    guard: Switch,

    /// Which iptables the node guard uses: auto, nft or legacy.
    #[arg(long, env = "GUARD_BACKEND", default_value = "auto")]
    guard_backend: BackendChoice,

    /// The address that the node guard protects.
    #[arg(long, env = "METADATA_IP", default_value = "169.254.169.254")]
    metadata_ip: Ipv4Addr,

    #[command(flatten)]
    entra: EntraArgs,
}

/// On or off; no other word is read as either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// On.
    Enabled,
    /// Off.
    Disabled,
}

/// The validated settings.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The node.
    pub(crate) node_name: String,
    /// The release.
    pub(crate) namespace: String,
    /// The Secret with the serving certificate.
    pub(crate) tls_secret: String,
    /// The agent's own DaemonSet.
    pub(crate) daemonset: String,
    /// Of the sidecars' tokens.
    pub(crate) audience: String,
    /// The metadata service.
    pub(crate) imds_endpoint: String,
    /// For sidecars.
    pub(crate) sidecar_listen: SocketAddr,
    /// For processes on the node, if they may ask.
    pub(crate) host_listen: Option<SocketAddr>,
    /// For probes and metrics.
    pub(crate) admin_listen: SocketAddr,
    /// How far bindings reach.
    pub(crate) scope: Scope,
    /// The node guard.
    pub(crate) guard: GuardSettings,
    /// Identities of types 1, 2 and 3.
    pub(crate) entra: EntraSettings,
}

/// What the node guard does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuardSettings {
    /// Whether there is one.
    pub(crate) switch: Switch,
    /// With which iptables.
    pub(crate) backend: BackendChoice,
    /// What it protects.
    pub(crate) metadata_ip: Ipv4Addr,
}

/// Settings with which the agent cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A text is empty, as an environment variable that was not expanded would be.
    #[error("--{0} is empty: set it, or the environment variable that it is read from")]
    Empty(&'static str),
    /// The endpoint is no plain http URL.
    #[error(
        "--imds-endpoint {0:?} must be an http URL without path, such as http://169.254.169.254"
    )]
    ImdsEndpoint(String),
    /// The host endpoint would be reachable from outside.
    #[error("--host-listen {0} must be a loopback address: the endpoint trusts whoever reaches it")]
    HostListen(SocketAddrV4),
    /// Sidecars would be told an address that is not the node's.
    #[error("--node-ip {0} must be the address of the node, not a wildcard")]
    NodeIp(IpAddr),
    /// Where Entra is.
    #[error(transparent)]
    Entra(#[from] EntraArgsError),
}

// === impl Args ===

impl Args {
    /// How to log.
    pub(crate) fn log(&self) -> &LogArgs {
        &self.log
    }
}

// === impl Config ===

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        for (name, value) in [
            ("node-name", &args.node_name),
            ("namespace", &args.namespace),
            ("tls-secret", &args.tls_secret),
            ("daemonset", &args.daemonset),
            ("audience", &args.audience),
        ] {
            if value.is_empty() {
                return Err(ConfigError::Empty(name));
            }
        }
        if !is_endpoint(&args.imds_endpoint) {
            return Err(ConfigError::ImdsEndpoint(args.imds_endpoint));
        }
        if !args.host_listen.ip().is_loopback() {
            return Err(ConfigError::HostListen(args.host_listen));
        }
        if args.node_ip.is_unspecified() {
            return Err(ConfigError::NodeIp(args.node_ip));
        }
        let scope = if args.force_namespaced { Scope::Namespaced } else { Scope::Cluster };
        Ok(Self {
            node_name: args.node_name,
            namespace: args.namespace,
            tls_secret: args.tls_secret,
            daemonset: args.daemonset,
            audience: args.audience,
            imds_endpoint: args.imds_endpoint,
            sidecar_listen: SocketAddr::new(args.node_ip, args.sidecar_port),
            host_listen: (args.host_endpoint == Switch::Enabled).then_some(args.host_listen.into()),
            admin_listen: args.admin_address,
            scope,
            guard: GuardSettings {
                switch: args.guard,
                backend: args.guard_backend,
                metadata_ip: args.metadata_ip,
            },
            entra: EntraSettings::load(args.entra)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Config, String> {
        let base = [
            "nmi-host",
            "--node-name=node-1",
            "--node-ip=10.0.0.4",
            "--namespace=system",
            "--tls-secret=tls",
            "--daemonset=nmi-host",
            "--admin-address=10.0.0.4:8085",
        ];
        let args = Args::try_parse_from(base.iter().chain(more)).map_err(|e| e.to_string())?;
        Config::try_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.sidecar_listen.to_string(), "10.0.0.4:2579");
        assert_eq!(config.host_listen.unwrap().to_string(), "127.0.0.1:2579");
        assert_eq!(config.audience, "nmi-host.aadpodidentity.k8s.io");
        assert_eq!(config.scope, Scope::Cluster);
        assert_eq!(config.guard.switch, Switch::Enabled);
        assert_eq!(parse(&["--host-endpoint=disabled"]).unwrap().host_listen, None);
    }

    #[test]
    fn force_namespaced_is_a_strict_boolean() {
        for (flag, scope) in [
            ("--forceNamespaced", Scope::Namespaced),
            ("--forceNamespaced=true", Scope::Namespaced),
            ("--forceNamespaced=false", Scope::Cluster),
        ] {
            assert_eq!(parse(&[flag]).unwrap().scope, scope, "{flag}");
        }
        for flag in ["--forceNamespaced=True", "--forceNamespaced=1", "--forceNamespaced="] {
            assert!(parse(&[flag]).is_err(), "{flag}");
        }
    }

    #[test]
    fn settings_that_cannot_work_say_what_to_do() {
        for (flag, expected) in [
            ("--host-listen=0.0.0.0:2579", "must be a loopback address"),
            ("--imds-endpoint=https://x", "must be an http URL"),
            ("--audience=", "--audience is empty"),
            ("--cloud=Mars", "unknown cloud"),
            ("--guard=on", "possible values: enabled, disabled"),
            ("--guard-backend=ebpf", "use auto, nft or legacy"),
        ] {
            let error = parse(&[flag]).unwrap_err();
            assert!(error.contains(expected), "{flag}: {error}");
        }
    }
}
