//! What aad-pod-identity's MIC took on its command line and in its environment and means nothing
//! here. What is not in this list and not a flag of ours never was one of MIC's.

use runtime::predecessor::Predecessor;

const LOGS: &str = "remove it: logs always go to standard error; see --log-level and --log-format";
const TYPE_UPGRADE: &str = "remove it: there is no type upgrade, old objects are read as they are";
const ADMIN: &str = "use --admin-address for probes and metrics";
const HOSTS: &str = "unset it: VMs and scale sets are found by their nodes' spec.providerID";

/// MIC.
pub(crate) const MIC: Predecessor = Predecessor {
    name: "aad-pod-identity",
    flags: &[
        ("enableScaleFeatures", "remove it: the controller always works at scale"),
        ("createDeleteBatch", "remove it: writes are made in parallel and bounded by themselves"),
        ("clientQps", "remove it: the API server's priority and fairness limits the controller"),
        ("syncRetryDuration", "remove it: what fails is tried again by itself, with a back-off"),
        (
            "update-user-msi-max-retry",
            "remove it: an identity that ARM refuses is tried again for ever, ever more rarely",
        ),
        ("update-user-msi-retry-interval", "remove it: the back-off is between 5 s and 5 min"),
        ("http-probe-port", ADMIN),
        ("prometheus-port", ADMIN),
        ("enableProfile", "remove it: there is no profiling endpoint"),
        ("config-map-name", TYPE_UPGRADE),
        ("type-upgrade-status-key", TYPE_UPGRADE),
        ("enable-type-upgrade", TYPE_UPGRADE),
        ("custom-user-agent", "remove it: the user agent is fixed"),
        ("kubeconfig", "set the environment variable KUBECONFIG"),
        ("v", "use --log-level"),
        ("vmodule", "use --log-level with directives, such as info,controller=debug"),
        ("logtostderr", LOGS),
        ("alsologtostderr", LOGS),
        ("stderrthreshold", LOGS),
        ("one_output", LOGS),
        ("add_dir_header", LOGS),
        ("skip_headers", LOGS),
        ("skip_log_headers", LOGS),
        ("log_backtrace_at", LOGS),
        ("log_dir", LOGS),
        ("log_file", LOGS),
        ("log_file_max_size", LOGS),
    ],
    variables: &[("SUBSCRIPTION_ID", HOSTS), ("RESOURCE_GROUP", HOSTS), ("VM_TYPE", HOSTS)],
};

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::MIC;
    use crate::args::Args;

    /// All flags of MIC 1.8.17, without those of its logging library.
    const FLAGS: [&str; 25] = [
        "kubeconfig",
        "cloudconfig",
        "forceNamespaced",
        "version",
        "syncRetryDuration",
        "leader-election-instance",
        "leader-election-namespace",
        "leader-election-name",
        "leader-election-duration",
        "http-probe-port",
        "prometheus-port",
        "enableProfile",
        "enableScaleFeatures",
        "createDeleteBatch",
        "clientQps",
        "immutable-user-msis",
        "config-map-name",
        "type-upgrade-status-key",
        "enable-type-upgrade",
        "update-user-msi-max-retry",
        "update-user-msi-retry-interval",
        "identity-assignment-reconcile-interval",
        "log-format",
        "custom-user-agent",
        "v",
    ];

    /// All variables of MIC 1.8.17.
    const VARIABLES: [&str; 12] = [
        "MIC_POD_NAMESPACE",
        "FORCENAMESPACED",
        "CLOUD",
        "TENANT_ID",
        "CLIENT_ID",
        "CLIENT_SECRET",
        "SUBSCRIPTION_ID",
        "RESOURCE_GROUP",
        "VM_TYPE",
        "USE_MSI",
        "USER_ASSIGNED_MSI_CLIENT_ID",
        "AZURE_ENVIRONMENT_FILEPATH",
    ];

    #[test]
    fn everything_that_mic_took_is_taken_or_refused_and_not_both() {
        let mut command = Args::command();
        command.build();
        let taken = |name: &str| command.get_arguments().any(|arg| arg.get_long() == Some(name));
        for flag in FLAGS {
            let refused = MIC.flags.iter().any(|(known, _)| *known == flag);
            assert!(taken(flag) != refused, "{flag}");
        }
        for variable in VARIABLES {
            let read =
                command.get_arguments().any(|arg| arg.get_env().is_some_and(|env| env == variable));
            let refused = MIC.variables.iter().any(|(known, _)| *known == variable);
            assert!(read != refused, "{variable}");
        }
    }
}
