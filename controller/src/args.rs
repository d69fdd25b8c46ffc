//! The command line, and the configuration that it means. Names are those of aad-pod-identity's
//! MIC where the flag still makes sense.

use std::net::SocketAddr;
use std::time::Duration;

use api::Guid;
use api::matching::Scope;
use clap::{ArgAction, Parser};
use runtime::LogArgs;

use crate::azure::{AzureArgs, AzureConfig, AzureError, ControllerIdentity};
use crate::host::{HostSettings, Immutable};
use crate::lease::LeaseSettings;

/// A claim cannot be renewed reliably if it is shorter.
const MIN_LEASE: Duration = Duration::from_secs(3);
const MIN_RECHECK: Duration = Duration::from_secs(10);
/// A node that registers anew, or whose pods are listed late, is back by then.
const SAFE_LINGER: Duration = Duration::from_secs(60);

/// Gives pods the Azure identities that are bound to them, and attaches these to VMs and scale
/// sets.
#[derive(Clone, Debug, Parser)]
#[command(name = "controller", version)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) log: LogArgs,

    #[command(flatten)]
    pub(crate) azure: AzureArgs,

    /// Where to serve probes and metrics, as plain HTTP.
    #[arg(long, env = "ADMIN_ADDRESS", default_value = "0.0.0.0:8080")]
    pub(crate) admin_address: SocketAddr,

    /// The controller's own namespace: what is attached to hosts is recorded there. The
    /// kubeconfig's or service account's namespace if not given.
    #[arg(long, env = "POD_NAMESPACE")]
    pub(crate) namespace: Option<String>,

    /// MIC's variable for its own namespace.
    #[arg(long = "namespace-of-mic", env = "MIC_POD_NAMESPACE", hide = true)]
    pub(crate) mic_namespace: Option<String>,

    /// Let an identity be used by pods of its own namespace only, whatever its annotation says:
    /// true or false.
    #[arg(
        long = "forceNamespaced",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true"
    )]
    pub(crate) force_namespaced: bool,

    /// The variable of --forceNamespaced. One of the two is enough: a flag that is false must not
    /// lift the restriction that somebody set in the environment.
    #[arg(long = "forceNamespaced-env", env = "FORCENAMESPACED", action = ArgAction::Set, default_value = "false", hide = true)]
    pub(crate) force_namespaced_env: bool,

    /// Client ids of identities that are never detached, separated by commas.
    #[arg(long, env = "IMMUTABLE_USER_MSIS", value_delimiter = ',', value_name = "IDS")]
    pub(crate) immutable_user_msis: Vec<String>,

    /// How long an identity stays attached after the last pod that used it is gone. A minute at
    /// least: a Node object that is gone for a moment takes its pods along.
    #[arg(long, env = "DETACH_LINGER", default_value = "5m", value_parser = duration)]
    pub(crate) detach_linger: Duration,

    /// How often to look whether something outside removed an identity that is needed.
    #[arg(
        long,
        env = "IDENTITY_ASSIGNMENT_RECONCILE_INTERVAL",
        default_value = "3m",
        value_parser = duration
    )]
    pub(crate) identity_assignment_reconcile_interval: Duration,

    /// Namespace of the lease; the controller's own if not given.
    #[arg(long, env = "LEADER_ELECTION_NAMESPACE")]
    pub(crate) leader_election_namespace: Option<String>,

    /// Name of the lease.
    #[arg(long, env = "LEADER_ELECTION_NAME", default_value = "pod-identity-controller")]
    pub(crate) leader_election_name: String,

    /// How long a leader that fell silent keeps the lease.
    #[arg(long, env = "LEADER_ELECTION_DURATION", default_value = "15s", value_parser = duration)]
    pub(crate) leader_election_duration: Duration,

    /// Name of the record of the leader election of aad-pod-identity's MIC. While a MIC renews it,
    /// nothing is assigned and nothing is attached here: two at once would take identities from
    /// each other. Empty: there is no MIC.
    #[arg(long, env = "MIC_LEADER_ELECTION_NAME", default_value = "aad-pod-identity-mic")]
    pub(crate) mic_leader_election_name: String,

    /// Name of this replica, different for each; the host name if not given.
    #[arg(long, env = "POD_NAME")]
    pub(crate) leader_election_instance: Option<String>,
}

/// The settings, validated.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) admin_address: SocketAddr,
    pub(crate) namespace: String,
    pub(crate) scope: Scope,
    pub(crate) hosts: HostSettings,
    pub(crate) lease: LeaseSettings,
    /// The record of MIC's leader election; empty if there is no MIC.
    pub(crate) mic: String,
    pub(crate) azure: AzureConfig,
}

/// The settings do not make sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The settings for Azure.
    #[error(transparent)]
    Azure(#[from] AzureError),
    /// An immutable identity is not given by client id.
    #[error("--immutable-user-msis takes client ids: {0}")]
    Immutable(#[from] api::guid::NotAGuid),
    /// A duration is too short.
    #[error("{flag} must be at least {min:?}, not {given:?}")]
    TooShort {
        /// The flag.
        flag: &'static str,
        /// Its minimum.
        min: Duration,
        /// What was given.
        given: Duration,
    },
    /// Nothing tells the replicas apart.
    #[error("cannot read the host name: give each replica a name by --leader-election-instance")]
    Instance(#[source] std::io::Error),
}

// === impl Config ===

impl Config {
    /// Validates the arguments; `own_namespace` is used where none is given.
    pub(crate) fn load(args: Args, own_namespace: &str) -> Result<Self, ConfigError> {
        let azure = AzureConfig::load(&args.azure)?;
        let named = given(args.namespace).or_else(|| given(args.mic_namespace));
        let namespace = named.unwrap_or_else(|| own_namespace.to_owned());
        let recheck = at_least(
            "--identity-assignment-reconcile-interval",
            MIN_RECHECK,
            args.identity_assignment_reconcile_interval,
        )?;
        let lease = LeaseSettings {
            namespace: given(args.leader_election_namespace).unwrap_or_else(|| namespace.clone()),
            name: args.leader_election_name,
            holder: match given(args.leader_election_instance) {
                Some(instance) => instance,
                None => host_name().map_err(ConfigError::Instance)?,
            },
            duration: at_least(
                "--leader-election-duration",
                MIN_LEASE,
                args.leader_election_duration,
            )?,
        };
        if is_hasty(args.detach_linger) {
            tracing::warn!(
                detach_linger = ?args.detach_linger,
                advised = ?SAFE_LINGER,
                "Identities may be detached from running pods while their Node object is gone for a moment"
            );
        }
        let hosts = HostSettings {
            linger: args.detach_linger,
            recheck,
            immutable: immutable(&args.immutable_user_msis, &azure.identity)?,
        };
        let namespaced = args.force_namespaced || args.force_namespaced_env;
        let scope = if namespaced { Scope::Namespaced } else { Scope::Cluster };
        Ok(Self {
            admin_address: args.admin_address,
            namespace,
            scope,
            hosts,
            lease,
            mic: args.mic_leader_election_name.trim().to_owned(),
            azure,
        })
    }
}

/// What the admin named, and the identity that the controller itself lives by.
fn immutable(
    client_ids: &[String],
    own: &ControllerIdentity,
) -> Result<Immutable, api::guid::NotAGuid> {
    let given = client_ids.iter().map(|id| id.trim()).filter(|id| !id.is_empty());
    let immutable: Immutable = given.map(str::parse::<Guid>).collect::<Result<_, _>>()?;
    own.keep(&immutable);
    Ok(immutable)
}

/// Whether identities go sooner than a Node object that is only gone for a moment comes back.
/// Not refused: who measures or tries something wants that.
fn is_hasty(linger: Duration) -> bool {
    linger < SAFE_LINGER
}

fn given(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.is_empty())
}

fn host_name() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

fn at_least(flag: &'static str, min: Duration, given: Duration) -> Result<Duration, ConfigError> {
    if given < min { Err(ConfigError::TooShort { flag, min, given }) } else { Ok(given) }
}

/// Durations as Go writes them: `15s`, `3m0s`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: kube::core::Duration =
        text.parse().map_err(|error| format!("{error}, e.g. 90s or 5m"))?;
    if parsed.is_negative() {
        return Err("it is negative".to_owned());
    }
    Ok(parsed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIAL: [&str; 5] = [
        "controller",
        "--use-msi=true",
        "--user-assigned-msi-client-id=00000000-0000-0000-0000-00000000000C",
        "--leader-election-instance=me",
        "--namespace=system",
    ];

    fn parse(more: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(CREDENTIAL.iter().chain(more))
    }

    fn load(more: &[&str]) -> Result<Config, ConfigError> {
        Config::load(parse(more).unwrap(), "own")
    }

    #[test]
    fn force_namespaced_is_a_strict_boolean_and_either_spelling_restricts() {
        let cases: [(&[&str], Scope); 6] = [
            (&[], Scope::Cluster),
            (&["--forceNamespaced"], Scope::Namespaced),
            (&["--forceNamespaced=true"], Scope::Namespaced),
            (&["--forceNamespaced=false"], Scope::Cluster),
            (&["--forceNamespaced-env=true"], Scope::Namespaced),
            (&["--forceNamespaced=false", "--forceNamespaced-env=true"], Scope::Namespaced),
        ];
        for (args, expected) in cases {
            assert_eq!(load(args).unwrap().scope, expected, "{args:?}");
        }
        for bad in ["--forceNamespaced=yes", "--forceNamespaced=True", "--forceNamespaced=1"] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_gos() {
        let config = load(&["--detach-linger=1m30s", "--leader-election-duration=30s"]).unwrap();
        assert_eq!(config.hosts.linger.as_secs(), 90);
        assert_eq!(config.lease.duration.as_secs(), 30);
        assert!(parse(&["--detach-linger=90"]).is_err());
        assert!(parse(&["--detach-linger=-5s"]).is_err());
        let error = load(&["--leader-election-duration=1s"]).unwrap_err().to_string();
        assert!(error.contains("--leader-election-duration must be at least 3s"), "{error}");
    }

    #[test]
    fn a_short_linger_is_warned_of_and_not_refused() {
        for (given, hasty) in [("0s", true), ("300ms", true), ("59s", true), ("1m", false)] {
            let config = load(&[&format!("--detach-linger={given}")]).unwrap();
            assert_eq!(is_hasty(config.hosts.linger), hasty, "{given}");
        }
        assert!(!is_hasty(load(&[]).unwrap().hosts.linger), "the default is safe");
    }

    #[test]
    fn the_controllers_own_identity_is_immutable_too() {
        let listed = "--immutable-user-msis=00000000-0000-0000-0000-00000000000A, 00000000-0000-0000-0000-00000000000b,";
        let immutable = load(&[listed]).unwrap().hosts.immutable;
        let held = |last: &str| {
            let client_id = format!("00000000-0000-0000-0000-00000000000{last}");
            immutable.holds(&crate::testing::id("x"), Some(&client_id.parse().unwrap()))
        };
        assert_eq!(["a", "b", "c", "d"].map(held), [true, true, true, false]);
        let error = load(&["--immutable-user-msis=demo"]).unwrap_err().to_string();
        assert!(error.contains("client ids") && error.contains("demo"), "{error}");
    }

    #[test]
    fn the_lease_is_where_the_controller_is_unless_said_otherwise() {
        assert_eq!(load(&[]).unwrap().lease.namespace, "system");
        let elsewhere = load(&["--leader-election-namespace=other"]).unwrap();
        assert_eq!(
            (elsewhere.lease.namespace.as_str(), elsewhere.namespace.as_str()),
            ("other", "system")
        );
    }
}
