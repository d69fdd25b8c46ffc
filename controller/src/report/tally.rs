//! How the assignments of each identity and each binding stand, summed up. Pure.

use std::collections::{BTreeSet, HashMap};

use api::Host;

use crate::desired::{Desired, Place, Selected};
use crate::snapshot::key;
use crate::verdict::{Standing, Verdict};

/// The sums for all objects, by namespace and name.
#[derive(Default)]
pub(crate) struct Tallies<'a> {
    pub(crate) identities: HashMap<(&'a str, &'a str), Tally<'a>>,
    pub(crate) bindings: HashMap<(&'a str, &'a str), Selected>,
    pub(crate) assigned: usize,
    pub(crate) waiting: usize,
}

/// The sums for one identity.
#[derive(Default)]
pub(crate) struct Tally<'a> {
    pub(crate) assigned: usize,
    pub(crate) waiting: usize,
    /// How many of those that wait may be assigned after all: ARM was not asked yet.
    pub(crate) undetermined: usize,
    /// Where it is assigned.
    pub(crate) hosts: BTreeSet<&'a Host>,
    /// The gravest problem of those that wait, and where, if it is one host's.
    pub(crate) worst: Option<(&'a Standing, Option<&'a Host>)>,
}

/// Sums up; `verdicts` are those of the assignments, in their order.
pub(crate) fn tally<'a>(desired: &'a Desired<'a>, verdicts: &'a [Verdict]) -> Tallies<'a> {
    let mut all = Tallies { bindings: desired.selected.clone(), ..Tallies::default() };
    for (assignment, verdict) in desired.assignments.iter().zip(verdicts) {
        let tally = all.identities.entry(key(assignment.identity)).or_default();
        let host = match assignment.place {
            Place::Host { host, .. } => Some(host),
            _ => None,
        };
        if verdict.standing == Standing::Assigned {
            tally.assigned += 1;
            all.assigned += 1;
            tally.hosts.extend(host);
            continue;
        }
        tally.waiting += 1;
        tally.undetermined += usize::from(verdict.standing == Standing::Undetermined);
        all.waiting += 1;
        let gravity = gravity(&verdict.standing);
        let found = (gravity, host);
        // Of equal ones the first host by name, so that the text does not change by itself.
        let graver = tally.worst.is_none_or(|(standing, at)| {
            let known = (self::gravity(standing), at);
            found.0 > known.0 || (found.0 == known.0 && found.1 < known.1)
        });
        if graver {
            tally.worst = Some((&verdict.standing, host));
        }
    }
    all
}

fn gravity(standing: &Standing) -> u8 {
    match standing {
        Standing::Assigned => 0,
        Standing::Attaching | Standing::Undetermined => 1,
        Standing::NoHost(_) => 2,
        Standing::HostTrouble(_) => 3,
        Standing::Refused(_) => 4,
        Standing::ClientIdMismatch { .. } => 5,
    }
}
