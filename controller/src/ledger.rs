//! What was decided for every pod, kept until something that it depends on changes, and the sums
//! over all pods: what each host needs, who uses each identity, how many pods each binding selects.
//!
//! The decisions themselves are `desired`'s, `verdict`'s and `plan`'s.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use api::matching::Scope;
use api::{AssignedState, AzureAssignedIdentity, Host, IdentityId};
use jiff::Timestamp;

use crate::adoption::is_leftover;
use crate::cluster::{Affected, Cluster};
use crate::content::is_ours;
use crate::desired::{Lack, Place, Selected, desired};
use crate::plan::{Rank, rank, verdict};
use crate::report::{Notice, binding_notice, pod_notices, verdict_notice};
use crate::snapshot::ObjectKey;
use crate::verdict::Standing;
use crate::waits::{Wait, Waits};

/// What was decided.
#[derive(Debug)]
pub(crate) struct Ledger {
    scope: Scope,
    entries: HashMap<ObjectKey, Entry>,
    /// The pod for which each `AzureAssignedIdentity` should be.
    owners: HashMap<ObjectKey, ObjectKey>,
    users: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
    selected: HashMap<ObjectKey, Selected>,
    /// How many pods of each host use each identity.
    needs: HashMap<Host, BTreeMap<IdentityId, usize>>,
    assigned: usize,
    waiting: usize,
    waits: Waits,
    /// How many pods lack something, for each reason.
    lacks: [usize; Lack::ALL.len()],
    /// Bindings that name no identity.
    missing: HashMap<ObjectKey, Notice>,
    /// Objects that another controller left behind.
    foreign: HashSet<ObjectKey>,
}

/// What was decided for one pod.
#[derive(Debug, Default, PartialEq)]
struct Entry {
    holdings: Vec<Holding>,
    /// Bindings that select the pod, and whether it is in their scope.
    selected: Vec<(ObjectKey, bool)>,
    lack: Option<Lack>,
    notices: Vec<Notice>,
}

/// How far the object of a holding is.
struct Progress {
    /// The write that is due to it.
    due: Option<Rank>,
    /// Its state, if there is one.
    state: Option<AssignedState>,
}

/// One identity of one pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Holding {
    /// Its `AzureAssignedIdentity`.
    pub(crate) assigned: ObjectKey,
    pub(crate) identity: ObjectKey,
    pub(crate) place: Option<(Host, IdentityId)>,
    pub(crate) standing: Standing,
}

/// What came of deciding again.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// The write that is due to each `AzureAssignedIdentity` that was looked at.
    pub(crate) due: Vec<(ObjectKey, Option<Rank>)>,
    /// Hosts that need something else now, or did for a moment.
    pub(crate) hosts: HashSet<Host>,
    /// Identities and bindings of which there may be something else to tell.
    pub(crate) identities: HashSet<ObjectKey>,
    pub(crate) bindings: HashSet<ObjectKey>,
    /// What goes wrong now, and what does not any more.
    pub(crate) notices: Vec<Notice>,
    pub(crate) mended: Vec<Notice>,
    /// Since when pods had waited that can use an identity now for the first time.
    pub(crate) waited: Vec<Timestamp>,
    /// Objects that another controller left behind, when they are first seen.
    pub(crate) foreign: Vec<ObjectKey>,
}

// === impl Ledger ===

impl Ledger {
    /// Nothing decided yet.
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            entries: HashMap::new(),
            owners: HashMap::new(),
            users: HashMap::new(),
            selected: HashMap::new(),
            needs: HashMap::new(),
            assigned: 0,
            waiting: 0,
            waits: Waits::default(),
            lacks: [0; Lack::ALL.len()],
            missing: HashMap::new(),
            foreign: HashSet::new(),
        }
    }

    /// Decides again what is affected, and nothing else.
    pub(crate) fn settle(
        &mut self,
        cluster: &Cluster,
        affected: Affected,
        now: Timestamp,
    ) -> Settled {
        let mut settled = Settled {
            identities: affected.identities,
            bindings: affected.bindings,
            ..Settled::default()
        };
        let mut pods = affected.pods;
        // Judged after the pods: whether somebody owns it is known then.
        let mut loose = HashSet::new();
        for at in affected.assigned {
            match self.owners.get(&at) {
                Some(pod) => drop(pods.insert(pod.clone())),
                None => drop(loose.insert(at)),
            }
        }
        for pod in pods {
            self.settle_pod(cluster, pod, now, (&mut settled, &mut loose));
        }
        for at in loose {
            self.settle_loose(cluster, at, &mut settled);
        }
        self.settle_bindings(cluster, &mut settled);
        settled
    }

    /// The pod for which an `AzureAssignedIdentity` should be.
    pub(crate) fn owner(&self, assigned: &ObjectKey) -> Option<&ObjectKey> {
        self.owners.get(assigned)
    }

    /// What a host needs.
    pub(crate) fn need(&self, host: &Host) -> BTreeSet<IdentityId> {
        self.needs.get(host).map(|needed| needed.keys().cloned().collect()).unwrap_or_default()
    }

    /// How an identity stands with each pod that should hold it.
    pub(crate) fn uses(&self, identity: &ObjectKey) -> impl Iterator<Item = &Holding> {
        let pods = self.users.get(identity).into_iter().flatten();
        let entries = pods.filter_map(|pod| self.entries.get(pod));
        entries.flat_map(|entry| &entry.holdings).filter(move |held| held.identity == *identity)
    }

    /// How many pods a binding selects.
    pub(crate) fn selected(&self, binding: &ObjectKey) -> Selected {
        self.selected.get(binding).copied().unwrap_or_default()
    }

    /// How many assignments can be used, and how many cannot yet.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.assigned, self.waiting)
    }

    /// Since when the pod waits that has waited longest for an identity that it should have.
    pub(crate) fn longest_wait(&self) -> Option<Timestamp> {
        self.waits.longest()
    }

    /// How many pods lack an identity that their label asks for, for each reason.
    pub(crate) fn lacks(&self) -> impl Iterator<Item = (Lack, usize)> {
        Lack::ALL.into_iter().zip(self.lacks)
    }

    /// What every host needs.
    #[cfg(test)]
    pub(crate) fn needs(&self) -> BTreeMap<Host, BTreeSet<IdentityId>> {
        self.needs.keys().map(|host| (host.clone(), self.need(host))).collect()
    }

    /// All that was decided, to be compared.
    #[cfg(test)]
    pub(crate) fn decisions(&self) -> impl PartialEq + std::fmt::Debug {
        let counts = (self.assigned, self.waiting, self.lacks);
        let sums = (&self.users, &self.selected, &self.needs, counts);
        (&self.entries, &self.owners, &self.missing, sums)
    }

    fn settle_pod(
        &mut self,
        cluster: &Cluster,
        at: ObjectKey,
        now: Timestamp,
        (settled, loose): (&mut Settled, &mut HashSet<ObjectKey>),
    ) {
        let before = self.entries.remove(&at).unwrap_or_default();
        let (entry, progress) = decide(cluster, &at, self.scope);
        // One that is seen for the first time may wait since long before this leader.
        let newcomer = cluster.pod(&at).filter(|_| before == Entry::default());
        for (held, progress) in entry.holdings.iter().zip(progress) {
            let first = progress.state != Some(AssignedState::Assigned);
            // Until ARM has attached the identity and the object says so.
            let waits = first || held.standing != Standing::Assigned;
            let wait = waits.then(|| match newcomer.filter(|_| first) {
                Some(pod) => Wait::of_newcomer(pod.scheduled(), now),
                None => Wait { since: now, first },
            });
            settled.waited.extend(self.waits.follow(&held.assigned, wait));
            settled.due.push((held.assigned.clone(), progress.due));
        }
        if entry == before {
            self.keep(at, entry);
            return;
        }
        self.retract(&at, &before, settled);
        for held in before.holdings {
            if !entry.holdings.iter().any(|now| now.assigned == held.assigned) {
                self.waits.end(&held.assigned);
                loose.insert(held.assigned);
            }
        }
        self.enter(&at, &entry, settled);
        settled.mended.extend(
            before
                .notices
                .into_iter()
                .filter(|notice| !entry.notices.iter().any(|now| now.is_about_the_same(notice))),
        );
        settled.notices.extend(entry.notices.iter().cloned());
        self.keep(at, entry);
    }

    fn keep(&mut self, at: ObjectKey, entry: Entry) {
        if entry != Entry::default() {
            self.entries.insert(at, entry);
        }
    }

    /// An `AzureAssignedIdentity` that no pod should have.
    fn settle_loose(&mut self, cluster: &Cluster, at: ObjectKey, settled: &mut Settled) {
        if self.owners.contains_key(&at) {
            return;
        }
        let stored = cluster.assigned(&at);
        // Leftovers are the adopter's, which says so itself.
        let foreign = stored.is_some_and(|stored| !is_ours(stored) && !is_leftover(stored));
        if !foreign {
            self.foreign.remove(&at);
        } else if self.foreign.insert(at.clone()) {
            settled.foreign.push(at.clone());
        }
        let ours = stored.is_some_and(|stored| is_ours(stored));
        settled.due.push((at, ours.then_some(Rank::Withdraw)));
    }

    fn settle_bindings(&mut self, cluster: &Cluster, settled: &mut Settled) {
        for at in &settled.bindings {
            let now = cluster.binding(at).and_then(|binding| binding_notice(cluster, binding));
            let before = self.missing.remove(at);
            let mended = before
                .filter(|before| !now.as_ref().is_some_and(|now| now.is_about_the_same(before)));
            settled.mended.extend(mended);
            if let Some(now) = now {
                settled.notices.push(now.clone());
                self.missing.insert(at.clone(), now);
            }
        }
    }

    fn retract(&mut self, pod: &ObjectKey, entry: &Entry, settled: &mut Settled) {
        if let Some(lack) = entry.lack {
            self.lacks[lack as usize] -= 1;
        }
        for held in &entry.holdings {
            *self.count(&held.standing) -= 1;
            self.owners.remove(&held.assigned);
            if let Some(users) = self.users.get_mut(&held.identity) {
                users.remove(pod);
                if users.is_empty() {
                    self.users.remove(&held.identity);
                }
            }
            settled.identities.insert(held.identity.clone());
            if let Some((host, identity)) = &held.place
                && self.release(host, identity)
            {
                settled.hosts.insert(host.clone());
            }
        }
        for (binding, in_scope) in &entry.selected {
            if let Some(selected) = self.selected.get_mut(binding) {
                *(if *in_scope { &mut selected.in_scope } else { &mut selected.out_of_scope }) -= 1;
                if *selected == Selected::default() {
                    self.selected.remove(binding);
                }
            }
            settled.bindings.insert(binding.clone());
        }
    }

    /// Returns whether that was the last use.
    fn release(&mut self, host: &Host, identity: &IdentityId) -> bool {
        let Some(needed) = self.needs.get_mut(host) else { return false };
        let Some(count) = needed.get_mut(identity) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        needed.remove(identity);
        if needed.is_empty() {
            self.needs.remove(host);
        }
        true
    }

    fn enter(&mut self, pod: &ObjectKey, entry: &Entry, settled: &mut Settled) {
        if let Some(lack) = entry.lack {
            self.lacks[lack as usize] += 1;
        }
        for held in &entry.holdings {
            *self.count(&held.standing) += 1;
            self.owners.insert(held.assigned.clone(), pod.clone());
            self.users.entry(held.identity.clone()).or_default().insert(pod.clone());
            settled.identities.insert(held.identity.clone());
            if let Some((host, identity)) = &held.place {
                self.require(host, identity, settled);
            }
        }
        for (binding, in_scope) in &entry.selected {
            let selected = self.selected.entry(binding.clone()).or_default();
            *(if *in_scope { &mut selected.in_scope } else { &mut selected.out_of_scope }) += 1;
            settled.bindings.insert(binding.clone());
        }
    }

    fn require(&mut self, host: &Host, identity: &IdentityId, settled: &mut Settled) {
        // It is used already in almost every case: look before cloning.
        if let Some(count) = self.needs.get_mut(host).and_then(|needed| needed.get_mut(identity)) {
            *count += 1;
            return;
        }
        self.needs.entry(host.clone()).or_default().insert(identity.clone(), 1);
        settled.hosts.insert(host.clone());
    }

    fn count(&mut self, standing: &Standing) -> &mut usize {
        if *standing == Standing::Assigned { &mut self.assigned } else { &mut self.waiting }
    }
}

/// Decides for one pod; with how far the object of each of its holdings is.
fn decide(cluster: &Cluster, at: &ObjectKey, scope: Scope) -> (Entry, Vec<Progress>) {
    let Some(pod) = cluster.pod(at) else { return Default::default() };
    let desired = desired(cluster, pod, scope);
    let notices = pod_notices(pod, &desired.problems);
    let mut entry = Entry { notices, lack: desired.lack(), ..Entry::default() };
    let mut progress = Vec::with_capacity(desired.assignments.len());
    for assignment in &desired.assignments {
        let verdict = verdict(cluster, assignment);
        let assigned = assignment.key();
        let stored = cluster.assigned(&assigned).map(|one| &**one);
        let due = rank(assignment, stored, &verdict);
        progress.push(Progress { due, state: stored.map(AzureAssignedIdentity::state) });
        entry.notices.extend(verdict_notice(assignment, &verdict));
        entry.holdings.push(Holding {
            assigned,
            identity: ObjectKey::of(assignment.identity),
            place: match assignment.place {
                Place::Host { host, identity } => Some((host.clone(), identity.clone())),
                _ => None,
            },
            standing: verdict.standing,
        });
    }
    entry.selected =
        desired.selected.iter().map(|(one, yes)| (ObjectKey::of(*one), *yes)).collect();
    // The index has no order of its own, and an entry has to equal itself.
    entry.selected.sort_unstable();
    (entry, progress)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
