//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{ArgAction, Parser};
use runtime::LogArgs;

use crate::config::ImagePullPolicy;
use crate::gate::GateTimeout;
use crate::overrides::LogLevel;
use crate::warm_up::WarmUp;

/// Injects the redirect of the metadata address and the identity sidecar into pods.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// How the webhook itself logs.
    #[command(flatten)]
    pub log: LogArgs,

    /// Where the API server reaches the webhook (TLS)
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,

    /// Where probes and metrics are served (plain HTTP)
    #[arg(long, env = "ADMIN_ADDRESS", default_value = "0.0.0.0:8080")]
    pub admin_address: SocketAddr,

    /// The namespace of the release
    #[arg(long, env = "NAMESPACE")]
    pub namespace: String,

    /// The name that the release's objects begin with
    #[arg(long, env = "FULLNAME", default_value = "pod-identity-sidecar")]
    pub fullname: String,

    /// How long to keep serving after the process was asked to end, so that the API server learns
    /// of it before connections are refused; in seconds
    #[arg(long, env = "DRAIN_DELAY", default_value = "5", value_parser = seconds)]
    pub drain_delay: Duration,

    /// What is injected.
    #[command(flatten)]
    pub injected: InjectedArgs,
}

/// What is injected, unless annotations of the namespace or the pod say otherwise.
#[derive(clap::Args, Clone, Debug)]
pub struct InjectedArgs {
    /// The image of nmi-sidecar
    #[arg(long, env = "SIDECAR_IMAGE")]
    pub sidecar_image: String,

    /// The image of init-redirect
    #[arg(long, env = "INIT_IMAGE")]
    pub init_image: String,

    /// When nodes pull the two images
    #[arg(long, env = "IMAGE_PULL_POLICY", value_enum, default_value_t = ImagePullPolicy::IfNotPresent)]
    pub image_pull_policy: ImagePullPolicy,

    /// CPU request of each injected container
    #[arg(long, env = "SIDECAR_CPU_REQUEST", default_value = "10m")]
    pub sidecar_cpu_request: String,

    /// Memory request of each injected container
    #[arg(long, env = "SIDECAR_MEMORY_REQUEST", default_value = "16Mi")]
    pub sidecar_memory_request: String,

    /// CPU limit of each injected container
    #[arg(long, env = "SIDECAR_CPU_LIMIT", default_value = "500m")]
    pub sidecar_cpu_limit: String,

    /// Memory limit of each injected container
    #[arg(long, env = "SIDECAR_MEMORY_LIMIT", default_value = "64Mi")]
    pub sidecar_memory_limit: String,

    /// Log level of nmi-sidecar
    #[arg(long, env = "SIDECAR_LOG_LEVEL", default_value_t = LogLevel::Info)]
    pub sidecar_log_level: LogLevel,

    /// How long nmi-sidecar holds the application back until an identity is assigned: 0s (not at
    /// all) to 300s
    #[arg(long, env = "GATE_TIMEOUT", default_value_t = GateTimeout::default())]
    pub gate_timeout: GateTimeout,

    /// Resources, separated by commas, whose tokens nmi-sidecar gets before it lets the application
    /// start
    #[arg(long, env = "WARM_UP", default_value_t = WarmUp::default())]
    pub warm_up: WarmUp,

    /// Whether nmi-sidecar gets a service account token of its pod for Entra, which identities of
    /// type 3 that are federated by the pod need (true or false)
    #[arg(long, env = "FEDERATED_TOKEN", default_value_t = true, action = ArgAction::Set)]
    pub federated_token: bool,

    /// The audience of that token
    #[arg(long, env = "FEDERATION_AUDIENCE", default_value = "api://AzureADTokenExchange")]
    pub federation_audience: String,

    /// Whether pods that could undo the redirect are let in (true or false); the namespace
    /// annotation aadpodidentity.k8s.io/allow-unsafe-pods goes before it
    #[arg(long, env = "ALLOW_UNSAFE_PODS", default_value_t = false, action = ArgAction::Set)]
    pub allow_unsafe_pods: bool,

    /// Whether init-redirect gets NET_RAW and a writable /run, which iptables-legacy needs (true
    /// or false)
    #[arg(long, env = "INIT_NET_RAW", default_value_t = false, action = ArgAction::Set)]
    pub init_net_raw: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.strip_suffix('s')
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|seconds| *seconds <= 60)
        .map(Duration::from_secs)
        .ok_or_else(|| "use whole seconds from 0 to 60".to_owned())
}
