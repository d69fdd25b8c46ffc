//! What in a pod makes injection impossible or worthless, and what its author can do about it.

use std::collections::BTreeSet;

use crate::ours::{
    ADMIN_PORT, EMPTY_VOLUME, IMDS_PORT, NMI_VOLUME, has_our_name, has_our_volume_name,
    is_our_volume, is_ours,
};
use crate::pod::{ContainerView, PodView};
use crate::warm_up::NotAWarmUp;

/// Capabilities with which a process can change the redirect, or get to where it can.
const UNSAFE_CAPABILITIES: [&str; 3] = ["ALL", "NET_ADMIN", "SYS_ADMIN"];

/// Why a pod is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DenyReason {
    /// The annotation that opts in or out has another value than `true` or `false`.
    #[error("annotation {0}")]
    InvalidInject(#[from] api::labels::NotABoolean),
    /// Another way to intercept is asked for than the one there is.
    #[error(
        "annotation aadpodidentity.k8s.io/intercept-mode is {0:?}, and only \"iptables\" exists"
    )]
    InterceptMode(String),
    /// The annotation that names the tokens to get beforehand is not a list of resources.
    #[error("annotation aadpodidentity.k8s.io/warm-up of the {whose}: {error}")]
    WarmUp {
        /// Pod or namespace.
        whose: &'static str,
        /// What is wrong with it.
        error: NotAWarmUp,
    },
    /// A container could undo the redirect.
    #[error("container {container:?} has {power} and could undo the redirect")]
    UnsafeContainer {
        /// The container.
        container: String,
        /// What it has.
        power: String,
    },
    /// Containers can reach into the sidecar's process.
    #[error("shareProcessNamespace lets containers read the token of nmi-sidecar")]
    SharedProcesses,
    /// A container listens where the sidecar listens.
    #[error("container {container:?} has port {port}, which nmi-sidecar needs")]
    PortTaken {
        /// The container.
        container: String,
        /// The port.
        port: u64,
    },
    /// A container has a name of ours.
    #[error("container {0:?} has the name of an injected one but is not it")]
    ContainerNameTaken(String),
    /// A volume has a name of ours.
    #[error("volume {0:?} has the name of an injected one but is not it")]
    VolumeNameTaken(String),
    /// A container mounts a volume of ours.
    #[error("container {container:?} mounts {volume:?}, which only injected containers may")]
    VolumeMounted {
        /// The container.
        container: String,
        /// The volume.
        volume: &'static str,
    },
}

// === impl DenyReason ===

impl DenyReason {
    /// The kind of reason, for metrics and the audit log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidInject(_) => "invalid_inject_annotation",
            Self::InterceptMode(_) => "unknown_intercept_mode",
            Self::WarmUp { .. } => "invalid_warm_up",
            Self::UnsafeContainer { .. } | Self::SharedProcesses => "unsafe_pod",
            Self::PortTaken { .. } => "port_taken",
            Self::ContainerNameTaken(_) | Self::VolumeNameTaken(_) => "name_taken",
            Self::VolumeMounted { .. } => "volume_mounted",
        }
    }

    /// Whether an admin may let the pod in all the same.
    pub fn can_be_allowed(&self) -> bool {
        matches!(self, Self::UnsafeContainer { .. } | Self::SharedProcesses)
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::InvalidInject(_) => "correct the annotation",
            Self::InterceptMode(_) => "remove the annotation",
            Self::WarmUp { .. } => {
                "name at most 8 resources in it, separated by commas, such as \
                 https://vault.azure.net, or remove it"
            }
            Self::UnsafeContainer { .. } | Self::SharedProcesses => {
                "remove it, opt the pod out with annotation aadpodidentity.k8s.io/inject: \
                 \"false\", or have an admin annotate the namespace with \
                 aadpodidentity.k8s.io/allow-unsafe-pods: \"true\""
            }
            Self::PortTaken { .. } => "use another port",
            Self::ContainerNameTaken(_) | Self::VolumeNameTaken(_) => "rename it",
            Self::VolumeMounted { .. } => "remove the mount",
        }
    }
}

/// All reasons and, once each, their remedies in one text.
pub(crate) fn explain(reasons: &[DenyReason]) -> String {
    let causes: Vec<_> = reasons.iter().map(ToString::to_string).collect();
    let mut remedies: Vec<_> = reasons.iter().map(DenyReason::remedy).collect();
    let mut seen = BTreeSet::new();
    remedies.retain(|remedy| seen.insert(*remedy));
    format!("pod identity: {}; to do: {}", causes.join("; "), remedies.join("; "))
}

/// Everything in the pod that speaks against injection.
pub(crate) fn hazards(pod: PodView<'_>) -> Vec<DenyReason> {
    let mut reasons = Vec::new();
    for container in pod.containers() {
        if is_ours(container) {
            continue;
        }
        if has_our_name(container) {
            reasons.push(DenyReason::ContainerNameTaken(container.name().to_owned()));
        }
        of_container(container, &mut reasons);
    }
    if pod.flag("shareProcessNamespace") {
        reasons.push(DenyReason::SharedProcesses);
    }
    for volume in pod.volumes() {
        if has_our_volume_name(volume) && !is_our_volume(volume) {
            let name = volume["name"].as_str().unwrap_or_default();
            reasons.push(DenyReason::VolumeNameTaken(name.to_owned()));
        }
    }
    reasons
}

fn of_container(container: ContainerView<'_>, reasons: &mut Vec<DenyReason>) {
    let name = || container.name().to_owned();
    let capabilities =
        container.added_capabilities().filter(|c| UNSAFE_CAPABILITIES.contains(&c.as_str()));
    let powers = container
        .privileged()
        .then(|| "privileged: true".to_owned())
        .into_iter()
        .chain(capabilities.map(|capability| format!("capability {capability}")));
    for power in powers {
        reasons.push(DenyReason::UnsafeContainer { container: name(), power });
    }
    for port in container.tcp_ports() {
        if [IMDS_PORT, ADMIN_PORT].map(u64::from).contains(&port) {
            reasons.push(DenyReason::PortTaken { container: name(), port });
        }
    }
    for volume in [NMI_VOLUME, EMPTY_VOLUME] {
        if container.mounts(volume) {
            reasons.push(DenyReason::VolumeMounted { container: name(), volume });
        }
    }
}
