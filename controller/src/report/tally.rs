//! How the assignments of one identity stand, summed up. Pure.

use std::collections::BTreeSet;

use api::Host;

use crate::verdict::Standing;

/// The sums for one identity.
#[derive(Default)]
pub(super) struct Tally<'a> {
    pub(super) assigned: usize,
    pub(super) waiting: usize,
    /// How many of those that wait may be assigned after all: ARM was not asked yet.
    pub(super) undetermined: usize,
    /// Where it is assigned.
    pub(super) hosts: BTreeSet<&'a Host>,
    /// The gravest problem of those that wait, and where, if it is one host's.
    pub(super) worst: Option<(&'a Standing, Option<&'a Host>)>,
}

/// Sums up how each assignment stands, and where.
pub(super) fn tally<'a>(uses: impl Iterator<Item = (&'a Standing, Option<&'a Host>)>) -> Tally<'a> {
    let mut tally = Tally::default();
    for (standing, host) in uses {
        if *standing == Standing::Assigned {
            tally.assigned += 1;
            tally.hosts.extend(host);
            continue;
        }
        tally.waiting += 1;
        tally.undetermined += usize::from(*standing == Standing::Undetermined);
        // Of equal ones the first host by name, so that the text does not change by itself.
        let graver = tally.worst.is_none_or(|(worst, at)| {
            let (found, known) = (gravity(standing), gravity(worst));
            found > known || (found == known && host < at)
        });
        if graver {
            tally.worst = Some((standing, host));
        }
    }
    tally
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
