//! The real controller dies at each of its steps, as by `kill -9`, and another one goes on: what is
//! attached is what is needed, nothing needed was detached, nothing foreign was touched. How a
//! replica that waits takes over is in `standby`, how they sign in with a certificate in `sign_in`.
//!
//! Against a real API server and fake Azure, all of them processes of this test; the local cluster
//! is not needed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(clippy::print_stderr, reason = "says which case it is at")]

mod control_plane;
mod sign_in;
mod standby;
mod story;
mod subject;
mod world;

use std::cell::RefCell;
use std::path::Path;
use std::time::{Duration, Instant};

use fake_azure::{Config, FakeAzure, seed};
use tempfile::TempDir;

use crate::control_plane::{ControlPlane, USERS};
use crate::story::Story;
use crate::subject::{PROGRAMS, Setting, Subject, application};
use crate::world::World;

/// When the fault point is set.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// From the start.
    Start,
    /// Before the pods go.
    Detach,
    /// From the start, and the process is asked to end.
    Rollout,
}

/// Every point, and some of them on both ways.
const CASES: [(&str, When); 32] = [
    ("lease_create.before", When::Start),
    ("lease_create.after", When::Start),
    ("lease_renew.before", When::Start),
    ("lease_renew.after", When::Start),
    ("lease_vacate.before", When::Rollout),
    ("leftover.between", When::Start),
    ("record_save.before", When::Start),
    ("record_save.after", When::Start),
    ("attach.before", When::Start),
    ("poll.during", When::Start),
    ("attach.after", When::Start),
    ("record_status.before", When::Start),
    ("record_status.after", When::Start),
    ("assigned_create.before", When::Start),
    ("assigned_create.after", When::Start),
    ("assigned_move.before", When::Start),
    ("assigned_move.after", When::Start),
    ("assigned_replace.before", When::Start),
    ("assigned_replace.after", When::Start),
    ("identity_status.before", When::Start),
    ("identity_status.after", When::Start),
    ("binding_status.before", When::Start),
    ("binding_status.after", When::Start),
    ("assigned_delete.before", When::Start),
    ("assigned_delete.after", When::Start),
    ("record_save.before", When::Detach),
    ("record_save.after", When::Detach),
    ("detach.before", When::Detach),
    ("poll.during", When::Detach),
    ("detach.after", When::Detach),
    ("record_remove.before", When::Detach),
    ("record_remove.after", When::Detach),
];

/// Asks again until the answer is there.
pub(crate) async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < limit, "{what}: not after {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn run(story: &Story<'_>, setting: &Setting<'_>, (point, when): (&str, When)) {
    drop(std::fs::remove_file(&setting.log));
    story.prepare().await;
    story.a_leftover_is_there().await;
    let mut subject = Subject::start(setting, if when == When::Detach { "" } else { point });
    let scene = story.pods_come().await;
    story.comes_to("pods came", &scene, &mut subject).await;
    story.an_identity_changes().await;
    story.the_edit_arrives(&mut subject).await;
    match when {
        When::Start => {}
        When::Detach => subject.restart(point),
        When::Rollout => subject.terminate(),
    }
    let before = story.detached().await;
    let leaked = "nodes third-identity".to_owned();
    assert!(before.iter().all(|it| *it == leaked), "detached while it was needed: {before:?}");

    let scene = story.some_pods_go().await;
    story.comes_to("some pods went", &scene, &mut subject).await;
    let after = story.detached().await;
    assert!(after.iter().all(|it| it.starts_with("nodes ")), "detached while needed: {after:?}");
    let scene = story.the_last_pod_goes().await;
    story.comes_to("all pods went", &scene, &mut subject).await;
    eventually("the fault point is reached", Duration::from_secs(5), async || {
        subject.tend();
        (subject.deaths > 0).then_some(())
    })
    .await;
    assert_eq!(subject.deaths, 1);
    let all = story.detached().await;
    assert!(!all.iter().any(|it| it.contains("agentpool")), "somebody else's: {all:?}");
    assert!(story.has_system_identity().await);
    subject.end();
}

/// A Kubernetes and an Azure of one test's own.
pub(crate) struct Stage {
    pub(crate) dir: TempDir,
    pub(crate) plane: ControlPlane,
    pub(crate) azure: FakeAzure,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let plane = ControlPlane::start().await;
        let azure = FakeAzure::start(Config::local(&dir.path().join("azure"))).await.unwrap();
        std::fs::write(dir.path().join("ca.crt"), azure.ca_pem()).unwrap();
        Self { dir, plane, azure }
    }

    pub(crate) fn story(&self) -> Story<'_> {
        Story { world: World::new(&self.plane, &self.azure) }
    }

    /// A controller without company.
    pub(crate) fn setting(&self, program: &Path) -> Setting<'_> {
        Setting {
            program: program.to_owned(),
            kubeconfig: self.plane.kubeconfig(USERS[0]),
            azure: &self.azure,
            ca: self.dir.path().join("ca.crt"),
            log: self.dir.path().join("log"),
            instance: "it",
            lease: Duration::from_secs(3),
            admin: 0,
            credential: application(seed::CONTROLLER_APP, seed::CONTROLLER_APP_SECRET),
        }
    }
}

/// Runs what is left of the cases in a world of its own.
async fn lane(program: &Path, cases: &RefCell<impl Iterator<Item = (&'static str, When)>>) {
    let stage = Stage::set().await;
    let (setting, story) = (stage.setting(program), stage.story());
    loop {
        let Some(case) = cases.borrow_mut().next() else { return };
        let start = Instant::now();
        run(&story, &setting, case).await;
        eprintln!("{} {:?}: {:.1} s", case.0, case.1, start.elapsed().as_secs_f64());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_dies_at_any_step_leaks_and_loses_nothing() {
    let program = &PROGRAMS.mortal;
    let only = std::env::var("FAULT_POINT").unwrap_or_default();
    let cases = CASES.into_iter().filter(|(point, _)| point.contains(&only));
    let cases = RefCell::new(cases);
    // Most of the time of each is waiting.
    tokio::join!(lane(program, &cases), lane(program, &cases));
}

#[test]
fn no_program_without_the_feature_has_a_fault_point() {
    let has = |program: &Path| {
        let bytes = std::fs::read(program).unwrap();
        let name = subject::VARIABLE.as_bytes();
        bytes.windows(name.len()).any(|window| window == name)
    };
    assert!(has(&PROGRAMS.mortal), "or this test would see nothing");
    assert!(!has(&PROGRAMS.usual));
    // What the images were last made from.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let shipped = root.join("target/x86_64-unknown-linux-musl/release/controller");
    assert!(!shipped.is_file() || !has(&shipped));
}
