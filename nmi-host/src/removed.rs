//! What aad-pod-identity's NMI took on its command line and means nothing here. `--metadata-ip`,
//! `--forceNamespaced` with `FORCENAMESPACED`, and `--log-format` are taken as they were.

use runtime::predecessor::Predecessor;

const WATCH: &str = "remove it: who asks for an identity that is on its way waits for it";
const SIDECAR: &str = "remove it: pods are told apart by their service account tokens, not by IP";
const REDIRECT: &str = "remove it: requests are redirected inside the pod, by init-redirect";
const ADMIN: &str = "use --admin-address for probes and metrics";
const LOGS: &str = "remove it: logs always go to standard error; see --log-level and --log-format";

/// NMI.
pub(crate) const NMI: Predecessor = Predecessor {
    name: "aad-pod-identity",
    flags: &[
        (
            "nmi-listen-address",
            "use --host-listen for processes of the node, --node-ip for sidecars",
        ),
        ("nmi-port", "use --host-listen for processes of the node, --sidecar-port for sidecars"),
        ("metadata-port", "use --imds-endpoint"),
        ("node", "use --node-name"),
        ("ipt-update-interval-sec", REDIRECT),
        ("enable-conntrack-deletion", REDIRECT),
        ("MICNamespace", "remove it: no pod is told by its name to be the controller's"),
        ("http-probe-port", ADMIN),
        ("prometheus-port", ADMIN),
        ("enableProfile", "remove it: there is no profiling endpoint"),
        ("retry-attempts-for-created", WATCH),
        ("retry-attempts-for-assigned", WATCH),
        ("find-identity-retry-interval", WATCH),
        ("set-retry-after-header", "remove it: what passes is always answered with Retry-After"),
        ("enableScaleFeatures", "remove it: only the node's own assignments are watched"),
        ("block-instance-metadata", "remove it: it is always blocked for pods"),
        ("metadata-header-required", "remove it: the header is always required"),
        (
            "operation-mode",
            "remove it: there is one mode; leave out the controller's roles in Azure if you attach identities yourself",
        ),
        ("allow-network-plugin-kubenet", SIDECAR),
        ("kubelet-config", SIDECAR),
        ("custom-user-agent", "remove it: the user agent is fixed"),
        ("kubeconfig", "set the environment variable KUBECONFIG"),
        ("v", "use --log-level"),
        ("vmodule", "use --log-level with directives, such as info,nmi_host=debug"),
        ("logtostderr", LOGS),
        ("alsologtostderr", LOGS),
        ("log_dir", LOGS),
        ("log_file", LOGS),
    ],
    variables: &[],
};

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::NMI;
    use crate::args::Args;

    /// All flags of NMI 1.8.17, without those of its logging library.
    const FLAGS: [&str; 26] = [
        "nmi-listen-address",
        "nmi-port",
        "metadata-ip",
        "metadata-port",
        "node",
        "ipt-update-interval-sec",
        "forceNamespaced",
        "MICNamespace",
        "http-probe-port",
        "prometheus-port",
        "enableProfile",
        "retry-attempts-for-created",
        "retry-attempts-for-assigned",
        "find-identity-retry-interval",
        "enableScaleFeatures",
        "block-instance-metadata",
        "metadata-header-required",
        "operation-mode",
        "allow-network-plugin-kubenet",
        "kubelet-config",
        "set-retry-after-header",
        "enable-conntrack-deletion",
        "version",
        "log-format",
        "custom-user-agent",
        "v",
    ];

    #[test]
    fn everything_that_nmi_took_is_taken_or_refused_and_not_both() {
        let mut command = Args::command();
        command.build();
        let taken = |name: &str| command.get_arguments().any(|arg| arg.get_long() == Some(name));
        for flag in FLAGS {
            let refused = NMI.flags.iter().any(|(known, _)| *known == flag);
            assert!(taken(flag) != refused, "{flag}");
        }
    }
}
