//! The injected containers and volumes. Every field that a pod or a namespace could set a default
//! for is explicit, so that none of those reaches the two containers.

use std::collections::BTreeMap;

use api::labels::{CA_CONFIG_MAP, NMI_AUDIENCE};
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, ConfigMapProjection, Container, ContainerPort,
    EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction, KeyToPath, ObjectFieldSelector,
    Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecurityContext,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::config::InjectorConfig;
use crate::decision::Plan;
use crate::ours::{
    ADMIN_PORT, EMPTY_VOLUME, IMDS_PORT, INIT_REDIRECT, LISTEN_ARG, METADATA_ARG, NMI_SIDECAR,
    NMI_VOLUME,
};

const NMI_MOUNT: &str = "/var/run/secrets/aadpodidentity.k8s.io";
/// Where the API server's ServiceAccount admission mounts a token into every container that has
/// nothing mounted there yet; it runs again after this webhook.
const API_TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The file of the pod's token for Entra.
const FEDERATED_TOKEN: &str = "federated-token";
const TOKEN_SECONDS: i64 = 3600;
const SIDECAR_UID: i64 = 65532;
/// What start-up may take on a busy node, on top of the gate.
const STARTUP_MARGIN_SECONDS: i32 = 30;

/// The container that sets the redirect, verifies it and exits.
pub(crate) fn init_redirect(config: &InjectorConfig, plan: &Plan) -> Container {
    let mut capabilities = vec!["NET_ADMIN".to_owned()];
    let mut mounts = vec![no_api_token()];
    if config.init_net_raw {
        capabilities.push("NET_RAW".to_owned());
        // iptables-legacy keeps a lock file here.
        mounts.push(mount(EMPTY_VOLUME, "/run"));
    }
    let arguments = vec![
        METADATA_ARG.to_owned(),
        format!("--to-port={IMDS_PORT}"),
        "--node-ip=$(NODE_IP)".to_owned(),
    ];
    Container {
        args: Some(arguments),
        env: Some(vec![field("NODE_IP", "status.hostIP")]),
        security_context: Some(SecurityContext {
            capabilities: Some(Capabilities {
                add: Some(capabilities),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            run_as_user: Some(0),
            run_as_group: Some(0),
            run_as_non_root: Some(false),
            ..security_context(plan)
        }),
        volume_mounts: Some(mounts),
        ..container(INIT_REDIRECT, &config.init_image, config, plan)
    }
}

/// The native sidecar that answers in place of the metadata service.
pub(crate) fn nmi_sidecar(config: &InjectorConfig, plan: &Plan) -> Container {
    let gate = plan.settings.gate_timeout;
    Container {
        args: Some(sidecar_arguments(config, plan)),
        env: Some(vec![
            field("NODE_IP", "status.hostIP"),
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
        ]),
        ports: Some(vec![ContainerPort {
            name: Some("nmi-admin".to_owned()),
            container_port: i32::from(ADMIN_PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        restart_policy: Some("Always".to_owned()),
        security_context: Some(SecurityContext {
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
            run_as_user: Some(SIDECAR_UID),
            run_as_group: Some(SIDECAR_UID),
            run_as_non_root: Some(true),
            ..security_context(plan)
        }),
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            timeout_seconds: Some(10),
            failure_threshold: Some(i32::from(gate.seconds()) + STARTUP_MARGIN_SECONDS),
            ..probe("/startupz")
        }),
        // A sidecar that hangs would cost the application its identity until the pod is replaced.
        liveness_probe: Some(Probe {
            period_seconds: Some(20),
            timeout_seconds: Some(5),
            failure_threshold: Some(3),
            ..probe("/livez")
        }),
        volume_mounts: Some(vec![
            VolumeMount { read_only: Some(true), ..mount(NMI_VOLUME, NMI_MOUNT) },
            no_api_token(),
        ]),
        ..container(NMI_SIDECAR, &config.sidecar_image, config, plan)
    }
}

fn sidecar_arguments(config: &InjectorConfig, plan: &Plan) -> Vec<String> {
    let mut arguments = vec![
        LISTEN_ARG.to_owned(),
        format!("--admin=0.0.0.0:{ADMIN_PORT}"),
        format!("--node=$(NODE_IP):{IMDS_PORT}"),
        format!("--server-name={}", config.nmi_server_name),
        format!("--token-file={NMI_MOUNT}/token"),
        format!("--ca-file={NMI_MOUNT}/ca.crt"),
        format!("--gate-timeout={}", plan.settings.gate_timeout),
        format!("--log-level={}", plan.settings.log_level),
    ];
    if config.federation_audience.is_some() {
        arguments.push(format!("--federated-token-file={NMI_MOUNT}/{FEDERATED_TOKEN}"));
    }
    // The kubelet would put variables in: two dollar signs are one that it leaves alone.
    let escaped = plan.settings.warm_up.resources().map(|resource| resource.replace('$', "$$"));
    arguments.extend(escaped.map(|resource| format!("--warm-up={resource}")));
    arguments
}

/// The sidecar's own tokens, for nmi-host and for Entra, and the CA of nmi-host. The default mode is kept: the files belong to
/// root, and a pod without fsGroup has no group that the sidecar's user would be in.
pub(crate) fn nmi_volume(config: &InjectorConfig) -> Volume {
    let authority = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: CA_CONFIG_MAP.to_owned(),
            items: Some(vec![KeyToPath {
                key: "ca.crt".to_owned(),
                path: "ca.crt".to_owned(),
                mode: None,
            }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let mut sources = vec![service_account_token(NMI_AUDIENCE, "token"), authority];
    if let Some(audience) = &config.federation_audience {
        sources.push(service_account_token(audience, FEDERATED_TOKEN));
    }
    Volume {
        name: NMI_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource { sources: Some(sources), default_mode: None }),
        ..Volume::default()
    }
}

fn service_account_token(audience: &str, path: &str) -> VolumeProjection {
    VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            audience: Some(audience.to_owned()),
            expiration_seconds: Some(TOKEN_SECONDS),
            path: path.to_owned(),
        }),
        ..VolumeProjection::default()
    }
}

/// What is mounted in place of the API token.
pub(crate) fn empty_volume() -> Volume {
    Volume {
        name: EMPTY_VOLUME.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: Some(ApiQuantity("64Ki".to_owned())),
        }),
        ..Volume::default()
    }
}

/// What both containers share.
fn container(name: &str, image: &str, config: &InjectorConfig, plan: &Plan) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(config.image_pull_policy.as_str().to_owned()),
        resources: Some(resources(plan)),
        termination_message_path: Some("/dev/termination-log".to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn security_context(plan: &Plan) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        app_armor_profile: plan.resets_app_armor.then(|| AppArmorProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..SecurityContext::default()
    }
}

fn resources(plan: &Plan) -> ResourceRequirements {
    let resources = &plan.settings.resources;
    let pair = |cpu: &str, memory: &str| {
        Some(BTreeMap::from([
            ("cpu".to_owned(), ApiQuantity(cpu.to_owned())),
            ("memory".to_owned(), ApiQuantity(memory.to_owned())),
        ]))
    };
    ResourceRequirements {
        requests: pair(resources.cpu_request.as_str(), resources.memory_request.as_str()),
        limits: pair(resources.cpu_limit.as_str(), resources.memory_limit.as_str()),
        claims: None,
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(ADMIN_PORT)),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

fn no_api_token() -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount(EMPTY_VOLUME, API_TOKEN_MOUNT) }
}
