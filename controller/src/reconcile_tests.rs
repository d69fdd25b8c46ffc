//! The loop with everything around it: caches that follow a small API server, and an ARM that
//! takes its time. Time is paused, so that durations are exact.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::crd::AzureIdentityAttachment;
use api::{AssignedState, AzureIdentity, AzureIdentityBinding, Host};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use runtime::Metrics;
use serde_json::{Value, json};
use tower_test::mock;

use super::*;
use crate::compute::{ArmError, HostIdentities, IdentityDelta, Patched};
use crate::host::{Entries, HostSettings, Immutable, Record, RecordError, Status};
use crate::report::events;
use crate::testing::{attached, binding, host, id, identity, node, pod};
use crate::watch::{BoundPod, CloudNode, follow};

const GET: Duration = Duration::from_millis(50);
const PATCH: Duration = Duration::from_secs(2);
const NAMES: [&str; 3] = ["db", "queue", "other"];

/// Everything around the loop. Clones are the same.
#[derive(Clone)]
struct World(Arc<Mutex<State>>);

struct State {
    pods: Writer<BoundPod>,
    nodes: Writer<CloudNode>,
    identities: Writer<AzureIdentity>,
    bindings: Writer<AzureIdentityBinding>,
    assigned: Writer<AzureAssignedIdentity>,
    attachments: Writer<AzureIdentityAttachment>,
    dirty: Dirty,
    version: u64,
    /// `METHOD last path segment` of every write to the API server.
    writes: Vec<String>,
    arm: BTreeMap<Host, BTreeSet<&'static str>>,
    arm_calls: Vec<String>,
    /// ARM lets nobody change anything.
    forbidden: bool,
    records: BTreeMap<Host, Record>,
}

impl World {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            pods: ready(),
            nodes: ready(),
            identities: ready(),
            bindings: ready(),
            assigned: ready(),
            attachments: ready(),
            dirty: Dirty::default(),
            version: 10,
            writes: Vec::new(),
            arm: BTreeMap::new(),
            arm_calls: Vec::new(),
            forbidden: false,
            records: BTreeMap::new(),
        })))
    }

    /// With one node, one identity and one binding.
    fn with_binding() -> Self {
        let world = Self::new();
        world.change(|state| {
            follow(&Event::Apply(node("n1", "a")), &mut state.nodes, &state.dirty);
            follow(&Event::Apply(identity("team", "db")), &mut state.identities, &state.dirty);
            let binding = binding("team", "b", "db", "sel");
            follow(&Event::Apply(binding), &mut state.bindings, &state.dirty);
        });
        world
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock());
    }

    fn add_pod(&self, name: &str) {
        let pod = pod("apps", name, "sel", "n1");
        self.change(|state| follow(&Event::Apply(pod), &mut state.pods, &state.dirty));
    }

    /// The states of all assignments.
    fn states(&self) -> Vec<AssignedState> {
        let objects = self.0.lock().assigned.as_reader().state();
        objects.iter().map(|object| object.state()).collect()
    }

    /// Status and reason of the identity's condition.
    fn condition(&self) -> (String, String) {
        let status = self.0.lock().identities.as_reader().state()[0].status.clone().unwrap();
        let ready = &status.conditions[0];
        (ready.status.clone(), ready.reason.clone())
    }

    fn writes(&self, prefix: &str) -> usize {
        self.0.lock().writes.iter().filter(|write| write.starts_with(prefix)).count()
    }

    /// Starts a leader.
    fn lead(&self) -> tokio::task::JoinHandle<Result<(), ReconcileError>> {
        let client = self.client();
        let metrics = ControllerMetrics::new(&Metrics::new("test", "0"));
        let (sender, publisher) = events(client.clone(), "me".to_owned(), metrics.clone());
        tokio::spawn(publisher.run());
        let state = self.0.lock();
        let stores = Stores {
            pods: state.pods.as_reader(),
            nodes: state.nodes.as_reader(),
            identities: state.identities.as_reader(),
            bindings: state.bindings.as_reader(),
            assigned: state.assigned.as_reader(),
            attachments: state.attachments.as_reader(),
        };
        let clock = Clock::start();
        let settings = HostSettings {
            linger: Duration::from_secs(300),
            recheck: Duration::from_secs(180),
            immutable: Immutable::default(),
        };
        let hosts = HostContext {
            compute: Arc::new(self.clone()),
            records: self.clone(),
            settings: Arc::new(settings),
            claims: tokio::sync::watch::channel(Arc::default()).1,
            leadership: Leadership::for_ever(),
            sign_in: crate::host::SignIn::default(),
            throttles: crate::host::Throttles::default(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            dirty: state.dirty.clone(),
        };
        let around = Surroundings {
            client,
            stores,
            dirty: state.dirty.clone(),
            events: sender,
            metrics,
            clock,
            scope: Scope::Cluster,
        };
        tokio::spawn(Reconciler::new(around, Leadership::for_ever(), hosts).run())
    }

    fn client(&self) -> Client {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let world = self.clone();
        tokio::spawn(async move {
            while let Some((request, send)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let sent = serde_json::from_slice(&body).unwrap_or_default();
                let (code, answer) = world.serve(&parts.method, parts.uri.path(), sent);
                let body = Body::from(answer.to_string().into_bytes());
                send.send_response(Response::builder().status(code).body(body).unwrap());
            }
        });
        Client::new(service, "default")
    }

    /// Stores what is written, and lets the caches follow.
    fn serve(&self, method: &Method, path: &str, sent: Value) -> (u16, Value) {
        let state = &mut *self.0.lock();
        let last = path.rsplit('/').next().unwrap_or_default();
        let kind = path.split('/').nth(6).unwrap_or_default();
        state.writes.push(format!("{method} {kind}"));
        state.version += 1;
        let version = state.version.to_string();
        match (kind, method) {
            ("azureassignedidentities", &Method::DELETE) => {
                let Some(object) = state.find(last) else { return (404, failure(404, "NotFound")) };
                follow(&Event::Delete(object), &mut state.assigned, &state.dirty);
                (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            ("azureassignedidentities", method) => {
                let mut json = match (method, state.find(last)) {
                    (&Method::PATCH, Some(object)) => serde_json::to_value(object).unwrap(),
                    (&Method::PATCH, None) => return (404, failure(404, "NotFound")),
                    _ => sent.clone(),
                };
                if *method == Method::PATCH {
                    json["status"] = sent["status"].clone();
                } else {
                    json["metadata"]["uid"] = version.as_str().into();
                }
                json["metadata"]["resourceVersion"] = version.into();
                let object = serde_json::from_value(json.clone()).unwrap();
                follow(&Event::Apply(object), &mut state.assigned, &state.dirty);
                (200, json)
            }
            ("azureidentities", _) => {
                let mut object = identity("team", "db");
                object.status = serde_json::from_value(sent["status"].clone()).unwrap();
                let json = serde_json::to_value(&object).unwrap();
                follow(&Event::Apply(object), &mut state.identities, &state.dirty);
                (200, json)
            }
            ("azureidentitybindings", _) => {
                let mut object = binding("team", "b", "db", "sel");
                object.status = serde_json::from_value(sent["status"].clone()).unwrap();
                let json = serde_json::to_value(&object).unwrap();
                follow(&Event::Apply(object), &mut state.bindings, &state.dirty);
                (200, json)
            }
            _ => (201, sent),
        }
    }
}

impl State {
    fn find(&self, name: &str) -> Option<AzureAssignedIdentity> {
        let objects = self.assigned.as_reader().state();
        let found = objects.iter().find(|object| crate::watch::name(&object.metadata) == name);
        found.map(|object| (**object).clone())
    }
}

fn ready<K: crate::watch::Cached>() -> Writer<K> {
    let mut writer = Writer::new(());
    writer.apply_watcher_event(&Event::Init);
    writer.apply_watcher_event(&Event::InitDone);
    writer
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "code": code, "message": reason})
}

impl Compute for World {
    async fn get(&self, host: &Host) -> Result<HostIdentities, ArmError> {
        tokio::time::sleep(GET).await;
        let mut state = self.0.lock();
        state.arm_calls.push(format!("get {}", host.id().name()));
        Ok(attached(state.arm.get(host).into_iter().flatten().copied()))
    }

    async fn patch(
        &self,
        host: &Host,
        _: &HostIdentities,
        delta: &IdentityDelta,
    ) -> Result<Patched, ArmError> {
        tokio::time::sleep(PATCH).await;
        let mut state = self.0.lock();
        state.arm_calls.push(format!("patch {}", host.id().name()));
        if state.forbidden {
            return Err(ArmError::Forbidden { message: "denied".to_owned(), remedy: None });
        }
        let names = state.arm.entry(host.clone()).or_default();
        names.retain(|name| !delta.detach.contains(&id(name)));
        names.extend(NAMES.iter().filter(|name| delta.attach.contains(&id(name))));
        Ok(attached(names.iter().copied()).into())
    }
}

impl Records for World {
    async fn load(&self, host: &Host) -> Result<Record, RecordError> {
        Ok(self.0.lock().records.get(host).cloned().unwrap_or_default())
    }

    async fn save(
        &self,
        host: &Host,
        entries: &Entries,
        _: Option<&str>,
    ) -> Result<Record, RecordError> {
        let version = (!entries.is_empty()).then(|| "1".to_owned());
        let record = Record { entries: entries.clone(), version, status: None };
        self.0.lock().records.insert(host.clone(), record.clone());
        Ok(record)
    }

    async fn tell(
        &self,
        host: &Host,
        status: &Status,
        version: &str,
    ) -> Result<String, RecordError> {
        let mut state = self.0.lock();
        state.writes.push("PATCH azureidentityattachments".to_owned());
        state.records.entry(host.clone()).or_default().status = Some(status.clone());
        Ok(version.to_owned())
    }
}

async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_assigned_as_soon_as_arm_has_attached_its_identity() {
    let world = World::with_binding();
    let leader = world.lead();
    world.add_pod("web");
    pass(Duration::from_millis(20)).await;
    assert_eq!(world.states(), [AssignedState::Created]);
    pass(GET + PATCH).await;
    assert_eq!(world.states(), [AssignedState::Assigned]);
    assert_eq!(world.0.lock().arm_calls, ["get a", "patch a"]);
    let writes = ["POST azureassigned", "PATCH azureassigned"].map(|kind| world.writes(kind));
    assert_eq!(writes, [1, 1]);

    world.add_pod("web-2");
    pass(Duration::from_millis(20)).await;
    assert_eq!(world.states(), [AssignedState::Assigned; 2]);
    let writes = ["POST azureassigned", "PATCH azureassigned"].map(|kind| world.writes(kind));
    assert_eq!(writes, [2, 1], "one write where the identity is attached");
    leader.abort();
}

#[tokio::test(start_paused = true)]
async fn a_burst_costs_one_get_and_one_patch() {
    let world = World::with_binding();
    let leader = world.lead();
    (0..600).for_each(|number| world.add_pod(&format!("web-{number}")));
    pass(GET + PATCH + Duration::from_secs(1)).await;
    assert_eq!(world.states(), [AssignedState::Assigned; 600]);
    assert_eq!(world.0.lock().arm_calls, ["get a", "patch a"]);
    assert_eq!(world.writes("POST azureassigned"), 600, "no object is written twice");
    assert!(world.writes("PATCH azureassigned") <= 600);
    let statuses = world.writes("PATCH azureidentities");
    assert!(statuses <= 3, "{statuses} writes of one status");
    pass(Duration::from_secs(1)).await;
    assert_eq!(world.writes("PATCH azureidentityattachments"), 1, "the host is told of once");
    leader.abort();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_when_nothing_changes() {
    let world = World::with_binding();
    let leader = world.lead();
    world.add_pod("web");
    pass(Duration::from_secs(30)).await;
    let before = world.0.lock().writes.len();
    pass(Duration::from_secs(600)).await;
    assert_eq!(world.0.lock().writes.len(), before, "{:?}", world.0.lock().writes);
    let status = world.0.lock().identities.as_reader().state()[0].status.clone().unwrap();
    assert_eq!((status.pods, status.conditions[0].reason.as_str()), (1, "Assigned"));
    leader.abort();
}

#[tokio::test(start_paused = true)]
async fn what_an_upgrade_took_away_is_said_and_the_pods_keep_their_right() {
    let world = World::with_binding();
    let leader = world.lead();
    (0..20).for_each(|number| world.add_pod(&format!("web-{number}")));
    pass(Duration::from_secs(30)).await;
    assert_eq!(world.condition(), ("True".to_owned(), "Assigned".to_owned()));
    let objects = world.writes("PATCH azureassigned");

    world.change(|state| {
        state.arm.clear();
        state.forbidden = true;
    });
    pass(Duration::from_secs(200)).await;
    assert_eq!(world.condition(), ("False".to_owned(), "HostNotReady".to_owned()));
    assert_eq!(world.states(), [AssignedState::Assigned; 20]);
    assert_eq!(world.writes("POST events"), 20 + 20, "one warning a pod");
    let (told, asked) = (world.writes("PATCH azureidentities"), world.0.lock().arm_calls.len());
    pass(Duration::from_secs(1800)).await;
    let asked = world.0.lock().arm_calls.len() - asked;
    let told = world.writes("PATCH azureidentities") - told;
    assert!(told <= asked, "{told} writes of one status after {asked} calls to ARM");
    assert_eq!(world.writes("POST events"), 20 + 20, "said once");

    world.change(|state| state.forbidden = false);
    pass(Duration::from_secs(400)).await;
    assert_eq!(world.condition(), ("True".to_owned(), "Assigned".to_owned()));
    assert_eq!(world.states(), [AssignedState::Assigned; 20]);
    assert_eq!(world.writes("PATCH azureassigned"), objects, "nothing to write to any object");
    leader.abort();
}

#[tokio::test(start_paused = true)]
async fn a_deleted_binding_ends_the_assignment_at_once_and_the_attachment_later() {
    let world = World::with_binding();
    let leader = world.lead();
    world.add_pod("web");
    pass(Duration::from_secs(5)).await;
    let binding = binding("team", "b", "db", "sel");
    world.change(|state| follow(&Event::Delete(binding), &mut state.bindings, &state.dirty));
    pass(Duration::from_millis(20)).await;
    assert_eq!(world.states(), []);
    assert!(world.0.lock().arm[&host("a")].contains("db"), "it lingers");
    pass(Duration::from_secs(310)).await;
    assert!(world.0.lock().arm[&host("a")].is_empty());
    assert!(world.0.lock().records[&host("a")].entries.is_empty());
    leader.abort();
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_takes_over_without_touching_what_is_right() {
    let world = World::with_binding();
    let leader = world.lead();
    world.add_pod("web");
    pass(Duration::from_secs(5)).await;
    leader.abort();
    let before = world.writes("");
    let arm = world.0.lock().arm_calls.len();
    let leader = world.lead();
    pass(Duration::from_secs(30)).await;
    assert_eq!(world.writes(""), before);
    assert_eq!(world.0.lock().arm_calls[arm..], ["get a"]);
    leader.abort();
}
