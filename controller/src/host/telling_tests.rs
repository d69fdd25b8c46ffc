//! What is said of a host in each situation.

use std::collections::BTreeSet;

use super::*;
use crate::clock::since;
use crate::compute::{ArmError, ThrottleScope};
use crate::host::record::Entries;
use crate::host::{HostSettings, Immutable};
use crate::testing::{attached, host, id};

fn at(seconds: u64) -> Timestamp {
    after(Timestamp::UNIX_EPOCH, Duration::from_secs(1_000_000 + seconds))
}

fn ids<const N: usize>(names: [&str; N]) -> BTreeSet<IdentityId> {
    names.iter().map(|name| id(name)).collect()
}

/// A host on which all recorded identities were needed and attached at 0.
fn model<const N: usize>(recorded: [&str; N]) -> HostModel {
    let settings = HostSettings {
        linger: Duration::from_secs(300),
        recheck: Duration::from_secs(180),
        immutable: Immutable::default(),
    };
    let mut model = HostModel::new(Arc::new(settings));
    let entries: Entries = recorded.iter().map(|name| (id(name), None)).collect();
    model.on_loaded(Record { entries, version: Some("1".to_owned()), status: None }, at(0));
    model.set_needed(ids(recorded));
    model.on_identities(attached(recorded), at(0));
    model
}

fn told(step: Step) -> Status {
    match step {
        Step::Tell(status, version) if version == "1" => (*status).clone(),
        other => panic!("expected that something is said, got {other:?}"),
    }
}

fn refused(name: &str) -> ArmError {
    ArmError::IdentityRefused {
        identities: vec![id(name)],
        code: "LinkedAuthorizationFailed".to_owned(),
        message: "no".to_owned(),
        remedy: Some("az role assignment create".to_owned()),
    }
}

/// Needs one more identity, and ARM answers so.
fn attach(model: &mut HostModel, name: &str, error: &ArmError) {
    model.set_needed(model.needed.iter().cloned().chain([id(name)]).collect());
    let Step::Save(entries, version) = model.next(at(1)) else { panic!("it is recorded first") };
    model.on_saved(Record { entries, version, status: None });
    let Step::Patch(_, delta) = model.next(at(1)) else { panic!("it is attached") };
    model.on_patch_error(error, &delta, at(1));
}

#[test]
fn a_healthy_host_is_ready_once_it_is_at_rest() {
    let mut model = model(["db", "queue"]);
    assert_eq!(model.next(at(0)), Step::Wait(at(1)), "a burst may go on");
    let status = told(model.next(at(1)));
    let expected = Status {
        state: "Ready".to_owned(),
        identity_count: Some(2),
        last_transition_time: Some("1970-01-12T13:46:41Z".to_owned()),
        observed_at: Some("1970-01-12T13:46:41Z".to_owned()),
        ..Status::default()
    };
    assert_eq!(status, expected);
    model.on_told(status, "2".to_owned());
    assert_eq!(model.next(at(1)), Step::Wait(at(180)));
    model.on_identities(attached(["db", "queue"]), at(180));
    assert_eq!(model.next(at(200)), Step::Wait(at(360)), "the same is not said again");
}

#[test]
fn only_what_fails_is_listed_with_its_next_attempt() {
    let mut model = model(["db"]);
    attach(&mut model, "bad", &refused("bad"));
    let status = told(model.next(at(2)));
    assert_eq!((status.state.as_str(), status.identity_count), ("Failing", Some(2)));
    assert_eq!(status.reason.as_deref(), Some("IdentityRefused"));
    assert_eq!(status.message.as_deref(), Some("1 of 2 identities: see failing"));
    let next = Some("1970-01-12T13:46:46Z".to_owned());
    assert_eq!(status.next_attempt, next);
    let [failing] = &status.failing[..] else { panic!("{status:?}") };
    assert_eq!((failing.resource_id.as_str(), &failing.next_attempt), (id("bad").as_str(), &next));
    assert_eq!(
        failing.message,
        "remedy: az role assignment create ; reason: ARM refused the identity (LinkedAuthorizationFailed): no"
    );
    let since = status.last_transition_time.clone();
    model.on_told(status, "1".to_owned());

    // The second refusal is news, the state is not.
    let Step::Patch(_, delta) = model.next(at(6)) else { panic!("it is tried again") };
    model.on_patch_error(&refused("bad"), &delta, at(6));
    let status = told(model.next(at(7)));
    assert_eq!(status.last_transition_time, since);
    assert_eq!(status.next_attempt.as_deref(), Some("1970-01-12T13:47:01Z"));
    assert_eq!(status.observed_at.as_deref(), Some("1970-01-12T13:46:47Z"));
    model.on_told(status, "1".to_owned());

    model.set_needed(ids(["db"]));
    let Step::Save(entries, version) = model.next(at(8)) else { panic!("it is not needed now") };
    model.on_saved(Record { entries, version, status: None });
    let status = told(model.next(at(8)));
    assert_eq!(status.state, "Ready", "nobody tries what nobody needs: {status:?}");
}

#[test]
fn what_is_wrong_with_the_whole_host_is_said_of_it() {
    let throttled = ArmError::Throttled {
        scope: ThrottleScope::Host,
        retry_after: Some(Duration::from_secs(60)),
    };
    let mut model = model(["db"]);
    attach(&mut model, "queue", &throttled);
    let status = told(model.next(at(2)));
    assert_eq!((status.state.as_str(), status.reason.as_deref()), ("Failing", Some("Throttled")));
    assert_eq!(status.message.as_deref(), Some("ARM throttles the host"));
    assert_eq!(status.next_attempt.as_deref(), Some("1970-01-12T13:47:41Z"));
    assert_eq!(status.failing, []);

    model.set_needed(ids(["db"]));
    let Step::Save(entries, version) = model.next(at(3)) else { panic!("it is not needed now") };
    model.on_saved(Record { entries, version, status: None });
    assert_eq!(told(model.next(at(3))).state, "Ready", "nothing is to be changed any more");

    model.on_get_error(&ArmError::HostNotFound { host: host("a") }, at(70));
    let status = told(model.next(at(71)));
    assert_eq!((status.state.as_str(), status.failing.len()), ("HostNotFound", 0));
    assert_eq!(status.reason.as_deref(), Some("HostNotFound"));
    assert!(status.next_attempt.is_some());

    model.on_identities(attached(["db"]), at(80));
    assert_eq!(told(model.next(at(81))).state, "Ready");
}

#[test]
fn a_change_under_way_is_neither_ready_nor_failing() {
    let mut model = model(["db"]);
    let updating = || {
        let state = Some("Updating".to_owned());
        crate::compute::HostIdentities { provisioning_state: state, ..attached([]) }
    };
    let entries = Entries::from([(id("db"), Some(at(0)))]);
    model.on_loaded(Record { entries, version: Some("1".to_owned()), status: None }, at(0));
    model.set_needed(BTreeSet::new());
    model.on_identities(updating(), at(400));
    let status = told(model.next(at(401)));
    assert_eq!(status.state, "Updating", "a former leader may be attaching it");
    assert_eq!((status.reason, status.next_attempt), (None, None));
}

#[test]
fn a_record_in_doubt_is_read_before_it_is_written_and_nothing_else_waits() {
    let mut model = model(["db"]);
    let error = RecordError::Unavailable("test".to_owned());
    drop(told(model.next(at(1))));
    model.on_tell_error(&error, at(1));
    assert_eq!(model.next(at(1)), Step::Wait(at(6)));
    assert!(model.say_meanwhile(at(1)).is_none());
    assert_eq!(model.next(at(6)), Step::Load);
    model.on_loaded(model.record.clone().unwrap(), at(0));
    drop(told(model.next(at(6))));
    model.on_tell_error(&error, at(6));
    model.on_identities(attached([]), at(7));
    assert!(matches!(model.next(at(7)), Step::Patch(..)), "recorded: nothing is to be written");
    model.on_identities(attached(["db"]), at(7));
    model.set_needed(ids(["db", "queue"]));
    assert_eq!(model.next(at(8)), Step::Load);
    model.on_loaded(
        Record { version: Some("9".to_owned()), ..model.record.clone().unwrap() },
        at(0),
    );
    let Step::Save(_, version) = model.next(at(8)) else { panic!("it is saved") };
    assert_eq!(version.as_deref(), Some("9"));
    let Some(failure) = &model.telling else { panic!("the failures count on") };
    assert_eq!(since(failure.until, at(6)).as_secs(), 15);
}

#[test]
fn where_there_is_no_record_nothing_is_said() {
    let mut model = model([]);
    model.on_loaded(Record::default(), at(0));
    model.set_needed(ids(["theirs"]));
    model.on_identities(attached(["theirs"]), at(0));
    assert_eq!(model.next(at(1)), Step::Wait(at(180)));
}

#[test]
fn long_texts_are_cut_and_codes_become_words() {
    let mut model = model(["db"]);
    let error = ArmError::Rejected { code: "é".repeat(2000), message: "m".to_owned() };
    attach(&mut model, "bad", &error);
    model.on_identities(attached(["db"]), at(1));
    let status = told(model.next(at(2)));
    assert_eq!(status.failing[0].message.chars().count(), LONGEST);
    assert_eq!(word("timed_out"), "TimedOut");
}
