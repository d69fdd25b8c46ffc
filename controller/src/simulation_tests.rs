//! A cluster, its hosts and a controller in one value: random events, failures and crashes in any
//! order, after which what is attached has to be what is needed.
//!
//! Uses the real decisions (`ledger` and what it asks, `plan`, `HostModel`) and a model of everything
//! around them. What is decided again after a change must be what would be decided from scratch.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::crd::{AzureIdentityAttachment, AzureIdentityAttachmentSpec};
use api::{AssignedState, Host, IdentityId};
use jiff::Timestamp;
use proptest::prelude::*;

use crate::clock::{after, since};
use crate::compute::{ArmError, IdentityDelta, Patched};
use crate::host::{Entries, HostModel, HostSettings, Immutable, Record, RecordError, Status, Step};
use crate::plan::Change;
use crate::snapshot::{Snapshot, key};
use crate::testing::{Engine, attached, binding, host, id, identity, node, pod};

const LINGER: Duration = Duration::from_secs(300);
const IDENTITIES: [&str; 4] = ["i0", "i1", "i2", "i3"];
const HOSTS: [&str; 3] = ["h0", "h1", "h2"];

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Op {
    AddPod {
        pod: usize,
        label: usize,
        host: usize,
    },
    DeletePod(usize),
    FinishPod(usize),
    AddBinding {
        binding: usize,
        identity: usize,
        label: usize,
    },
    DeleteBinding(usize),
    AddIdentity(usize),
    /// The object of one name leads to the Azure identity of another.
    EditIdentity {
        identity: usize,
        resource: usize,
    },
    DeleteIdentity(usize),
    /// Somebody else attaches or detaches an Azure identity.
    OthersAttach {
        host: usize,
        resource: usize,
    },
    OthersDetach {
        host: usize,
        resource: usize,
    },
    /// The VM or scale set and its nodes are deleted.
    DeleteHost(usize),
    Forbid(usize),
    Allow(usize),
    FailArm {
        after_effect: bool,
    },
    FailRecord {
        after_effect: bool,
    },
    /// Somebody else writes the record without changing what it says is ours.
    OthersTouchRecord(usize),
    /// ARM takes so long with each change from now on, or no longer, that it is told of meanwhile.
    SlowArm(bool),
    FailWrite,
    Crash,
    Advance(u64),
    Work(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let (four, three, two) = (0..4_usize, 0..3_usize, 0..2_usize);
    prop_oneof![
        4 => (four.clone(), two.clone(), three.clone())
            .prop_map(|(pod, label, host)| Op::AddPod { pod, label, host }),
        2 => four.clone().prop_map(Op::DeletePod),
        1 => four.clone().prop_map(Op::FinishPod),
        3 => (three.clone(), four.clone(), two)
            .prop_map(|(binding, identity, label)| Op::AddBinding { binding, identity, label }),
        1 => three.clone().prop_map(Op::DeleteBinding),
        4 => four.clone().prop_map(Op::AddIdentity),
        1 => (four.clone(), four.clone())
            .prop_map(|(identity, resource)| Op::EditIdentity { identity, resource }),
        1 => four.clone().prop_map(Op::DeleteIdentity),
        1 => (three.clone(), four.clone())
            .prop_map(|(host, resource)| Op::OthersAttach { host, resource }),
        1 => (three.clone(), four.clone())
            .prop_map(|(host, resource)| Op::OthersDetach { host, resource }),
        1 => three.clone().prop_map(Op::DeleteHost),
        1 => three.prop_map(Op::OthersTouchRecord),
        1 => any::<bool>().prop_map(Op::SlowArm),
        1 => four.clone().prop_map(Op::Forbid),
        1 => four.prop_map(Op::Allow),
        1 => any::<bool>().prop_map(|after_effect| Op::FailArm { after_effect }),
        1 => any::<bool>().prop_map(|after_effect| Op::FailRecord { after_effect }),
        1 => Just(Op::FailWrite),
        2 => Just(Op::Crash),
        3 => (1..400_u64).prop_map(Op::Advance),
        5 => (1..6_usize).prop_map(Op::Work),
    ]
}

struct World {
    cluster: Snapshot,
    counter: u64,
    now: Timestamp,
    hosts: BTreeMap<Host, Machine>,
    records: BTreeMap<Host, Stored>,
    slow_arm: bool,
    forbidden: BTreeSet<IdentityId>,
    /// Failures of the next call to ARM, to the records: whether it takes effect all the same.
    arm_fault: Option<bool>,
    record_fault: Option<bool>,
    write_fault: bool,
    models: BTreeMap<Host, HostModel>,
    /// What the leader decided, change by change.
    engine: Engine,
}

/// What each host's pods need.
type Needs = BTreeMap<Host, BTreeSet<IdentityId>>;

/// A record.
#[derive(Clone)]
struct Stored {
    entries: Entries,
    version: u64,
    status: Option<Status>,
}

/// A VM or scale set as ARM knows it.
#[derive(Default)]
struct Machine {
    attached: BTreeSet<&'static str>,
    /// Those that others attached.
    foreign: BTreeSet<&'static str>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            cluster: Snapshot::default(),
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
        let name = HOSTS[number];
        if let Entry::Vacant(vacant) = self.hosts.entry(host(name)) {
            vacant.insert(Machine::default());
            self.cluster.nodes.push(Arc::new(node(&format!("node-{name}"), name)));
        }
    }

    fn happen(&mut self, op: Op) {
        match op {
            Op::AddPod { pod: number, label, host } => {
                self.happen(Op::DeletePod(number));
                self.add_host(host);
                let node = format!("node-{}", HOSTS[host]);
                let mut pod = pod("apps", &format!("p{number}"), &format!("l{label}"), &node);
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
            Op::DeleteHost(number) => {
                self.hosts.remove(&host(HOSTS[number]));
                let name = format!("node-{}", HOSTS[number]);
                self.cluster.nodes.retain(|node| key(&**node).1 != name);
                self.cluster.pods.retain(|pod| pod.node() != name);
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
            }
            Op::Advance(seconds) => self.now = after(self.now, Duration::from_secs(seconds)),
            Op::Work(steps) => (0..steps).for_each(|_| _ = self.work()),
            _ => unreachable!("handled by `happen`"),
        }
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
    fn others_attach(&mut self, number: usize, resource: usize) {
        let (host, name) = (host(HOSTS[number]), IDENTITIES[resource]);
        let recorded = self.records.get(&host).is_some_and(|it| it.entries.contains_key(&id(name)));
        let Some(machine) = self.hosts.get_mut(&host) else { return };
        if machine.attached.insert(name) && !recorded {
            machine.foreign.insert(name);
        }
    }

    fn fresh(&mut self) -> String {
        self.counter += 1;
        self.counter.to_string()
    }

    /// One cycle of the leader and one step of every host. Returns when to come back, if nobody
    /// had anything to do.
    fn work(&mut self) -> Option<Timestamp> {
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

    /// Everything decided from scratch.
    fn scratch(&self) -> Engine {
        let mut engine = Engine::default();
        self.show_hosts(&mut engine);
        engine.follow(&self.cluster);
        engine
    }

    fn show_hosts(&self, engine: &mut Engine) {
        for name in HOSTS {
            let view = self.models.get(&host(name)).map(|model| Arc::new(model.view()));
            engine.see(&host(name), view);
        }
    }

    fn needs(&self) -> Needs {
        self.scratch().ledger.needs()
    }

    /// Lets the leader decide what changed, and sees that it comes to what all of it comes to.
    fn decide(&mut self) {
        let mut engine = std::mem::take(&mut self.engine);
        self.show_hosts(&mut engine);
        engine.follow(&self.cluster);
        let scratch = self.scratch();
        assert_eq!(engine.ledger.decisions(), scratch.ledger.decisions());
        assert_eq!(engine.changes(), scratch.changes());
        self.engine = engine;
    }

    fn cycle(&mut self) -> Vec<Change> {
        self.decide();
        let changes = self.engine.changes();
        let (needs, recorded) = (self.engine.ledger.needs(), self.records.keys().cloned());
        let recorded: BTreeSet<Host> = recorded.collect();
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
        match (change, found) {
            (Change::Create(object), None) => {
                let mut object = (**object).clone();
                object.metadata.resource_version = Some(version.clone());
                object.metadata.uid = Some(version);
                objects.push(Arc::new(object));
            }
            (Change::Replace { object, .. }, Some(number)) => {
                let mut object = (**object).clone();
                object.metadata.resource_version = Some(version);
                objects[number] = Arc::new(object);
            }
            (Change::Move { status, .. }, Some(number)) => {
                let object = Arc::make_mut(&mut objects[number]);
                object.metadata.resource_version = Some(version);
                object.status = Some((**status).clone());
            }
            (Change::Delete { .. }, Some(number)) => drop(objects.remove(number)),
            (change, _) => panic!("planned from an old view: {change:?}"),
        }
    }

    fn execute(&mut self, host: &Host, model: &mut HostModel, step: Step) {
        match step {
            Step::Load => match self.record_fault.take() {
                Some(_) => model.on_record_error(&unavailable(), self.now),
                None => model.on_loaded(self.record(host)),
            },
            Step::Save(entries, version) => {
                let result = self.save(host, entries, version.as_deref());
                match result {
                    Ok(record) => model.on_saved(record),
                    Err(error) => model.on_record_error(&error, self.now),
                }
            }
            Step::Get => {
                if self.arm_fault.take().is_some() {
                    return model.on_get_error(&timed_out(), self.now);
                }
                match self.hosts.get(host) {
                    Some(machine) => {
                        model.on_identities(attached(machine.attached.iter().copied()), self.now);
                    }
                    None => model.on_get_error(&gone(host), self.now),
                }
            }
            Step::Patch(_, delta) => {
                if let (true, Some((status, version))) =
                    (self.slow_arm, model.say_meanwhile(self.now))
                {
                    self.tell(host, model, status, &version);
                }
                match self.patch(host, &delta) {
                    Ok(patched) => model.on_patched(patched, &delta, self.now),
                    Err(error) => model.on_patch_error(&error, &delta, self.now),
                }
            }
            Step::Tell(status, version) => self.tell(host, model, (*status).clone(), &version),
            Step::Wait(_) | Step::Done => unreachable!("nothing to execute"),
        }
    }

    fn record(&self, host: &Host) -> Record {
        match self.records.get(host) {
            Some(Stored { entries, version, status }) => Record {
                entries: entries.clone(),
                version: Some(version.to_string()),
                status: status.clone(),
            },
            None => Record::default(),
        }
    }

    fn tell(&mut self, host: &Host, model: &mut HostModel, status: Status, version: &str) {
        let fault = self.record_fault.take();
        self.counter += 1;
        let stored = self.records.get_mut(host);
        match stored.filter(|stored| fault != Some(false) && stored.version.to_string() == version)
        {
            Some(stored) => {
                assert!(!says(stored.status.as_ref(), &status), "it says so already: {status:?}");
                stored.version = self.counter;
                stored.status = Some(status.clone());
            }
            None => return model.on_tell_error(&unavailable(), self.now),
        }
        match fault {
            Some(_) => model.on_tell_error(&unavailable(), self.now),
            None => model.on_told(status, self.counter.to_string()),
        }
    }

    fn save(
        &mut self,
        host: &Host,
        entries: Entries,
        version: Option<&str>,
    ) -> Result<Record, RecordError> {
        let fault = self.record_fault.take();
        if fault == Some(false) {
            return Err(unavailable());
        }
        if self.record(host).version.as_deref() != version {
            return Err(RecordError::Conflict);
        }
        self.counter += 1;
        if entries.is_empty() {
            self.records.remove(host);
        } else {
            let status = self.record(host).status;
            let stored = Stored { entries, version: self.counter, status };
            self.records.insert(host.clone(), stored);
        }
        self.cluster.attachments = self.records.keys().map(attachment).collect();
        if fault == Some(true) { Err(unavailable()) } else { Ok(self.record(host)) }
    }

    fn patch(&mut self, host: &Host, delta: &IdentityDelta) -> Result<Patched, ArmError> {
        let recorded = self.record(host).entries;
        let needed = self.needs().remove(host).unwrap_or_default();
        for id in &delta.attach {
            assert!(recorded.contains_key(id), "{id} is attached before it is recorded");
        }
        for id in &delta.detach {
            assert!(!needed.contains(id), "{id} is detached but needed");
            let unused = recorded.get(id).copied().flatten();
            let lingered = unused.map(|at| since(self.now, at));
            assert!(lingered >= Some(LINGER), "{id} is detached after {lingered:?}");
        }
        let fault = self.arm_fault.take();
        let refused: Vec<IdentityId> =
            delta.attach.intersection(&self.forbidden).cloned().collect();
        let Some(machine) = self.hosts.get_mut(host) else { return Err(gone(host)) };
        if fault.is_some() {
            // Nobody knows any more which of it was there before.
            machine.foreign.retain(|name| !delta.attach.contains(&id(name)));
        }
        if fault == Some(false) {
            return Err(timed_out());
        }
        if !refused.is_empty() {
            return Err(ArmError::IdentityRefused {
                identities: refused,
                code: "LinkedAuthorizationFailed".to_owned(),
                message: "forbidden".to_owned(),
                remedy: None,
            });
        }
        let there = machine.attached.iter().map(|name| id(name));
        let found = there.filter(|id| delta.attach.contains(id)).collect();
        for name in IDENTITIES {
            if delta.detach.contains(&id(name)) {
                assert!(!machine.foreign.contains(name), "{name} belongs to others");
                machine.attached.remove(name);
            }
            if delta.attach.contains(&id(name)) {
                machine.attached.insert(name);
            }
        }
        let identities = attached(machine.attached.iter().copied());
        if fault == Some(true) { Err(timed_out()) } else { Ok(Patched { identities, found }) }
    }

    /// Lets everything come to rest, with nothing in its way any more.
    fn rest(&mut self) {
        self.forbidden.clear();
        self.pass();
    }

    /// Lets time pass in which nothing new happens.
    fn pass(&mut self) {
        (self.arm_fault, self.record_fault, self.write_fault) = (None, None, false);
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

fn unavailable() -> RecordError {
    RecordError::Unavailable("test".to_owned())
}

fn timed_out() -> ArmError {
    ArmError::TimedOut { after: Duration::from_secs(1) }
}

fn gone(host: &Host) -> ArmError {
    ArmError::HostNotFound { host: host.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_events_what_is_attached_is_what_is_needed(
        ops in proptest::collection::vec(op(), 1..80),
    ) {
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
}
