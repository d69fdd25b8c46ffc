//! Faults: what a test asks the services to do wrong, and the decision for one request.
//!
//! Pure values; `fault_desk` holds the current ones.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arm_id::ArmId;
pub(crate) use crate::fault_rule::Subject;
pub use crate::fault_rule::{Rule, Scope, Traffic};

/// Everything that can be made to fail. The default is an Azure that works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Faults of the metadata service.
    pub imds: Traffic,
    /// Faults of the token endpoint.
    pub entra: Traffic,
    /// Faults of ARM reads.
    pub arm_get: Traffic,
    /// Faults of ARM writes. The latency counts as time in which the host is being written.
    pub arm_patch: Traffic,
    /// Faults of polls of asynchronous operations.
    pub arm_poll: Traffic,
    /// Faults of the key vaults.
    pub vault: Traffic,
    /// Faults of some requests only, by a name that whoever sets one chooses.
    pub rules: BTreeMap<String, Rule>,
    /// Services that are away altogether.
    pub down: Downs,
    /// Faults of single hosts, in ARM and in IMDS.
    pub hosts: BTreeMap<ArmId, HostFault>,
    /// Faults of single identities.
    pub identities: BTreeMap<ArmId, IdentityFault>,
    /// How ARM writes proceed.
    pub operations: Operations,
    /// 20 requests per second and 5 at a time, per machine.
    pub imds_rate_limit: bool,
    /// How long IMDS does not know an identity after it was attached.
    pub propagation_delay_ms: u64,
    /// Lifetimes of issued tokens.
    pub token_lifetime: TokenLifetime,
}

/// Faults of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostFault {
    /// The kinds of requests that fail; none named: all.
    pub on: Vec<Channel>,
    /// The HTTP status of a failure.
    pub status: u16,
    /// `error.code` of a failure, where the status alone does not say it.
    pub code: Option<String>,
    /// `Retry-After` of a failure.
    pub retry_after_seconds: Option<u64>,
    /// This many of the next requests fail; `null`: all.
    pub fail_next: Option<u64>,
}

/// Faults of one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityFault {
    /// What ARM does when the identity is to be attached.
    pub attach: Option<AttachFault>,
    /// What IMDS and Entra answer instead of its token.
    pub token_status: Option<u16>,
    /// As [`Faults::propagation_delay_ms`], for this identity.
    pub propagation_delay_ms: Option<u64>,
    /// How long its tokens live.
    pub token_lifetime_seconds: Option<u64>,
}

/// What ARM does when an identity is to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachFault {
    /// 403 `LinkedAuthorizationFailed`: the caller may not assign it.
    Forbidden,
    /// 400 `FailedIdentityOperation`: it does not exist.
    Missing,
    /// Accepted, then the operation ends as failed.
    OperationFails,
}

/// How ARM writes proceed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Operations {
    /// Answer at once and let the caller poll.
    #[serde(rename = "async")]
    pub asynchronous: bool,
    /// How long the write takes.
    pub duration_ms: u64,
    /// The status of an asynchronous answer: 202, or 200 as some providers do.
    pub status: u16,
    /// `Retry-After` of an asynchronous answer and of a poll.
    pub retry_after_seconds: Option<u64>,
    /// Every operation ends as failed and changes nothing.
    pub fail: bool,
}

/// Lifetimes of issued tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenLifetime {
    /// Of managed identities.
    pub managed_identity_seconds: u64,
    /// Of app registrations; `null`: 60 to 90 minutes, as Entra draws it.
    pub application_seconds: Option<u64>,
}

/// Which services are away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Downs {
    /// The metadata service.
    pub imds: Option<Down>,
    /// The token endpoint.
    pub entra: Option<Down>,
    /// The resource manager.
    pub arm: Option<Down>,
    /// The key vaults.
    pub vault: Option<Down>,
}

/// How a service is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Down {
    /// Nobody listens: connections are refused, open ones are closed.
    Refuse,
    /// Connections are accepted and never answered.
    Hang,
}

/// The kinds of requests that faults tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// The metadata service.
    Imds,
    /// The token endpoint.
    Entra,
    /// ARM reads.
    ArmGet,
    /// ARM writes.
    ArmPatch,
    /// Polls of asynchronous operations.
    ArmPoll,
    /// Key vaults.
    Vault,
}

/// Why faults are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultsError {
    /// Not a share.
    #[error("failure_rate must be between 0 and 1")]
    Rate,
    /// Not an error.
    #[error("status {0} is not an error: use 400 to 599")]
    Status(u16),
    /// Not how an asynchronous write is answered.
    #[error("operations.status {0} is not possible: use 200 or 202")]
    Accepted(u16),
}

/// The decision for one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) latency: Duration,
    pub(crate) failure: Option<Failure>,
}

/// How a request fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) code: Option<String>,
    pub(crate) retry_after: Option<u64>,
}

// === impl Faults ===

impl Faults {
    /// Whether the values make sense.
    ///
    /// # Errors
    /// Names the first that does not.
    pub fn check(&self) -> Result<(), FaultsError> {
        let services =
            [&self.imds, &self.entra, &self.arm_get, &self.arm_patch, &self.arm_poll, &self.vault];
        let traffic = || services.into_iter().chain(self.rules.values().map(|rule| &rule.then));
        if traffic().any(|traffic| !(0.0..=1.0).contains(&traffic.failure_rate)) {
            return Err(FaultsError::Rate);
        }
        let mut statuses = traffic()
            .map(|traffic| traffic.status)
            .chain(self.hosts.values().map(|host| host.status))
            .chain(self.identities.values().filter_map(|identity| identity.token_status));
        if let Some(status) = statuses.find(|status| !(400..=599).contains(status)) {
            return Err(FaultsError::Status(status));
        }
        match self.operations.status {
            200 | 202 => Ok(()),
            other => Err(FaultsError::Accepted(other)),
        }
    }

    /// Decides for one request and counts it. `roll` is a random number from 0 to 1.
    pub(crate) fn judge(&mut self, channel: Channel, subject: &Subject<'_>, roll: f64) -> Verdict {
        let mut failure = subject
            .host
            .and_then(|id| self.hosts.get_mut(id))
            .filter(|fault| fault.on.is_empty() || fault.on.contains(&channel))
            .and_then(HostFault::strike);
        let everybody = match channel {
            Channel::Imds => &mut self.imds,
            Channel::Entra => &mut self.entra,
            Channel::ArmGet => &mut self.arm_get,
            Channel::ArmPatch => &mut self.arm_patch,
            Channel::ArmPoll => &mut self.arm_poll,
            Channel::Vault => &mut self.vault,
        };
        let rules = self.rules.values_mut();
        let ruled = rules.filter(|rule| rule.when.covers(channel, subject));
        let mut latency_ms = 0;
        for traffic in ruled.map(|rule| &mut rule.then).chain([everybody]) {
            latency_ms = traffic.latency_ms.max(latency_ms);
            failure = failure.or_else(|| traffic.strike(roll));
        }
        Verdict { latency: Duration::from_millis(latency_ms), failure }
    }
}

impl HostFault {
    fn strike(&mut self) -> Option<Failure> {
        match &mut self.fail_next {
            Some(0) => return None,
            Some(left) => *left -= 1,
            None => {}
        }
        Some(Failure {
            status: self.status,
            code: self.code.clone(),
            retry_after: self.retry_after_seconds,
        })
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            imds: Traffic::default(),
            entra: Traffic::default(),
            arm_get: Traffic::default(),
            arm_patch: Traffic::default(),
            arm_poll: Traffic::default(),
            vault: Traffic::default(),
            rules: BTreeMap::new(),
            down: Downs::default(),
            hosts: BTreeMap::new(),
            identities: BTreeMap::new(),
            operations: Operations::default(),
            imds_rate_limit: true,
            propagation_delay_ms: 0,
            token_lifetime: TokenLifetime::default(),
        }
    }
}

impl Default for HostFault {
    fn default() -> Self {
        Self { on: Vec::new(), status: 500, code: None, retry_after_seconds: None, fail_next: None }
    }
}

impl Default for Operations {
    fn default() -> Self {
        Self {
            asynchronous: false,
            duration_ms: 0,
            status: 202,
            retry_after_seconds: Some(1),
            fail: false,
        }
    }
}

impl Default for TokenLifetime {
    fn default() -> Self {
        Self { managed_identity_seconds: 86_400, application_seconds: None }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Channel, Faults, FaultsError, Subject};
    use crate::seed;

    fn faults(value: serde_json::Value) -> Faults {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn fail_next_counts_down_and_then_the_service_works() {
        let mut faults = faults(json!({"imds": {"fail_next": 2, "status": 500}}));
        let outcomes: Vec<_> = (0..3)
            .map(|_| {
                faults.judge(Channel::Imds, &Subject::default(), 0.5).failure.map(|f| f.status)
            })
            .collect();
        assert_eq!(outcomes, [Some(500), Some(500), None]);
    }

    #[test]
    fn the_rate_decides_by_the_roll() {
        let mut faults = faults(json!({"entra": {"failure_rate": 0.25}}));
        let mut fails =
            |channel, roll| faults.judge(channel, &Subject::default(), roll).failure.is_some();
        assert!(fails(Channel::Entra, 0.24));
        assert!(!fails(Channel::Entra, 0.25));
        assert!(!fails(Channel::Imds, 0.0), "another channel");
    }

    #[test]
    fn a_host_fault_strikes_only_its_host_and_its_channels() {
        let (host, other) = (seed::scale_set_id(), seed::machine_id());
        let mut faults = faults(json!({"hosts": {
            host.as_str(): {"on": ["arm_patch"], "status": 429, "retry_after_seconds": 7, "fail_next": 1}
        }}));
        let mut judge = |channel, host| {
            let subject = Subject { host: Some(host), ..Subject::default() };
            faults.judge(channel, &subject, 0.0).failure
        };
        assert!(judge(Channel::ArmGet, &host).is_none());
        assert!(judge(Channel::ArmPatch, &other).is_none());
        let failure = judge(Channel::ArmPatch, &host).unwrap();
        assert_eq!((failure.status, failure.retry_after), (429, Some(7)));
        assert!(judge(Channel::ArmPatch, &host).is_none(), "used up");
    }

    #[test]
    fn a_rule_strikes_its_own_requests_and_the_longest_latency_counts() {
        let id = seed::identity_id("demo-identity");
        let mut faults = faults(json!({
            "imds": {"latency_ms": 10},
            "rules": {
                "slow": {"when": {"on": ["imds"]}, "then": {"latency_ms": 30}},
                "test": {"when": {"identity": id}, "then": {"failure_rate": 1.0, "status": 500}},
            },
        }));
        let subject = Subject { identity: Some(&id), ..Subject::default() };
        let verdict = faults.judge(Channel::Imds, &subject, 0.5);
        assert_eq!((verdict.latency.as_millis(), verdict.failure.unwrap().status), (30, 500));
        let verdict = faults.judge(Channel::Imds, &Subject::default(), 0.5);
        assert_eq!((verdict.latency.as_millis(), verdict.failure), (30, None));
    }

    #[test]
    fn nonsense_is_refused() {
        for (value, expected) in [
            (json!({"imds": {"failure_rate": 1.5}}), FaultsError::Rate),
            (json!({"rules": {"x": {"then": {"failure_rate": -1.0}}}}), FaultsError::Rate),
            (json!({"imds": {"status": 200}}), FaultsError::Status(200)),
            (json!({"operations": {"status": 201}}), FaultsError::Accepted(201)),
        ] {
            assert_eq!(faults(value).check(), Err(expected));
        }
        assert_eq!(Faults::default().check(), Ok(()));
        for unknown in [json!({"imsd": {}}), json!({"hosts": {"nodes": {}}})] {
            assert!(serde_json::from_value::<Faults>(unknown).is_err());
        }
    }
}
