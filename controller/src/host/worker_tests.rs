//! A worker against an ARM and a record store that fail on demand, dropped at every step.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use runtime::Metrics;
use tokio::time::Instant;

use super::*;
use crate::compute::{ArmError, Patched, ThrottleScope};
use crate::host::Immutable;
use crate::host::pool::HostPool;
use crate::host::record::{Record, RecordError};
use crate::lease::Leadership;
use crate::testing::{attached, host, id};

const NAMES: [&str; 23] = [
    "db", "queue", "bad", "theirs", "g01", "g02", "g03", "g04", "g05", "g06", "g07", "g08", "g09",
    "g10", "g11", "g12", "g13", "g14", "g15", "g16", "g17", "g18", "g19",
];

/// ARM and the API server in one: what is there, what was asked, and what fails.
#[derive(Clone, Default)]
struct World(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    attached: BTreeMap<Host, BTreeSet<&'static str>>,
    records: BTreeMap<Host, (Entries, u64)>,
    /// What each record says, and how often it was told to.
    told: BTreeMap<Host, Vec<Status>>,
    calls: Vec<String>,
    /// The next calls by name that fail, each after it took effect or before.
    faults: Vec<(&'static str, Fault)>,
    slow: Option<Host>,
    /// The next change of this host is refused for so long.
    throttled: Option<(Host, ThrottleScope, Duration)>,
    /// When each host was asked for anything.
    asked: Vec<(Host, Instant)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Before,
    After,
    /// The caller dies while it waits.
    Never,
}

impl World {
    fn fault(&self, call: &str) -> Option<Fault> {
        let mut state = self.0.lock();
        let at = state.faults.iter().position(|(name, _)| *name == call)?;
        Some(state.faults.remove(at).1)
    }

    /// Does `change` unless it is to fail first, and says how it ended.
    async fn call<T>(&self, call: &'static str, change: impl FnOnce(&mut State) -> T) -> Option<T> {
        let fault = self.fault(call);
        if fault == Some(Fault::Before) {
            return None;
        }
        let value = change(&mut self.0.lock());
        match fault {
            Some(Fault::After) => None,
            Some(Fault::Never) => std::future::pending().await,
            _ => Some(value),
        }
    }

    fn attached(&self, name: &str) -> Vec<&'static str> {
        let state = self.0.lock();
        state.attached.get(&host(name)).into_iter().flatten().copied().collect()
    }

    fn recorded(&self, name: &str) -> Vec<String> {
        let state = self.0.lock();
        let entries = state.records.get(&host(name)).map(|(entries, _)| entries.clone());
        entries.unwrap_or_default().keys().map(|id| id.arm_id().name().to_owned()).collect()
    }

    fn told(&self, name: &str) -> Vec<Status> {
        self.0.lock().told.get(&host(name)).cloned().unwrap_or_default()
    }

    fn calls(&self, call: &str) -> usize {
        self.0.lock().calls.iter().filter(|made| made.starts_with(call)).count()
    }
}

fn unavailable() -> ArmError {
    ArmError::Unavailable { message: "test".to_owned(), retry_after: None }
}

impl Compute for World {
    async fn get(&self, host: &Host) -> Result<HostIdentities, ArmError> {
        self.0.lock().asked.push((host.clone(), Instant::now()));
        let names = self.call("get", |state| {
            state.calls.push(format!("get {}", host.id().name()));
            state.attached.get(host).cloned().unwrap_or_default()
        });
        names.await.map(attached).ok_or_else(unavailable)
    }

    async fn patch(
        &self,
        host: &Host,
        _: &HostIdentities,
        delta: &IdentityDelta,
    ) -> Result<Patched, ArmError> {
        self.0.lock().asked.push((host.clone(), Instant::now()));
        let throttled = self.0.lock().throttled.take_if(|(throttled, ..)| throttled == host);
        if let Some((_, scope, delay)) = throttled {
            let retry_after = Some(delay);
            return Err(ArmError::Throttled { scope, retry_after });
        }
        let slow = self.0.lock().slow.as_ref() == Some(host);
        if slow {
            std::future::pending::<()>().await;
        }
        if delta.attach.contains(&id("bad")) {
            self.0.lock().calls.push("refused".to_owned());
            return Err(ArmError::IdentityRefused {
                identities: vec![id("bad")],
                code: "LinkedAuthorizationFailed".to_owned(),
                message: "test".to_owned(),
                remedy: None,
            });
        }
        let names = self.call("patch", |state| {
            state.calls.push(format!("patch {}", host.id().name()));
            let recorded = state.records.get(host).map(|(entries, _)| entries.clone());
            let recorded = recorded.unwrap_or_default();
            for changed in delta.attach.iter().chain(&delta.detach) {
                assert!(recorded.contains_key(changed), "{changed} was not recorded first");
            }
            let names = state.attached.entry(host.clone()).or_default();
            names.retain(|name| !delta.detach.contains(&id(name)));
            let found =
                delta.attach.iter().filter(|new| names.iter().any(|name| **new == id(name)));
            let found = found.cloned().collect();
            names.extend(NAMES.iter().filter(|name| delta.attach.contains(&id(name))));
            (names.clone(), found)
        });
        let (names, found) = names.await.ok_or_else(unavailable)?;
        Ok(Patched { identities: attached(names), found })
    }
}

impl Records for World {
    async fn load(&self, host: &Host) -> Result<Record, RecordError> {
        let record = self.call("load", |state| match state.records.get(host) {
            Some((entries, version)) => Record {
                entries: entries.clone(),
                version: Some(version.to_string()),
                status: state.told.get(host).and_then(|told| told.last().cloned()),
            },
            None => Record::default(),
        });
        record.await.ok_or_else(|| RecordError::Unavailable("test".to_owned()))
    }

    async fn save(
        &self,
        host: &Host,
        entries: &Entries,
        version: Option<&str>,
    ) -> Result<Record, RecordError> {
        let saved = self.call("save", |state| {
            let stored = state.records.get(host).map(|(_, version)| *version);
            if stored.map(|version| version.to_string()).as_deref() != version {
                return Err(RecordError::Conflict);
            }
            if entries.is_empty() {
                state.records.remove(host);
                state.told.remove(host);
                return Ok(Record::default());
            }
            let next = stored.unwrap_or_default() + 1;
            state.records.insert(host.clone(), (entries.clone(), next));
            let version = Some(next.to_string());
            Ok(Record { entries: entries.clone(), version, ..Record::default() })
        });
        saved.await.unwrap_or_else(|| Err(RecordError::Unavailable("test".to_owned())))
    }

    async fn tell(
        &self,
        host: &Host,
        status: &Status,
        version: &str,
    ) -> Result<String, RecordError> {
        let told = self.call("tell", |state| match state.records.get_mut(host) {
            Some((_, stored)) if stored.to_string() == version => {
                *stored += 1;
                let told = state.told.entry(host.clone()).or_default();
                told.push(status.clone());
                Ok(stored.to_string())
            }
            _ => Err(RecordError::Conflict),
        });
        told.await.unwrap_or_else(|| Err(RecordError::Unavailable("test".to_owned())))
    }
}

/// The workers of one leader.
fn leader(world: &World) -> HostPool<World, World> {
    HostPool::new(context(world))
}

fn context(world: &World) -> HostContext<World, World> {
    HostContext {
        compute: Arc::new(world.clone()),
        records: world.clone(),
        settings: Arc::new(HostSettings {
            linger: Duration::from_secs(300),
            recheck: Duration::from_secs(180),
            immutable: Immutable::default(),
        }),
        claims: watch::channel(Arc::default()).1,
        leadership: Leadership::for_ever(),
        sign_in: SignIn::default(),
        throttles: Throttles::default(),
        metrics: ControllerMetrics::new(&Metrics::new("test", "0")),
        clock: Clock::start(),
        dirty: Dirty::default(),
    }
}

fn needs<const N: usize>(
    host_name: &str,
    names: [&str; N],
) -> BTreeMap<Host, BTreeSet<IdentityId>> {
    [(host(host_name), names.iter().map(|name| id(name)).collect())].into()
}

/// Says what all hosts need: those that are not named need nothing any more.
fn set_needs(
    pool: &mut HostPool<World, World>,
    needs: &BTreeMap<Host, BTreeSet<IdentityId>>,
    recorded: &BTreeSet<Host>,
) {
    for host in ["a", "slow"].map(host).iter().chain(needs.keys()) {
        pool.need(host, needs.get(host).cloned().unwrap_or_default());
    }
    recorded.iter().for_each(|host| pool.look_after(host));
    pool.look_after_claims();
}

#[tokio::test(start_paused = true)]
async fn what_is_claimed_becomes_ours_and_goes_when_nobody_needs_it() {
    let world = World::default();
    world.0.lock().attached.insert(host("a"), ["db", "queue", "theirs"].into());
    let (sender, claims) = watch::channel(Arc::default());
    let mut pool = HostPool::new(HostContext { claims, ..context(&world) });
    set_needs(&mut pool, &needs("a", ["db", "theirs"]), &BTreeSet::new());
    soon().await;
    assert!(world.recorded("a").is_empty(), "somebody else's");
    sender.send_replace(Arc::new(needs("a", ["db", "queue"])));
    soon().await;
    assert_eq!(world.recorded("a"), ["db", "queue"]);
    assert_eq!((world.calls("patch"), world.attached("a").len()), (0, 3), "nothing moved");

    sender.send_replace(Arc::default());
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(world.attached("a"), ["db", "theirs"], "nobody needed queue for the linger");
    assert_eq!(world.recorded("a"), ["db"]);
    set_needs(&mut pool, &BTreeMap::new(), &BTreeSet::new());
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(world.attached("a"), ["theirs"], "never claimed, never detached");
}

#[tokio::test(start_paused = true)]
async fn a_claim_alone_starts_a_worker() {
    let world = World::default();
    world.0.lock().attached.insert(host("a"), ["db"].into());
    let (sender, claims) = watch::channel(Arc::new(needs("a", ["db"])));
    let mut pool = HostPool::new(HostContext { claims, ..context(&world) });
    set_needs(&mut pool, &BTreeMap::new(), &BTreeSet::new());
    soon().await;
    assert_eq!(world.recorded("a"), ["db"]);
    sender.send_replace(Arc::default());
    pool.tend().await.unwrap();
    assert!(world.attached("a").is_empty() && world.recorded("a").is_empty());
}

/// Time for everything that is not waiting for minutes.
async fn soon() {
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn one_get_and_one_patch_serve_everything_that_is_needed() {
    let world = World::default();
    let mut pool = leader(&world);
    set_needs(&mut pool, &needs("a", ["db", "queue"]), &BTreeSet::new());
    soon().await;
    assert_eq!(world.attached("a"), ["db", "queue"]);
    assert_eq!(world.recorded("a"), ["db", "queue"]);
    assert_eq!((world.calls("get"), world.calls("patch")), (1, 1));
    let view = pool.view(&host("a")).unwrap();
    assert_eq!(view.identities.as_ref().unwrap().attached.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_host_never_waits_for_another() {
    let world = World::default();
    world.0.lock().slow = Some(host("slow"));
    let mut pool = leader(&world);
    let mut all = needs("slow", ["db"]);
    all.extend(needs("fast", ["db"]));
    set_needs(&mut pool, &all, &BTreeSet::new());
    soon().await;
    assert!(world.attached("slow").is_empty());
    assert_eq!(world.attached("fast"), ["db"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_needed_while_a_patch_runs_goes_into_the_next_one() {
    let world = World::default();
    let mut pool = leader(&world);
    world.0.lock().slow = Some(host("a"));
    set_needs(&mut pool, &needs("a", ["db"]), &BTreeSet::new());
    soon().await;
    set_needs(&mut pool, &needs("a", ["db", "queue"]), &BTreeSet::new());
    set_needs(&mut pool, &needs("a", ["queue"]), &BTreeSet::new());
    assert_eq!(world.calls("patch"), 0);
    // The one in flight never ends: the leader is replaced.
    drop(pool);
    world.0.lock().slow = None;
    let mut pool = leader(&world);
    set_needs(&mut pool, &needs("a", ["queue"]), &BTreeSet::new());
    soon().await;
    assert_eq!((world.attached("a"), world.calls("patch")), (vec!["queue"], 1));
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_step_is_made_good() {
    for call in ["load", "save", "get", "patch", "tell"] {
        for fault in [Fault::Before, Fault::After] {
            let world = World::default();
            world.0.lock().faults.push((call, fault));
            let mut pool = leader(&world);
            set_needs(&mut pool, &needs("a", ["db"]), &BTreeSet::new());
            soon().await;
            assert_eq!(world.attached("a"), ["db"], "{call}");
            assert_eq!(world.recorded("a"), ["db"], "{call}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_step_leaks_and_loses_nothing() {
    for call in ["load", "save", "get", "patch", "tell"] {
        for (before, after) in [(vec!["db"], vec!["queue"]), (vec!["db"], vec![])] {
            let world = World::default();
            world.0.lock().attached.insert(host("a"), ["theirs"].into());
            let mut pool = leader(&world);
            set_needs(&mut pool, &names("a", &before), &BTreeSet::new());
            soon().await;

            world.0.lock().faults.push((call, Fault::Never));
            set_needs(&mut pool, &names("a", &after), &BTreeSet::new());
            tokio::time::sleep(Duration::from_secs(600)).await;
            drop(pool);

            let mut pool = leader(&world);
            let recorded = world.0.lock().records.keys().cloned().collect();
            set_needs(&mut pool, &names("a", &after), &recorded);
            tokio::time::sleep(Duration::from_secs(900)).await;
            let mut expected = after.clone();
            assert_eq!(world.recorded("a"), expected, "{call}: {before:?} {after:?}");
            expected.push("theirs");
            assert_eq!(world.attached("a"), expected, "{call}: {before:?} {after:?}");
        }
    }
}

fn names(host_name: &str, names: &[&str]) -> BTreeMap<Host, BTreeSet<IdentityId>> {
    if names.is_empty() {
        return BTreeMap::new();
    }
    [(host(host_name), names.iter().map(|name| id(name)).collect())].into()
}

#[tokio::test(start_paused = true)]
async fn a_worker_ends_when_nothing_is_needed_or_ours_and_comes_back() {
    let world = World::default();
    let mut pool = leader(&world);
    set_needs(&mut pool, &needs("a", ["db"]), &BTreeSet::new());
    soon().await;
    set_needs(&mut pool, &BTreeMap::new(), &BTreeSet::new());
    pool.tend().await.unwrap();
    assert_eq!(pool.len(), 0);
    assert!(world.attached("a").is_empty() && world.recorded("a").is_empty());
    set_needs(&mut pool, &needs("a", ["db"]), &BTreeSet::new());
    soon().await;
    assert_eq!(world.attached("a"), ["db"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_lead_calls_nobody() {
    let world = World::default();
    let (expiry, leadership) = Leadership::until_revoked();
    let mut pool = HostPool::new(HostContext { leadership, ..context(&world) });
    expiry.send_replace(None);
    set_needs(&mut pool, &needs("a", ["db"]), &BTreeSet::new());
    soon().await;
    assert_eq!((world.calls("get"), world.calls("patch")), (0, 0));
    assert!(world.recorded("a").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_identity_leaves_the_others_alone() {
    let world = World::default();
    let mut pool = leader(&world);
    set_needs(&mut pool, &needs("a", ["db", "queue", "bad"]), &BTreeSet::new());
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(world.attached("a"), ["db", "queue"]);
    assert_eq!(world.calls("patch"), 1);
    assert!(world.calls("refused") <= 6, "{}", world.calls("refused"));
    let view = pool.view(&host("a")).unwrap();
    assert!(view.refused.contains_key(&id("bad")) && view.trouble.is_none());
}

#[tokio::test(start_paused = true)]
async fn others_hear_of_every_change() {
    let world = World::default();
    let context = context(&world);
    let dirty = context.dirty.clone();
    let mut pool = HostPool::new(context);
    set_needs(&mut pool, &needs("a", ["db"]), &BTreeSet::new());
    dirty.rung().await;
    let seen = |pool: &HostPool<World, World>| pool.view(&host("a")).unwrap().identities.is_some();
    while !seen(&pool) {
        dirty.rung().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_twenty_forbidden_costs_the_others_nothing_and_arm_a_handful_of_calls() {
    let world = World::default();
    let mut pool = leader(&world);
    let good: Vec<&'static str> = NAMES[4..].to_vec();
    let mut all = needs("a", ["bad"]);
    all.get_mut(&host("a")).unwrap().extend(good.iter().map(|name| id(name)));
    set_needs(&mut pool, &all, &BTreeSet::new());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.attached("a"), good, "as if the forbidden one were not there");
    let calls = world.0.lock().asked.len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let more = world.0.lock().asked.len() - calls;
    // Those of the usual look, each three minutes, and one for each of a few attempts.
    assert!(more <= 4 + 6, "{more} calls in ten minutes");
    let view = pool.view(&host("a")).unwrap();
    let trouble = &view.refused[&id("bad")];
    assert!(trouble.next_attempt.is_some() && trouble.to_string().contains("next attempt at 2"));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_host_is_asked_nothing_before_its_time_and_no_other_waits() {
    let world = World::default();
    let minute = Duration::from_secs(60);
    world.0.lock().throttled = Some((host("slow"), ThrottleScope::Host, minute));
    let mut pool = leader(&world);
    let mut all = needs("slow", ["db"]);
    all.extend(needs("fast", ["db"]));
    set_needs(&mut pool, &all, &BTreeSet::new());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.attached("fast"), ["db"]);
    assert!(world.attached("slow").is_empty());
    let view = pool.view(&host("slow")).unwrap();
    assert!(view.trouble.as_ref().unwrap().next_attempt.is_some());
    tokio::time::sleep(minute).await;
    assert_eq!(world.attached("slow"), ["db"]);
    let asked: Vec<Instant> = {
        let state = world.0.lock();
        state.asked.iter().filter(|(asked, _)| *asked == host("slow")).map(|(_, at)| *at).collect()
    };
    let pauses: Vec<Duration> = asked.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(pauses.iter().filter(|pause| **pause >= minute).count(), 1, "{pauses:?}");
    assert!(asked.len() <= 4, "get, the refusal, perhaps another get, the change: {asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_throttled_subscription_is_left_alone_and_no_other_waits() {
    let world = World::default();
    let minute = Duration::from_secs(60);
    world.0.lock().throttled = Some((host("a"), ThrottleScope::Subscription, minute));
    let mut pool = leader(&world);
    let mut all = needs("a", ["db"]);
    set_needs(&mut pool, &all, &BTreeSet::new());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let elsewhere = "azure:///subscriptions/other/resourceGroups/mc/providers/Microsoft.Compute/virtualMachineScaleSets/c";
    let elsewhere = Host::from_provider_id(elsewhere).unwrap();
    all.extend(needs("b", ["db"]));
    all.insert(elsewhere.clone(), BTreeSet::from([id("db")]));
    set_needs(&mut pool, &all, &BTreeSet::new());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(world.0.lock().attached.contains_key(&elsewhere), "nobody throttles it");
    assert_eq!((world.attached("a"), world.attached("b")), (vec![], vec![]));
    assert!(world.0.lock().asked.iter().all(|(asked, _)| *asked != host("b")), "not even read");
    let trouble = pool.view(&host("b")).unwrap().trouble.clone().expect("it says why");
    assert_eq!((trouble.code, trouble.next_attempt.is_some()), ("throttled", true));
    tokio::time::sleep(minute).await;
    assert_eq!((world.attached("a"), world.attached("b")), (vec!["db"], vec!["db"]));
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_told_of_once_and_not_again_by_the_next_leader() {
    let world = World::default();
    let mut pool = leader(&world);
    set_needs(&mut pool, &needs("a", ["db"]), &BTreeSet::new());
    tokio::time::sleep(Duration::from_millis(500)).await;
    set_needs(&mut pool, &needs("a", ["db", "queue"]), &BTreeSet::new());
    soon().await;
    let [told] = &world.told("a")[..] else { panic!("{:?}", world.told("a")) };
    assert_eq!((told.state.as_str(), told.identity_count), ("Ready", Some(2)));
    drop(pool);
    let mut pool = leader(&world);
    set_needs(&mut pool, &needs("a", ["db", "queue"]), &BTreeSet::new());
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((world.told("a").len(), world.calls("get")), (1, 1 + 4));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_takes_long_is_told_of_meanwhile() {
    let world = World::default();
    world.0.lock().slow = Some(host("a"));
    let mut pool = leader(&world);
    set_needs(&mut pool, &needs("a", ["db"]), &BTreeSet::new());
    tokio::time::sleep(PATIENCE / 2).await;
    assert_eq!(world.told("a"), []);
    tokio::time::sleep(PATIENCE).await;
    let [told] = &world.told("a")[..] else { panic!("{:?}", world.told("a")) };
    assert_eq!((told.state.as_str(), &told.next_attempt), ("Updating", &None));
    assert_eq!(world.calls("patch"), 0, "still in flight");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_cannot_be_written_holds_up_no_attachment() {
    for fault in [Fault::Before, Fault::After] {
        let world = World::default();
        world.0.lock().faults = vec![("tell", fault); 3];
        let mut pool = leader(&world);
        set_needs(&mut pool, &needs("a", ["db"]), &BTreeSet::new());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(world.0.lock().faults.len(), 2, "the first attempt failed");
        set_needs(&mut pool, &needs("a", ["db", "queue"]), &BTreeSet::new());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(world.attached("a"), ["db", "queue"], "at once, and without a conflict");
        // 5, 15 and 45 s.
        tokio::time::sleep(Duration::from_secs(70)).await;
        let told = world.told("a");
        assert_eq!(told.last().and_then(|told| told.identity_count), Some(2), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_lead_any_more_says_nothing() {
    let world = World::default();
    let (expiry, leadership) = Leadership::until_revoked();
    let mut pool = HostPool::new(HostContext { leadership, ..context(&world) });
    set_needs(&mut pool, &needs("a", ["db"]), &BTreeSet::new());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((world.attached("a").len(), world.told("a").len()), (1, 0));
    expiry.send_replace(None);
    soon().await;
    assert_eq!(world.told("a"), []);
}
