//! A second replica waits while the first leads. It begins when the first cannot write any more: not
//! before the claim of a dead one has run out, and at once after one that left. A first that slept
//! through the end of its claim writes nothing when it wakes.
//!
//! Each has a user and an application of its own: who wrote and who asked Azure is seen in the API
//! server's audit log and in the journal of fake Azure.

use std::time::{Duration, Instant};

use fake_azure::journal::Entry;
use fake_azure::seed;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::control_plane::{ControlPlane, USERS, free_ports};
use crate::story::{Scene, Story};
use crate::subject::{PROGRAMS, Setting, Subject, application};
use crate::{Stage, eventually};

/// Where the first dies while it holds the lease.
const DEATHS: [&str; 3] = ["attach.before", "attach.after", "detach.after"];
/// Where it falls asleep.
const SLEEPS: [&str; 3] = ["detach.before", "attach.before", "assigned_move.before"];

const CLAIM: Duration = Duration::from_secs(5);
/// How long after the end of a claim another one has it: it looks every other second.
const TAKEOVER: Duration = Duration::from_secs(10);
/// The default, so that nothing but giving it back makes a hand-over quick.
const LONG_CLAIM: Duration = Duration::from_secs(15);
const HANDOVER: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(40);

/// As which application the second asks Azure.
const SECOND_APP: (&str, &str) =
    ("40000000-0000-0000-0000-0000000000b2", "not-a-secret-second-controller");

/// Two replicas, and what happens around them.
struct Pair<'a> {
    story: Story<'a>,
    plane: &'a ControlPlane,
    one: Setting<'a>,
    two: Setting<'a>,
}

/// A replica's hold on the lease.
#[derive(Debug)]
struct Claim {
    since: Timestamp,
    ends: Timestamp,
    transitions: i32,
}

// === impl Claim ===

impl Claim {
    fn read(lease: &LeaseSpec) -> Self {
        let seconds = u64::try_from(lease.lease_duration_seconds.unwrap()).unwrap();
        Self {
            since: lease.acquire_time.as_ref().unwrap().0,
            ends: lease.renew_time.as_ref().unwrap().0 + Duration::from_secs(seconds),
            transitions: lease.lease_transitions.unwrap(),
        }
    }
}

// === impl Pair ===

impl<'a> Pair<'a> {
    fn new(stage: &'a Stage, lease: Duration) -> Self {
        let program = &PROGRAMS.mortal;
        let [first, second] = free_ports();
        let replica = |name, admin, (client, secret): (&str, &str)| Setting {
            kubeconfig: stage.plane.kubeconfig(name),
            log: stage.dir.path().join(name),
            instance: name,
            lease,
            admin,
            credential: application(client, secret),
            ..stage.setting(program)
        };
        Self {
            story: stage.story(),
            plane: &stage.plane,
            one: replica(USERS[1], first, (seed::CONTROLLER_APP, seed::CONTROLLER_APP_SECRET)),
            two: replica(USERS[2], second, SECOND_APP),
        }
    }

    // === the cases ===

    async fn a_dead_leader_is_replaced_when_its_claim_has_run_out(&self, point: &str) {
        let begin = self.prepare().await;
        let mut one = self.leads(Subject::start(&self.one, point)).await;
        let mut two = self.waits(Subject::start(&self.two, "")).await;
        let scene = self.provoke(point, &mut one).await;
        eventually("the first dies", LIMIT, async || one.has_died().then_some(())).await;

        self.second_takes_over(begin).await;
        self.story.comes_to("the second goes on", &scene, &mut two).await;
        self.all_go(&scene, &mut two).await;
        two.end();
    }

    async fn a_leader_that_slept_writes_nothing_when_it_wakes(&self, point: &str) {
        let begin = self.prepare().await;
        let mut one = self.leads(Subject::start_sleepy(&self.one, point)).await;
        let mut two = self.waits(Subject::start(&self.two, "")).await;
        let mut scene = self.provoke(point, &mut one).await;
        eventually("the first sleeps", LIMIT, async || one.sleeps().then_some(())).await;
        if point.starts_with("detach") {
            // What it was about to detach is needed again, and nothing in Azure shows that.
            scene = self.story.some_pods_return().await;
        }
        let between = self.second_takes_over(begin).await;
        self.story.comes_to("the second goes on", &scene, &mut two).await;

        let woken = Timestamp::now();
        one.wake();
        eventually("the first steps down", LIMIT, async || {
            let page = self.story.world.page(self.one.admin, "metrics").await?;
            page.lines().any(|line| line == "podidentity_leader 0").then_some(())
        })
        .await;
        two.end();
        let again = self.claim_of(&self.one).await;
        assert_eq!(again.transitions, between.transitions + 1);
        let did = self.did(&self.one, woken, again.since).await;
        assert!(did.is_empty(), "after it woke: {did:#?}\n{}", one.log());
        self.story.comes_to("the first leads again", &scene, &mut one).await;
        let detached = self.story.detached().await;
        assert!(detached.is_empty(), "detached while it was needed: {detached:?}");
        self.all_go(&scene, &mut one).await;
        one.end();
    }

    async fn a_leader_that_leaves_is_replaced_at_once(&self) {
        self.prepare().await;
        let mut one = self.leads(Subject::start(&self.one, "")).await;
        let mut two = self.waits(Subject::start(&self.two, "")).await;
        let scene = self.story.pods_come().await;
        self.story.comes_to("pods came", &scene, &mut one).await;
        let left = Instant::now();
        one.end();
        let scene = self.story.another_pod_comes().await;
        self.story.comes_to("the second goes on", &scene, &mut two).await;
        let took = left.elapsed();
        eprintln!("handed over, and a pod that came meanwhile served: {:.2} s", took.as_secs_f64());
        assert!(took < HANDOVER, "{took:?}");

        let changes = self.changes().await;
        let attached: usize = changes.iter().map(|change| change.attached.len()).sum();
        assert_eq!((changes.len(), attached), (3, 4), "{changes:#?}");
        let calls = self.story.world.journal("arm").await;
        let on_nodes = |call: &&Entry| {
            call.client_id.as_deref() == Some(SECOND_APP.0)
                && call.host.as_ref().is_some_and(|host| host.name() == "nodes")
        };
        let asked: Vec<_> = calls.iter().filter(on_nodes).map(|call| &call.method).collect();
        assert_eq!(asked, ["GET"], "it looks at what the first left, once");
        two.end();
    }

    /// ARM goes on with what it was asked, and refuses everything else until then.
    async fn what_a_leader_leaves_unfinished_is_not_done_twice(&self) {
        self.prepare().await;
        let slow = json!({"operations": {"async": true, "duration_ms": 3000}});
        self.story.world.set_faults(&slow).await;
        let mut one = self.leads(Subject::start(&self.one, "")).await;
        let mut two = self.waits(Subject::start(&self.two, "")).await;
        let scene = self.story.pods_come().await;
        eventually("ARM works on both hosts", LIMIT, async || {
            (self.changes().await.len() == 2).then_some(())
        })
        .await;
        one.end();
        self.story.comes_to("the second goes on", &scene, &mut two).await;
        let mut changes = self.changes().await;
        changes.retain(|change| change.status < 300);
        assert_eq!(changes.len(), 2, "{changes:#?}");
        self.story.world.set_faults(&json!({})).await;
        self.all_go(&scene, &mut two).await;
        two.end();
    }

    // === steps ===

    /// Nothing of an earlier case, and since when.
    async fn prepare(&self) -> Timestamp {
        for setting in [&self.one, &self.two] {
            drop(std::fs::remove_file(&setting.log));
        }
        self.story.prepare().await;
        let (client, secret) = SECOND_APP;
        let app = json!({"client_id": client, "secrets": [secret]});
        self.story.world.post("apps", &app).await;
        Timestamp::now()
    }

    async fn leads<'s>(&self, subject: Subject<'s>) -> Subject<'s> {
        self.claim_of(&self.one).await;
        subject
    }

    /// Everything that a leader needs is in its caches.
    async fn waits<'s>(&self, subject: Subject<'s>) -> Subject<'s> {
        let port = self.two.admin;
        eventually("the second is ready", LIMIT, async || {
            self.story.world.page(port, "readyz").await
        })
        .await;
        subject
    }

    /// Brings the first to the point, and says what has to come true.
    async fn provoke(&self, point: &str, one: &mut Subject<'_>) -> Scene {
        let scene = self.story.pods_come().await;
        if !point.starts_with("detach") {
            return scene;
        }
        self.story.comes_to("pods came", &scene, one).await;
        self.story.some_pods_go().await
    }

    /// The second begins, and has done nothing while the first might have.
    async fn second_takes_over(&self, begin: Timestamp) -> Claim {
        let lease = self.story.world.lease().await.unwrap();
        assert_eq!(lease.holder_identity.as_deref(), Some(self.one.instance));
        let before = Claim::read(&lease);
        let now = self.claim_of(&self.two).await;
        assert_eq!(now.transitions, before.transitions + 1, "{before:?} {now:?}");
        assert!(before.ends <= now.since, "too early: {before:?} {now:?}");
        assert!(now.since < before.ends + TAKEOVER, "too late: {before:?} {now:?}");
        let early = self.did(&self.two, begin, before.ends).await;
        assert!(early.is_empty(), "before the claim had run out: {early:#?}");
        let wait = now.since.duration_since(before.ends).as_secs_f64();
        eprintln!("taken over {wait:.2} s after the claim had run out");
        now
    }

    async fn all_go(&self, scene: &Scene, subject: &mut Subject<'_>) {
        if *scene == Story::all_pods() {
            let scene = self.story.some_pods_go().await;
            self.story.comes_to("some pods went", &scene, subject).await;
        }
        let detached = self.story.detached().await;
        assert!(detached.iter().all(|it| it.starts_with("nodes ")), "while needed: {detached:?}");
        let scene = self.story.the_last_pod_goes().await;
        self.story.comes_to("all pods went", &scene, subject).await;
        let detached = self.story.detached().await;
        assert!(!detached.iter().any(|it| it.contains("agentpool")), "another's: {detached:?}");
        assert!(self.story.has_system_identity().await);
    }

    // === looking ===

    async fn claim_of(&self, replica: &Setting<'_>) -> Claim {
        eventually(&format!("{} leads", replica.instance), LIMIT, async || {
            let lease = self.story.world.lease().await?;
            (lease.holder_identity.as_deref() == Some(replica.instance))
                .then(|| Claim::read(&lease))
        })
        .await
    }

    /// The writes that ARM was asked for, also those that it refused.
    async fn changes(&self) -> Vec<Entry> {
        let mut calls = self.story.world.journal("arm").await;
        calls.retain(|call| call.method != "GET");
        calls
    }

    /// What a replica began to write, and to ask of Azure, in this time.
    async fn did(&self, replica: &Setting<'_>, from: Timestamp, to: Timestamp) -> Vec<String> {
        let mut all: Vec<(Timestamp, String)> = Vec::new();
        for write in self.plane.writes(replica.instance) {
            all.push((write.at, write.request));
        }
        let (_, client) = replica.credential.iter().find(|(name, _)| *name == "CLIENT_ID").unwrap();
        for service in ["entra", "arm"] {
            for entry in self.story.world.journal(service).await {
                let began = i64::try_from(entry.time_ms - entry.duration_ms).unwrap();
                // Whose a request was that was cut off early, nobody knows.
                if entry.client_id.as_ref().is_none_or(|id| id == client) {
                    let what = format!("{} {}", entry.method, entry.path);
                    all.push((Timestamp::from_millisecond(began).unwrap(), what));
                }
            }
        }
        all.retain(|(at, _)| (from..to).contains(at));
        all.sort();
        all.into_iter().map(|(at, what)| format!("{at} {what}")).collect()
    }
}

/// Prints how long a case took.
async fn timed(what: &str, case: impl Future<Output = ()>) {
    let start = Instant::now();
    case.await;
    eprintln!("{what}: {:.1} s", start.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_of_two_replicas_writes_at_any_time() {
    let only = std::env::var("FAULT_POINT").unwrap_or_default();
    let stage = Stage::set().await;
    let pair = Pair::new(&stage, CLAIM);
    for point in DEATHS.into_iter().filter(|point| point.contains(&only)) {
        let case = pair.a_dead_leader_is_replaced_when_its_claim_has_run_out(point);
        timed(&format!("{point}, with a standby"), case).await;
    }
    for point in SLEEPS.into_iter().filter(|point| point.contains(&only)) {
        let case = pair.a_leader_that_slept_writes_nothing_when_it_wakes(point);
        timed(&format!("{point}, asleep"), case).await;
    }
    let pair = Pair::new(&stage, LONG_CLAIM);
    if only.is_empty() || only == "SIGTERM" {
        timed("SIGTERM", pair.a_leader_that_leaves_is_replaced_at_once()).await;
        let case = pair.what_a_leader_leaves_unfinished_is_not_done_twice();
        timed("SIGTERM in the middle", case).await;
    }
}
