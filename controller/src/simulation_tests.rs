//! A cluster, its hosts and a controller in one value: random events, failures and crashes in any
//! order, after which what is attached has to be what is needed.
//!
//! Uses the real decisions (`ledger` and what it asks, `plan`, `HostModel`) and a model of everything
//! around them. What is decided again after a change must be what would be decided from scratch.

mod op;
mod outside;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::crd::{AzureIdentityAttachment, AzureIdentityAttachmentSpec};
use api::{AssignedState, Host, IdentityId};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use self::op::{Op, op};
use self::world::{Stored, World};
use crate::clock::after;
use crate::host::Status;
use crate::testing::id;

const LINGER: Duration = Duration::from_secs(300);
const IDENTITIES: [&str; 4] = ["i0", "i1", "i2", "i3"];
const HOSTS: [&str; 3] = ["h0", "h1", "h2"];

impl World {
    /// Lets everything come to rest, with nothing in its way any more.
    fn rest(&mut self) {
        self.forbidden.clear();
        self.pass();
    }

    /// Lets time pass in which nothing new happens.
    fn pass(&mut self) {
        (self.arm_fault, self.record_fault, self.write_fault) = (None, None, false);
        self.held.clear();
        let end = after(self.now, Duration::from_secs(3000));
        let mut steps = 0;
        while self.now < end {
            if let Some(wake) = self.work() {
                self.now = wake;
            }
            steps += 1;
            assert!(steps < 2000, "it never comes to rest");
        }
    }

    /// What each record says is what it is like on the host.
    fn check_told(&self) {
        let needs = self.needs();
        for (host, Stored { entries, status, .. }) in &self.records {
            let Some(status) = status else { panic!("nothing is said of {host}") };
            let count = usize::try_from(status.identity_count.unwrap()).unwrap();
            assert_eq!(count, entries.len(), "{status:?}");
            let Some(machine) = self.hosts.get(host) else {
                assert_eq!(status.state, "HostNotFound");
                continue;
            };
            let needed = needs.get(host).cloned().unwrap_or_default();
            let there: BTreeSet<_> = machine.attached.iter().map(|name| id(name)).collect();
            let missing: Vec<String> =
                needed.difference(&there).map(|id| id.as_str().to_owned()).collect();
            let failing: Vec<String> =
                status.failing.iter().map(|failing| failing.resource_id.clone()).collect();
            assert_eq!(failing, missing, "{status:?}");
            assert_eq!(status.state, if missing.is_empty() { "Ready" } else { "Failing" });
            assert_eq!(status.next_attempt.is_some(), !missing.is_empty(), "{status:?}");
        }
    }

    fn check_rest(&mut self) {
        self.check_told();
        let needs = self.needs();
        for (host, machine) in &self.hosts {
            let needed = needs.get(host).cloned().unwrap_or_default();
            let foreign: BTreeSet<IdentityId> =
                machine.foreign.iter().map(|name| id(name)).collect();
            let attached: BTreeSet<IdentityId> =
                machine.attached.iter().map(|name| id(name)).collect();
            let expected: BTreeSet<_> = needed.union(&foreign).cloned().collect();
            assert_eq!(attached, expected, "attached to {host}");
            let ours: BTreeSet<_> = needed.difference(&foreign).cloned().collect();
            let recorded: BTreeSet<_> = self.record(host).entries.into_keys().collect();
            assert_eq!(recorded, ours, "recorded of {host}");
        }
        for host in self.records.keys() {
            assert!(self.hosts.contains_key(host), "the record of {host} outlived it");
        }
        let (assigned, waiting) = self.scratch().ledger.counts();
        assert_eq!((self.cluster.assigned.len(), 0), (assigned, waiting));
        for object in &self.cluster.assigned {
            assert_eq!(object.state(), AssignedState::Assigned, "{:?}", object.status);
        }
        assert_eq!(self.cycle(), [], "the second plan is empty");
    }
}

/// Whether it says the same, whenever it was said.
fn says(said: Option<&Status>, status: &Status) -> bool {
    said.is_some_and(|said| {
        let (last_transition_time, observed_at) =
            (status.last_transition_time.clone(), status.observed_at.clone());
        Status { last_transition_time, observed_at, ..said.clone() } == *status
    })
}

fn attachment(host: &Host) -> Arc<AzureIdentityAttachment> {
    let spec = AzureIdentityAttachmentSpec { host: host.to_string(), identities: Vec::new() };
    Arc::new(AzureIdentityAttachment::new(&api::crd::attachment_name(host), spec))
}

/// What is tried, from a seed that a failure shows: `PROPTEST_RNG_SEED` takes it, `PROPTEST_CASES`
/// makes it more.
fn tried(cases: u32, max_shrink_iters: u32) -> ProptestConfig {
    let config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters,
        cases,
        ..ProptestConfig::default()
    };
    let rng_seed = match config.rng_seed {
        RngSeed::Random => RngSeed::Fixed(rand_seed()),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    eprintln!("PROPTEST_RNG_SEED={rng_seed}");
    ProptestConfig { rng_seed, ..config }
}

fn rand_seed() -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
}

/// Lets it happen, and looks at what it came to.
fn play(ops: impl IntoIterator<Item = Op>) {
    let mut world = World::new();
    for op in ops {
        world.happen(op);
        world.decide();
    }
    world.pass();
    world.check_told();
    world.rest();
    world.check_rest();
}

proptest! {
    #![proptest_config(tried(ProptestConfig::default().cases, 20_000))]

    #[test]
    fn after_any_events_what_is_attached_is_what_is_needed(
        ops in proptest::collection::vec(op(), 1..80),
    ) {
        play(ops);
    }
}

proptest! {
    #![proptest_config(tried(ProptestConfig::default().cases.div_ceil(64), 200))]

    #[test]
    fn so_it_is_after_thousands_of_events(ops in proptest::collection::vec(op(), 4000..5000)) {
        play(ops);
    }
}
