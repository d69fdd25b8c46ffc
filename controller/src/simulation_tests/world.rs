//! The cluster, its hosts and the controller of the simulation, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::crd::AzureIdentityAttachment;
use api::{Host, IdentityId};
use jiff::Timestamp;

use super::op::Op;
use super::{HOSTS, IDENTITIES, LINGER};
use crate::clock::after;
use crate::host::{Entries, HostModel, HostSettings, Immutable, Status, Step};
use crate::plan::Change;
use crate::snapshot::{Snapshot, key};
use crate::testing::{Engine, binding, host, id, identity, node, pod, relabel};
use crate::watch::{CloudNode, Kind};

pub(super) struct World {
    /// What is stored.
    pub(super) cluster: Snapshot,
    /// What the caches show of it.
    shown: Snapshot,
    pub(super) held: Vec<Kind>,
    pub(super) counter: u64,
    pub(super) now: Timestamp,
    pub(super) hosts: BTreeMap<Host, Machine>,
    pub(super) records: BTreeMap<Host, Stored>,
    pub(super) slow_arm: bool,
    pub(super) forbidden: BTreeSet<IdentityId>,
    /// Failures of the next call to ARM, to the records: whether it takes effect all the same.
    pub(super) arm_fault: Option<bool>,
    pub(super) record_fault: Option<bool>,
    pub(super) write_fault: bool,
    pub(super) models: BTreeMap<Host, HostModel>,
    /// What the leader decided, change by change.
    pub(super) engine: Engine,
}

/// What each host's pods need.
pub(super) type Needs = BTreeMap<Host, BTreeSet<IdentityId>>;

/// A record.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) entries: Entries,
    pub(super) version: u64,
    pub(super) status: Option<Status>,
}

/// A VM or scale set as ARM knows it.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) attached: BTreeSet<&'static str>,
    /// Those that others attached.
    pub(super) foreign: BTreeSet<&'static str>,
    /// How long it is not to be asked, from the next time that it is; and then until when.
    pub(super) throttle: Option<Duration>,
    pub(super) closed_until: Option<Timestamp>,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            cluster: Snapshot::default(),
            shown: Snapshot::default(),
            held: Vec::new(),
            counter: 100,
            now: after(Timestamp::UNIX_EPOCH, Duration::from_secs(1_000_000)),
            hosts: BTreeMap::new(),
            records: BTreeMap::new(),
            slow_arm: false,
            forbidden: BTreeSet::new(),
            arm_fault: None,
            record_fault: None,
            write_fault: false,
            models: BTreeMap::new(),
            engine: Engine::default(),
        };
        (0..HOSTS.len()).for_each(|number| world.add_host(number));
        world
    }

    fn add_host(&mut self, number: usize) {
        self.hosts.entry(host(HOSTS[number])).or_default();
        let name = node_name(number);
        if !self.cluster.nodes.iter().any(|node| key(&**node).1 == name) {
            self.cluster.nodes.push(Arc::new(node(&name, HOSTS[number])));
        }
    }

    pub(super) fn happen(&mut self, op: Op) {
        match op {
            Op::AddPod { pod: number, label, host } => {
                self.happen(Op::DeletePod(number));
                self.add_host(host);
                let (name, label) = (format!("p{number}"), format!("l{label}"));
                let mut pod = pod("apps", &name, &label, &node_name(host));
                pod.metadata.uid = Some(self.fresh());
                self.cluster.pods.push(Arc::new(pod));
            }
            Op::DeletePod(number) => {
                let name = format!("p{number}");
                self.cluster.pods.retain(|pod| key(&**pod).1 != name);
            }
            Op::FinishPod(number) => {
                let name = format!("p{number}");
                for pod in self.cluster.pods.iter_mut().filter(|pod| key(&***pod).1 == name) {
                    Arc::make_mut(pod).status.phase = Some("Succeeded".to_owned());
                }
            }
            Op::Relabel { pod: number, label } => {
                let name = format!("p{number}");
                for pod in self.cluster.pods.iter_mut().filter(|pod| key(&***pod).1 == name) {
                    relabel(Arc::make_mut(pod), &format!("l{label}"));
                }
            }
            Op::AddBinding { binding: number, identity, label } => {
                self.happen(Op::DeleteBinding(number));
                let (name, label) = (format!("b{number}"), format!("l{label}"));
                let binding = binding("team", &name, IDENTITIES[identity], &label);
                self.cluster.bindings.push(Arc::new(binding));
            }
            Op::DeleteBinding(number) => {
                let name = format!("b{number}");
                self.cluster.bindings.retain(|binding| key(&**binding).1 != name);
            }
            Op::AddIdentity(number) => {
                self.happen(Op::EditIdentity { identity: number, resource: number });
            }
            Op::EditIdentity { identity: number, resource } => {
                self.happen(Op::DeleteIdentity(number));
                let mut object = identity("team", IDENTITIES[resource]);
                object.metadata.name = Some(IDENTITIES[number].to_owned());
                self.cluster.identities.push(Arc::new(object));
            }
            Op::DeleteIdentity(number) => {
                self.cluster.identities.retain(|object| key(&**object).1 != IDENTITIES[number]);
            }
            Op::DeleteHost(number) => self.delete_host(number),
            Op::MoveNode { node: number, host } => {
                self.add_host(number);
                self.add_host(host);
                let name = node_name(number);
                self.cluster.nodes.retain(|node| key(&**node).1 != name);
                self.cluster.nodes.push(Arc::new(node(&name, HOSTS[host])));
            }
            op => self.happen_outside(op),
        }
    }

    fn happen_outside(&mut self, op: Op) {
        match op {
            Op::OthersAttach { host: number, resource } => self.others_attach(number, resource),
            Op::OthersDetach { host: number, resource } => {
                if let Some(machine) = self.hosts.get_mut(&host(HOSTS[number])) {
                    machine.attached.remove(IDENTITIES[resource]);
                    machine.foreign.remove(IDENTITIES[resource]);
                }
            }
            Op::Throttle { host: number, seconds } => {
                if let Some(machine) = self.hosts.get_mut(&host(HOSTS[number])) {
                    machine.throttle = Some(Duration::from_secs(seconds));
                }
            }
            Op::Hold(kind) => self.held.push(kind),
            Op::Release(kind) => self.held.retain(|held| *held != kind),
            Op::Forbid(resource) => drop(self.forbidden.insert(id(IDENTITIES[resource]))),
            Op::Allow(resource) => drop(self.forbidden.remove(&id(IDENTITIES[resource]))),
            Op::FailArm { after_effect } => self.arm_fault = Some(after_effect),
            Op::FailRecord { after_effect } => self.record_fault = Some(after_effect),
            Op::OthersTouchRecord(number) => {
                self.counter += 1;
                if let Some(stored) = self.records.get_mut(&host(HOSTS[number])) {
                    stored.version = self.counter;
                }
            }
            Op::SlowArm(slow) => self.slow_arm = slow,
            Op::FailWrite => self.write_fault = true,
            Op::Crash => {
                self.forget_who_was_first();
                self.models.clear();
                self.engine = Engine::default();
                // The next one's caches are complete before it begins.
                self.held.clear();
                self.hosts.values_mut().for_each(|machine| machine.closed_until = None);
            }
            Op::Advance(seconds) => self.now = after(self.now, Duration::from_secs(seconds)),
            Op::Work(steps) => (0..steps).for_each(|_| _ = self.work()),
            _ => unreachable!("handled by `happen`"),
        }
    }

    fn delete_host(&mut self, number: usize) {
        self.hosts.remove(&host(HOSTS[number]));
        let of_host = |node: &CloudNode| {
            let id = node.spec.provider_id.as_deref().unwrap_or_default();
            Host::from_provider_id(id) == Ok(host(HOSTS[number]))
        };
        let (gone, stay): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.cluster.nodes).into_iter().partition(|node| of_host(node));
        self.cluster.nodes = stay;
        let gone: Vec<&str> = gone.iter().map(|node| key(&**node).1).collect();
        self.cluster.pods.retain(|pod| !gone.contains(&pod.node()));
    }

    /// What is recorded and not yet attached when the controller dies is its own to the next one,
    /// also if somebody else has attached it meanwhile.
    fn forget_who_was_first(&mut self) {
        for (host, machine) in &mut self.hosts {
            let Some(Stored { entries, .. }) = self.records.get(host) else { continue };
            machine.foreign.retain(|name| !entries.contains_key(&id(name)));
        }
    }

    /// Somebody attaches an identity, at any moment: also between our last look and our change.
    /// What is recorded and may be attached already, for all that the controller knows, stays its.
    fn others_attach(&mut self, number: usize, resource: usize) {
        let (host, name) = (host(HOSTS[number]), IDENTITIES[resource]);
        let recorded = self.records.get(&host).is_some_and(|it| it.entries.contains_key(&id(name)));
        let intended = self.models.get(&host).is_some_and(|model| model.intends(&id(name)));
        let Some(machine) = self.hosts.get_mut(&host) else { return };
        if machine.attached.insert(name) && (!recorded || intended) {
            machine.foreign.insert(name);
        }
    }

    fn fresh(&mut self) -> String {
        self.counter += 1;
        self.counter.to_string()
    }

    /// One cycle of the leader and one step of every host. Returns when to come back, if nobody
    /// had anything to do.
    pub(super) fn work(&mut self) -> Option<Timestamp> {
        let mut busy = !self.cycle().is_empty();
        let mut wake = after(self.now, Duration::from_secs(60));
        for host in self.models.keys().cloned().collect::<Vec<_>>() {
            let Some(mut model) = self.models.remove(&host) else { continue };
            match model.next(self.now) {
                Step::Done => continue,
                Step::Wait(until) => {
                    assert!(until > self.now, "a wait for what is past never ends");
                    wake = wake.min(until);
                }
                step => {
                    busy = true;
                    self.execute(&host, &mut model, step);
                }
            }
            self.models.insert(host, model);
        }
        (!busy).then_some(wake)
    }

    /// Lets the caches that are not held catch up.
    fn show(&mut self) {
        let before = std::mem::replace(&mut self.shown, self.cluster.clone());
        for kind in &self.held {
            match kind {
                Kind::Pods => self.shown.pods.clone_from(&before.pods),
                Kind::Nodes => self.shown.nodes.clone_from(&before.nodes),
                Kind::Identities => self.shown.identities.clone_from(&before.identities),
                Kind::Bindings => self.shown.bindings.clone_from(&before.bindings),
                Kind::Assigned => self.shown.assigned.clone_from(&before.assigned),
                Kind::Attachments => self.shown.attachments.clone_from(&before.attachments),
            }
        }
    }

    /// Everything decided from scratch.
    pub(super) fn scratch(&self) -> Engine {
        let mut engine = Engine::default();
        self.show_hosts(&mut engine);
        engine.follow(&self.shown);
        engine
    }

    fn show_hosts(&self, engine: &mut Engine) {
        for name in HOSTS {
            let view = self.models.get(&host(name)).map(|model| Arc::new(model.view()));
            engine.see(&host(name), view);
        }
    }

    pub(super) fn needs(&self) -> Needs {
        self.scratch().ledger.needs()
    }

    /// Lets the leader decide what changed, and sees that it comes to what all of it comes to.
    pub(super) fn decide(&mut self) {
        self.show();
        let mut engine = std::mem::take(&mut self.engine);
        self.show_hosts(&mut engine);
        engine.follow(&self.shown);
        let scratch = self.scratch();
        assert_eq!(engine.ledger.decisions(), scratch.ledger.decisions());
        assert_eq!(engine.changes(), scratch.changes());
        self.engine = engine;
    }

    pub(super) fn cycle(&mut self) -> Vec<Change> {
        self.decide();
        let changes = self.engine.changes();
        let needs = self.engine.ledger.needs();
        let shown = self.shown.attachments.iter();
        let recorded: BTreeSet<Host> = shown.filter_map(|record| recorded_host(record)).collect();
        let settings = HostSettings {
            linger: LINGER,
            recheck: Duration::from_secs(180),
            immutable: Immutable::default(),
        };
        let settings = Arc::new(settings);
        for host in needs.keys().chain(&recorded) {
            let new = || HostModel::new(settings.clone());
            self.models.entry(host.clone()).or_insert_with(new);
        }
        for (host, model) in &mut self.models {
            model.set_needed(needs.get(host).cloned().unwrap_or_default());
        }
        for change in &changes {
            if !std::mem::take(&mut self.write_fault) {
                self.apply(change);
            }
        }
        changes
    }

    fn apply(&mut self, change: &Change) {
        let (at, version) = (change.key(), self.fresh());
        let objects = &mut self.cluster.assigned;
        let found = objects
            .iter()
            .position(|object| key(&**object) == (at.namespace.as_str(), at.name.as_str()));
        let is = |number: usize, expected: &Option<String>| {
            *expected == objects[number].metadata.resource_version
        };
        match (change, found) {
            (Change::Create(object), None) => {
                let mut object = (**object).clone();
                object.metadata.resource_version = Some(version.clone());
                object.metadata.uid = Some(version);
                objects.push(Arc::new(object));
            }
            (Change::Replace { object, .. }, Some(number))
                if is(number, &object.metadata.resource_version) =>
            {
                let mut object = (**object).clone();
                object.metadata.resource_version = Some(version);
                objects[number] = Arc::new(object);
            }
            (Change::Move { status, version: expected, .. }, Some(number))
                if is(number, expected) =>
            {
                let object = Arc::make_mut(&mut objects[number]);
                object.metadata.resource_version = Some(version);
                object.status = Some((**status).clone());
            }
            (Change::Delete { uid, .. }, Some(number)) if *uid == objects[number].metadata.uid => {
                objects.remove(number);
            }
            _ if self.held.contains(&Kind::Assigned) => {}
            (change, _) => panic!("planned from an old view: {change:?}"),
        }
    }
}

fn node_name(number: usize) -> String {
    format!("node-{}", HOSTS[number])
}

fn recorded_host(record: &AzureIdentityAttachment) -> Option<Host> {
    Host::from_resource(&record.spec.host.parse().ok()?)
}
