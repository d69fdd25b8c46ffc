//! What of a pod was injected, here or by another replica: recognised by name and shape and not by
//! every detail, because defaults, image mirrors and other versions of the webhook change those.

use api::labels::NMI_AUDIENCE;
use serde_json::Value;

use crate::pod::{ContainerKind, ContainerView};

/// Name of the init container.
pub(crate) const INIT_REDIRECT: &str = "init-redirect";
/// Name of the native sidecar.
pub(crate) const NMI_SIDECAR: &str = "nmi-sidecar";
/// The volume with the sidecar's token and the CA of nmi-host.
pub(crate) const NMI_VOLUME: &str = "aadpodidentity-nmi";
/// The volume that takes the place of the API token.
pub(crate) const EMPTY_VOLUME: &str = "aadpodidentity-empty";
/// How the metadata address is intercepted; there is only this way.
pub(crate) const MODE: &str = "iptables";
/// The annotation that names the way.
pub(crate) const MODE_KEY: &str = "aadpodidentity.k8s.io/intercept-mode";
/// Where applications expect the metadata service.
pub(crate) const METADATA_ARG: &str = "--metadata-address=169.254.169.254:80";
/// Where the sidecar answers instead.
pub(crate) const LISTEN_ARG: &str = "--listen=127.0.0.1:2579";
/// The sidecar's port for the metadata service.
pub(crate) const IMDS_PORT: u16 = 2579;
/// The sidecar's port for probes and metrics.
pub(crate) const ADMIN_PORT: u16 = 2580;

const INIT_CAPABILITIES: [&str; 2] = ["NET_ADMIN", "NET_RAW"];

/// Whether a container has one of our names.
pub(crate) fn has_our_name(container: ContainerView<'_>) -> bool {
    [INIT_REDIRECT, NMI_SIDECAR].contains(&container.name())
}

/// Whether a container was injected.
pub(crate) fn is_ours(container: ContainerView<'_>) -> bool {
    let common = container.kind == ContainerKind::Init
        && !container.privileged()
        && container.field("command").is_null();
    common
        && match container.name() {
            INIT_REDIRECT => is_redirect(container),
            NMI_SIDECAR => is_sidecar(container),
            _ => false,
        }
}

/// Whether a volume has one of our names.
pub(crate) fn has_our_volume_name(volume: &Value) -> bool {
    [NMI_VOLUME, EMPTY_VOLUME].map(Some).contains(&volume["name"].as_str())
}

/// Whether a volume was injected.
pub(crate) fn is_our_volume(volume: &Value) -> bool {
    match volume["name"].as_str() {
        Some(NMI_VOLUME) => {
            let sources = volume["projected"]["sources"].as_array();
            sources.into_iter().flatten().any(|source| {
                source["serviceAccountToken"]["audience"].as_str() == Some(NMI_AUDIENCE)
            })
        }
        Some(EMPTY_VOLUME) => volume["emptyDir"].is_object(),
        _ => false,
    }
}

fn is_redirect(container: ContainerView<'_>) -> bool {
    container.field("restartPolicy").is_null()
        && container.args().any(|arg| arg == METADATA_ARG)
        && container.added_capabilities().all(|c| INIT_CAPABILITIES.contains(&c.as_str()))
}

fn is_sidecar(container: ContainerView<'_>) -> bool {
    container.field("restartPolicy").as_str() == Some("Always")
        && container.args().any(|arg| arg == LISTEN_ARG)
        && container.mounts(NMI_VOLUME)
        && container.added_capabilities().next().is_none()
}
