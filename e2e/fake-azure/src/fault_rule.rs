//! What goes wrong with one kind of request, and rules that narrow it down to some of them.

use serde::{Deserialize, Serialize};

use crate::arm_id::ArmId;
use crate::faults::{Channel, Failure};
use crate::guid::Guid;

/// Faults of one kind of request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Traffic {
    /// Every answer is held back this long.
    pub latency_ms: u64,
    /// The share of requests that fail, 0 to 1.
    pub failure_rate: f64,
    /// Makes the order of failures the same in each run. Moves on with each request; `null`: by
    /// chance.
    pub seed: Option<u64>,
    /// This many of the next requests fail.
    pub fail_next: u64,
    /// The HTTP status of a failure.
    pub status: u16,
    /// `Retry-After` of a failure.
    pub retry_after_seconds: Option<u64>,
}

/// A fault for some requests only. Tests that run at the same time have one each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// The requests; all of them if nothing is said.
    pub when: Scope,
    /// What happens to them.
    pub then: Traffic,
}

/// Which requests a rule is about: those that all of this is true of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scope {
    /// The kinds of requests; none named: all.
    pub on: Vec<Channel>,
    /// The machine or scale set that asks IMDS, or that ARM is asked about.
    pub host: Option<ArmId>,
    /// The identity whose token is asked for.
    pub identity: Option<ArmId>,
    /// The client id of the identity or application, also that of the caller of the vault.
    pub client_id: Option<Guid>,
    /// The audience of the token.
    pub resource: Option<String>,
}

/// What is known of a request when it is decided whether it fails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Subject<'a> {
    pub(crate) host: Option<&'a ArmId>,
    pub(crate) identity: Option<&'a ArmId>,
    pub(crate) client_id: Option<&'a Guid>,
    pub(crate) resource: Option<&'a str>,
}

impl Scope {
    pub(crate) fn covers(&self, channel: Channel, subject: &Subject<'_>) -> bool {
        fn fits<T: PartialEq + ?Sized>(wanted: Option<&T>, found: Option<&T>) -> bool {
            wanted.is_none() || wanted == found
        }
        (self.on.is_empty() || self.on.contains(&channel))
            && fits(self.host.as_ref(), subject.host)
            && fits(self.identity.as_ref(), subject.identity)
            && fits(self.client_id.as_ref(), subject.client_id)
            && fits(self.resource.as_deref(), subject.resource)
    }
}

impl Traffic {
    /// Whether this request fails. `roll` is a random number from 0 to 1.
    pub(crate) fn strike(&mut self, roll: f64) -> Option<Failure> {
        let counted = self.fail_next > 0;
        self.fail_next = self.fail_next.saturating_sub(1);
        let roll = self.seed.as_mut().map_or(roll, next_roll);
        (counted || roll < self.failure_rate).then_some(Failure {
            status: self.status,
            code: None,
            retry_after: self.retry_after_seconds,
        })
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            latency_ms: 0,
            failure_rate: 0.0,
            seed: None,
            fail_next: 0,
            status: 503,
            retry_after_seconds: None,
        }
    }
}

/// The next number from 0 to 1 of a seed (splitmix64).
fn next_roll(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    let high = u32::try_from(mixed >> 32).unwrap_or(u32::MAX);
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::{Channel, Scope, Subject, Traffic};
    use crate::seed;

    #[test]
    fn a_scope_covers_what_all_of_it_is_true_of() {
        let world = seed::world();
        let one = &world.identities[&seed::identity_id("demo-identity")];
        let two = &world.identities[&seed::identity_id("second-identity")];
        let subject = Subject {
            identity: Some(&one.id),
            client_id: Some(&one.client_id),
            resource: Some("https://vault.azure.net"),
            ..Subject::default()
        };
        let all = Scope::default();
        let by_identity = Scope { identity: Some(one.id.clone()), ..all.clone() };
        let by_client = Scope { client_id: Some(two.client_id.clone()), ..all.clone() };
        let elsewhere = Scope { resource: Some("r".to_owned()), ..by_identity.clone() };
        let by_kind = Scope { on: vec![Channel::Entra], ..by_identity.clone() };
        for (scope, expected) in [
            (&all, true),
            (&by_identity, true),
            (&by_client, false),
            (&elsewhere, false),
            (&by_kind, false),
        ] {
            assert_eq!(scope.covers(Channel::Imds, &subject), expected, "{scope:?}");
        }
        assert!(!by_identity.covers(Channel::Imds, &Subject::default()), "nothing is known");
    }

    #[test]
    fn a_seed_gives_the_same_failures_each_time_and_about_the_share_asked_for() {
        let outcomes = |seed| {
            let mut traffic = Traffic { failure_rate: 0.5, seed: Some(seed), ..Traffic::default() };
            (0..1000).map(|_| traffic.strike(0.0).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(outcomes(7), outcomes(7));
        assert_ne!(outcomes(7), outcomes(8));
        let failures = outcomes(7).into_iter().filter(|failed| *failed).count();
        assert!((400..600).contains(&failures), "{failures}");
    }
}
