//! The configuration that is made of the arguments once they are known to make sense.

use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;

use crate::args::{Args, InjectedArgs};
use crate::overrides::{Resources, Settings};
use crate::quantity::{Quantity, QuantityError};

/// Of the whole process.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API server reaches the webhook.
    pub listen: SocketAddr,
    /// Where probes and metrics are served.
    pub admin_address: SocketAddr,
    /// The namespace of the release.
    pub namespace: String,
    /// The name that the release's objects begin with.
    pub fullname: String,
    /// How long to keep serving after the process was asked to end.
    pub drain_delay: Duration,
    /// What is injected.
    pub injector: InjectorConfig,
}

/// What is injected, and the admin's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectorConfig {
    /// The image of nmi-sidecar.
    pub sidecar_image: String,
    /// The image of init-redirect.
    pub init_image: String,
    /// When nodes pull them.
    pub image_pull_policy: ImagePullPolicy,
    /// The name on the certificate of nmi-host.
    pub nmi_server_name: String,
    /// The chart's layer of what namespaces and pods may override.
    pub settings: Settings,
    /// The audience of the pod's token for Entra, if its sidecar gets one.
    pub federation_audience: Option<String>,
    /// Whether pods that could undo the redirect are let in.
    pub allow_unsafe_pods: bool,
    /// Whether init-redirect gets what iptables-legacy needs.
    pub init_net_raw: bool,
    /// Written on every injected pod.
    pub version: &'static str,
}

/// When a node pulls an image, as Kubernetes spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum ImagePullPolicy {
    /// At every start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// It is on the node already.
    Never,
}

/// An argument cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An image reference or name is empty or holds white space.
    #[error("--{flag} {value:?} is not a name; set it to one without white space")]
    Name {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
    },
    /// A resource quantity cannot be used.
    #[error("--{flag} cannot be used")]
    Quantity {
        /// The flag.
        flag: &'static str,
        /// Why.
        #[source]
        source: QuantityError,
    },
    /// A request is above its limit.
    #[error("--sidecar-{0}-request is above --sidecar-{0}-limit; raise the limit")]
    RequestAboveLimit(&'static str),
}

// === impl ImagePullPolicy ===

impl ImagePullPolicy {
    /// The policy as pods spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

// === impl Config ===

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let Args { log: _, listen, admin_address, namespace, fullname, drain_delay, injected } =
            args;
        let namespace = name("namespace", namespace)?;
        let fullname = name("fullname", fullname)?;
        let injector = injector(injected, &namespace)?;
        Ok(Self { listen, admin_address, namespace, fullname, drain_delay, injector })
    }
}

fn injector(args: InjectedArgs, namespace: &str) -> Result<InjectorConfig, ConfigError> {
    let resources = Resources {
        cpu_request: quantity("sidecar-cpu-request", &args.sidecar_cpu_request, Quantity::cpu)?,
        memory_request: quantity(
            "sidecar-memory-request",
            &args.sidecar_memory_request,
            Quantity::memory,
        )?,
        cpu_limit: quantity("sidecar-cpu-limit", &args.sidecar_cpu_limit, Quantity::cpu)?,
        memory_limit: quantity(
            "sidecar-memory-limit",
            &args.sidecar_memory_limit,
            Quantity::memory,
        )?,
    };
    if resources.cpu_request > resources.cpu_limit {
        return Err(ConfigError::RequestAboveLimit("cpu"));
    }
    if resources.memory_request > resources.memory_limit {
        return Err(ConfigError::RequestAboveLimit("memory"));
    }
    let audience = name("federation-audience", args.federation_audience)?;
    Ok(InjectorConfig {
        sidecar_image: name("sidecar-image", args.sidecar_image)?,
        init_image: name("init-image", args.init_image)?,
        image_pull_policy: args.image_pull_policy,
        nmi_server_name: format!("nmi-host.{namespace}.svc"),
        settings: Settings {
            resources,
            log_level: args.sidecar_log_level,
            gate_timeout: args.gate_timeout,
            warm_up: args.warm_up,
        },
        federation_audience: args.federated_token.then_some(audience),
        allow_unsafe_pods: args.allow_unsafe_pods,
        init_net_raw: args.init_net_raw,
        version: env!("CARGO_PKG_VERSION"),
    })
}

fn name(flag: &'static str, value: String) -> Result<String, ConfigError> {
    if value.is_empty() || value.contains(char::is_whitespace) {
        return Err(ConfigError::Name { flag, value });
    }
    Ok(value)
}

fn quantity(
    flag: &'static str,
    value: &str,
    parse: fn(&str) -> Result<Quantity, QuantityError>,
) -> Result<Quantity, ConfigError> {
    parse(value).map_err(|source| ConfigError::Quantity { flag, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn config(more: &[&str]) -> Result<Config, String> {
        let required =
            ["webhook", "--namespace=pis", "--sidecar-image=r/nmi-sidecar:1", "--init-image=r/i:1"];
        let args = Args::try_parse_from(required.iter().chain(more)).map_err(|e| e.to_string())?;
        Config::try_from(args).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_usable() {
        let config = config(&[]).unwrap();
        assert_eq!(config.injector.nmi_server_name, "nmi-host.pis.svc");
        assert_eq!(config.injector.settings.gate_timeout.seconds(), 60);
        assert_eq!(config.injector.image_pull_policy.as_str(), "IfNotPresent");
        assert!(!config.injector.allow_unsafe_pods);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_the_name_of_its_flag() {
        for (argument, part) in [
            ("--sidecar-image=", "--sidecar-image"),
            ("--init-image=a b", "--init-image"),
            ("--sidecar-cpu-request=fast", "--sidecar-cpu-request"),
            ("--sidecar-memory-limit=100m", "--sidecar-memory-limit"),
            ("--sidecar-memory-request=1Gi", "--sidecar-memory-limit"),
            ("--sidecar-cpu-request=1", "--sidecar-cpu-limit"),
            ("--gate-timeout=301s", "--gate-timeout"),
            ("--sidecar-log-level=trace", "--sidecar-log-level"),
            ("--allow-unsafe-pods=yes", "--allow-unsafe-pods"),
            ("--federated-token=yes", "--federated-token"),
            ("--federation-audience=", "--federation-audience"),
            ("--warm-up=a b", "--warm-up"),
            ("--image-pull-policy=always", "--image-pull-policy"),
            ("--drain-delay=2m", "--drain-delay"),
        ] {
            let error = config(&[argument]).expect_err(argument);
            assert!(error.contains(part), "{argument}: {error}");
        }
    }
}
