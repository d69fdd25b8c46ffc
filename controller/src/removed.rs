//! The flags of aad-pod-identity's MIC that mean nothing here: refused with a sentence that says
//! what replaces them, not with "unexpected argument".

/// Flags without their dashes, and what to do instead.
const REMOVED: &[(&str, &str)] = &[
    ("enableScaleFeatures", "remove it: the controller always works at scale"),
    ("createDeleteBatch", "remove it: writes are made in parallel and bounded by themselves"),
    ("clientQps", "remove it: the API server's priority and fairness limits the controller"),
    ("syncRetryDuration", "remove it: what fails is tried again by itself, with a back-off"),
    (
        "update-user-msi-max-retry",
        "remove it: an identity that ARM refuses is tried again for ever, ever more rarely",
    ),
    ("update-user-msi-retry-interval", "remove it: the back-off is between 5 s and 5 min"),
    ("http-probe-port", "use --admin-address for probes and metrics"),
    ("prometheus-port", "use --admin-address for probes and metrics"),
    ("enableProfile", "remove it: there is no profiling endpoint"),
    ("config-map-name", "remove it: there is no type upgrade, old objects are read as they are"),
    (
        "type-upgrade-status-key",
        "remove it: there is no type upgrade, old objects are read as they are",
    ),
    (
        "enable-type-upgrade",
        "remove it: there is no type upgrade, old objects are read as they are",
    ),
    ("custom-user-agent", "remove it: the user agent is fixed"),
    ("kubeconfig", "set the environment variable KUBECONFIG"),
    (
        "logtostderr",
        "remove it: logs always go to standard error; see --log-level and --log-format",
    ),
    ("v", "use --log-level"),
    ("vmodule", "use --log-level with directives, such as info,controller=debug"),
];

/// A flag that is no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the flag --{flag} of aad-pod-identity does not exist here: {instead}")]
pub(crate) struct RemovedFlag {
    flag: &'static str,
    instead: &'static str,
}

/// Looks for such flags, spelled with one dash or two as Go allows.
pub(crate) fn refuse<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<(), RemovedFlag> {
    for arg in args {
        let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else { continue };
        let given = flag.split('=').next().unwrap_or_default();
        if let Some((flag, instead)) = REMOVED.iter().find(|(flag, _)| *flag == given) {
            return Err(RemovedFlag { flag, instead });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_flag_says_what_replaces_it() {
        for arg in ["--clientQps=5", "-clientQps", "--clientQps"] {
            let error = refuse(["controller", arg]).unwrap_err().to_string();
            assert!(error.contains("--clientQps") && error.contains("priority"), "{error}");
        }
        assert_eq!(refuse(["controller", "--forceNamespaced", "--detach-linger=5m", "v"]), Ok(()));
    }
}
