//! Tables for the decisions about one host.

use super::*;
use crate::compute::{ArmError, Patched, ThrottleScope};
use crate::host::{RecordError, Status};
use crate::testing::{attached, client_id, host, id};

const LINGER: Duration = Duration::from_secs(300);

fn at(seconds: u64) -> Timestamp {
    after(Timestamp::UNIX_EPOCH, Duration::from_secs(1_000_000 + seconds))
}

fn ids<const N: usize>(names: [&str; N]) -> BTreeSet<IdentityId> {
    names.iter().map(|name| id(name)).collect()
}

fn entries<const N: usize>(list: [(&str, Option<Timestamp>); N]) -> Entries {
    list.into_iter().map(|(name, unused)| (id(name), unused)).collect()
}

fn settings() -> HostSettings {
    HostSettings {
        linger: LINGER,
        recheck: Duration::from_secs(180),
        immutable: Immutable::default(),
    }
}

/// A host whose record is loaded and whose identities were just reported.
fn model<const N: usize>(
    record: Entries,
    on_host: [&str; N],
    needed: BTreeSet<IdentityId>,
) -> HostModel {
    let mut model = HostModel::new(Arc::new(settings()));
    let version = (!record.is_empty()).then(|| "1".to_owned());
    model.on_loaded(Record { entries: record, version, ..Record::default() }, at(0));
    model.set_needed(needed);
    model.on_identities(attached(on_host), at(0));
    model
}

fn save(step: Step) -> Entries {
    match step {
        Step::Save(entries, _) => entries,
        other => panic!("expected a save, got {other:?}"),
    }
}

fn patch(step: Step) -> IdentityDelta {
    match step {
        Step::Patch(_, delta) => delta,
        other => panic!("expected a patch, got {other:?}"),
    }
}

/// The next step but those that only say how the host stands.
fn work(model: &mut HostModel, now: Timestamp) -> Step {
    loop {
        let step = match model.next(now) {
            Step::Wait(until) => match model.next(until) {
                tell @ Step::Tell(..) => tell,
                _ => return Step::Wait(until),
            },
            step => step,
        };
        let Step::Tell(status, version) = step else { return step };
        model.on_told((*status).clone(), version);
    }
}

/// Saves whatever the model wants saved.
fn saved(model: &mut HostModel, now: Timestamp) {
    let entries = save(model.next(now));
    model.on_saved(Record { entries, version: Some("2".to_owned()), ..Record::default() });
}

fn refused(name: &str) -> ArmError {
    ArmError::IdentityRefused {
        identities: vec![id(name)],
        code: "LinkedAuthorizationFailed".to_owned(),
        message: "no".to_owned(),
        remedy: Some("az role assignment create".to_owned()),
    }
}

#[test]
fn nothing_happens_before_the_record_is_read_and_the_host_is_known() {
    let mut model = HostModel::new(Arc::new(settings()));
    assert_eq!(work(&mut model, at(0)), Step::Load);
    model.set_needed(ids(["db"]));
    assert_eq!(work(&mut model, at(0)), Step::Load);
    model.on_loaded(Record::default(), at(0));
    assert_eq!(work(&mut model, at(0)), Step::Get);
}

#[test]
fn what_is_attached_is_recorded_first() {
    let mut model = model(Entries::new(), [], ids(["db", "queue"]));
    assert_eq!(save(work(&mut model, at(1))), entries([("db", None), ("queue", None)]));
    saved(&mut model, at(1));
    assert_eq!(patch(work(&mut model, at(1))).attach, ids(["db", "queue"]));
}

#[test]
fn what_others_attached_is_neither_recorded_nor_detached() {
    let mut model = model(Entries::new(), ["db", "theirs"], ids(["db"]));
    assert_eq!(work(&mut model, at(1)), Step::Wait(at(180)));
    model.set_needed(BTreeSet::new());
    assert_eq!(work(&mut model, at(1000)), Step::Done);
}

#[test]
fn what_others_attached_since_the_last_look_is_taken_off_the_record() {
    let mut model = model(Entries::new(), [], ids(["db", "theirs"]));
    assert_eq!(save(work(&mut model, at(1))), entries([("db", None), ("theirs", None)]));
    saved(&mut model, at(1));
    let delta = patch(work(&mut model, at(1)));
    assert_eq!(delta.attach, ids(["db", "theirs"]));
    let patched = Patched { identities: attached(["db", "theirs"]), found: ids(["theirs"]) };
    model.on_patched(patched, &delta, at(2));
    assert_eq!(save(work(&mut model, at(2))), entries([("db", None)]));
}

#[test]
fn what_others_attached_while_arm_refused_us_is_taken_off_the_record() {
    let lost = ArmError::TimedOut { after: Duration::from_secs(1) };
    for (error, attached_by) in [(refused("db"), "others"), (lost, "nobody knows whom")] {
        let mut model = model(Entries::new(), [], ids(["db"]));
        saved(&mut model, at(1));
        let delta = patch(work(&mut model, at(1)));
        model.on_patch_error(&error, &delta, at(2));
        model.on_identities(attached(["db"]), at(400));
        let step = work(&mut model, at(400));
        match attached_by {
            "others" => assert_eq!(save(step), Entries::new()),
            _ => assert!(matches!(step, Step::Wait(_)), "{step:?}"),
        }
    }
}

#[test]
fn what_an_earlier_request_of_ours_attached_stays_on_the_record() {
    let mut model = model(entries([("db", None)]), [], ids(["db"]));
    let delta = patch(work(&mut model, at(1)));
    let patched = Patched { identities: attached(["db"]), found: ids(["db"]) };
    model.on_patched(patched, &delta, at(2));
    assert!(matches!(work(&mut model, at(2)), Step::Wait(_)));
}

#[test]
fn a_former_attachment_of_others_is_ours_once_we_attach_it_again() {
    let mut model = model(Entries::new(), ["db"], ids(["db"]));
    assert_eq!(work(&mut model, at(180)), Step::Get);
    model.on_identities(attached([]), at(180));
    assert_eq!(save(work(&mut model, at(180))), entries([("db", None)]));
}

#[test]
fn detach_waits_for_the_linger_and_the_record_for_the_detach() {
    let mut model = model(entries([("db", None)]), ["db", "theirs"], BTreeSet::new());
    assert_eq!(save(work(&mut model, at(10))), entries([("db", Some(at(10)))]));
    saved(&mut model, at(10));
    assert_eq!(work(&mut model, at(10)), Step::Wait(at(180)), "looks again meanwhile");
    model.on_identities(attached(["db", "theirs"]), at(300));
    assert_eq!(work(&mut model, at(309)), Step::Wait(at(310)));
    let delta = patch(work(&mut model, at(310)));
    assert_eq!((delta.attach.len(), &delta.detach), (0, &ids(["db"])));
    model.on_patched(attached(["theirs"]).into(), &delta, at(312));
    assert_eq!(save(work(&mut model, at(312))), Entries::new());
    model.on_saved(Record::default());
    assert_eq!(work(&mut model, at(312)), Step::Done);
}

#[test]
fn a_user_that_comes_back_ends_the_linger() {
    let mut model = model(entries([("db", Some(at(0)))]), ["db"], ids(["db"]));
    assert_eq!(save(work(&mut model, at(299))), entries([("db", None)]));
    saved(&mut model, at(299));
    assert!(matches!(work(&mut model, at(150)), Step::Wait(_)));
}

#[test]
fn what_something_outside_removed_comes_back() {
    let mut model = model(entries([("db", None)]), ["db"], ids(["db"]));
    assert_eq!(work(&mut model, at(1)), Step::Wait(at(180)));
    assert_eq!(work(&mut model, at(180)), Step::Get);
    model.on_identities(attached([]), at(180));
    assert_eq!(patch(work(&mut model, at(180))).attach, ids(["db"]));
}

#[test]
fn immutable_identities_are_never_detached() {
    let by_client_id = Immutable::from_iter([client_id("db")]);
    let by_id = Immutable::default();
    by_id.add_id(id("DB"));
    let of_others = Immutable::from_iter([client_id("x")]);
    of_others.add_id(id("x"));
    for (immutable, stays) in [(by_client_id, true), (by_id, true), (of_others, false)] {
        let mut model = model(entries([("db", Some(at(0)))]), ["db"], BTreeSet::new());
        model.settings = Arc::new(HostSettings { immutable: immutable.clone(), ..settings() });
        model.on_identities(attached(["db"]), at(9000));
        assert_eq!(matches!(work(&mut model, at(9000)), Step::Wait(_)), stays, "{immutable:?}");
    }
}

#[test]
fn one_refused_identity_does_not_hold_up_the_others() {
    let mut model = model(Entries::new(), [], ids(["a", "bad", "c"]));
    saved(&mut model, at(0));
    let delta = patch(work(&mut model, at(0)));
    model.on_patch_error(&refused("bad"), &delta, at(1));
    assert_eq!(work(&mut model, at(1)), Step::Get, "the host may have changed");
    model.on_identities(attached([]), at(1));
    let delta = patch(work(&mut model, at(1)));
    assert_eq!(delta.attach, ids(["a", "c"]));
    model.on_patched(attached(["a", "c"]).into(), &delta, at(2));
    assert_eq!(work(&mut model, at(2)), Step::Wait(at(6)));
    assert_eq!(model.view().refused.keys().collect::<Vec<_>>(), [&id("bad")]);
    assert_eq!(patch(work(&mut model, at(6))).attach, ids(["bad"]));
}

#[test]
fn a_refused_identity_costs_a_handful_of_calls_in_ten_minutes() {
    let mut model = model(Entries::new(), [], ids(["bad"]));
    saved(&mut model, at(0));
    let (mut now, mut gets, mut patches) = (at(0), 0, 0);
    while now < at(600) {
        match work(&mut model, now) {
            Step::Wait(until) => now = until,
            Step::Get => {
                gets += 1;
                model.on_identities(attached([]), now);
            }
            Step::Patch(_, delta) => {
                patches += 1;
                model.on_patch_error(&refused("bad"), &delta, now);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((4..=6).contains(&patches) && gets <= 3, "{patches} patches, {gets} gets");
}

#[test]
fn an_unexplained_refusal_is_narrowed_down_one_by_one() {
    let rejected = ArmError::Rejected { code: "BadRequest".to_owned(), message: "?".to_owned() };
    let mut model = model(Entries::new(), [], ids(["a", "bad", "c"]));
    saved(&mut model, at(0));
    let mut on_host: Vec<&str> = Vec::new();
    for _ in 0..20 {
        match work(&mut model, at(1)) {
            Step::Get => model.on_identities(attached(on_host.clone()), at(1)),
            Step::Patch(_, delta) if delta.attach.contains(&id("bad")) => {
                model.on_patch_error(&rejected, &delta, at(1));
            }
            Step::Patch(_, delta) => {
                on_host.extend(["a", "c"].iter().filter(|name| delta.attach.contains(&id(name))));
                model.on_patched(attached(on_host.clone()).into(), &delta, at(1));
            }
            Step::Wait(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(on_host, ["a", "c"]);
    assert_eq!(model.view().refused.keys().collect::<Vec<_>>(), [&id("bad")]);
    assert!(!model.one_by_one, "later changes go together again");
}

#[test]
fn what_blocks_the_host_is_not_blamed_on_its_identities() {
    let blocked = ArmError::Blocked {
        code: "ScopeLocked".to_owned(),
        message: "locked".to_owned(),
        remedy: "remove the lock".to_owned(),
    };
    let mut model = model(Entries::new(), [], ids(["a", "b", "c"]));
    saved(&mut model, at(0));
    let (mut now, mut patches) = (at(0), 0);
    while now < at(600) {
        match work(&mut model, now) {
            Step::Wait(until) => now = until,
            Step::Get => model.on_identities(attached([]), now),
            Step::Patch(_, delta) => {
                patches += 1;
                assert_eq!(delta.attach.len(), 3);
                model.on_patch_error(&blocked, &delta, now);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(patches <= 6, "{patches} changes in ten minutes");
    let view = model.view();
    assert!(view.refused.is_empty());
    assert_eq!(view.trouble.and_then(|trouble| trouble.remedy).as_deref(), Some("remove the lock"));
}

#[test]
fn no_call_is_made_before_the_time_that_arm_named() {
    let throttled = ArmError::Throttled {
        scope: ThrottleScope::Host,
        retry_after: Some(Duration::from_secs(60)),
    };
    let mut model = model(Entries::new(), [], ids(["a"]));
    saved(&mut model, at(0));
    let delta = patch(work(&mut model, at(0)));
    model.on_patch_error(&throttled, &delta, at(0));
    assert_eq!(work(&mut model, at(59)), Step::Wait(at(60)));
    model.set_needed(ids(["a", "b"]));
    assert_eq!(work(&mut model, at(59)), Step::Wait(at(60)), "not even for new needs");
    assert_eq!(work(&mut model, at(60)), Step::Get);
    model.on_identities(attached([]), at(60));
    saved(&mut model, at(60));
    assert_eq!(patch(work(&mut model, at(60))).attach, ids(["a", "b"]));
}

#[test]
fn a_host_that_is_gone_is_forgotten_with_its_record() {
    let gone = ArmError::HostNotFound { host: host("a") };
    let mut model = model(entries([("db", None)]), ["db"], ids(["db"]));
    assert_eq!(work(&mut model, at(180)), Step::Get);
    model.on_get_error(&gone, at(180));
    assert_eq!(work(&mut model, at(180)), Step::Wait(at(185)), "its node still exists");
    assert!(model.view().trouble.is_some());
    model.set_needed(BTreeSet::new());
    assert_eq!(save(work(&mut model, at(181))), Entries::new());
}

#[test]
fn a_change_that_arm_confirms_but_does_not_make_is_not_repeated_at_once() {
    let mut model = model(Entries::new(), [], ids(["a"]));
    saved(&mut model, at(0));
    let delta = patch(work(&mut model, at(0)));
    model.on_patched(attached([]).into(), &delta, at(1));
    assert_eq!(work(&mut model, at(1)), Step::Wait(at(6)));
    assert!(model.view().refused.contains_key(&id("a")));
}

#[test]
fn an_entry_of_an_operation_in_flight_is_not_forgotten() {
    let mut model = model(entries([("db", Some(at(0)))]), [], BTreeSet::new());
    let updating = HostIdentities { provisioning_state: Some("Updating".into()), ..attached([]) };
    model.on_identities(updating, at(400));
    assert_eq!(
        work(&mut model, at(400)),
        Step::Wait(at(415)),
        "a former leader may be attaching it"
    );
    model.on_identities(attached([]), at(415));
    assert_eq!(save(work(&mut model, at(415))), Entries::new());
}

#[test]
fn records_that_cannot_be_written_hold_arm_back_and_are_tried_ever_more_rarely() {
    let mut model = model(Entries::new(), [], ids(["a"]));
    let mut now = at(0);
    let mut pauses = Vec::new();
    for _ in 0..3 {
        assert!(matches!(work(&mut model, now), Step::Save(..)));
        model.on_record_error(&RecordError::Unavailable("no".to_owned()), now);
        let Step::Wait(until) = work(&mut model, now) else { panic!("no pause") };
        pauses.push(since(until, now).as_millis());
        now = until;
        assert_eq!(work(&mut model, now), Step::Load);
        model.on_loaded(Record::default(), at(0));
    }
    assert_eq!(pauses, [250, 500, 1000]);
}

#[test]
fn an_old_view_does_not_make_an_identity_of_others_ours() {
    let mut model = model(Entries::new(), ["x"], ids(["x"]));
    model.set_needed(ids(["x", "db"]));
    assert!(matches!(work(&mut model, at(59)), Step::Save(..)));
    assert_eq!(work(&mut model, at(60)), Step::Get, "somebody may have attached it since");
    model.on_identities(attached(["x", "db"]), at(60));
    assert!(matches!(work(&mut model, at(60)), Step::Wait(_)));
}

#[test]
fn a_record_that_cannot_be_written_is_the_hosts_trouble() {
    let mut model = model(Entries::new(), [], ids(["db"]));
    let error = RecordError::Unavailable("forbidden".to_owned());
    model.on_record_error(&RecordError::Conflict, at(1));
    assert_eq!(model.view().trouble, None, "once is usual");
    model.on_record_error(&error, at(2));
    let trouble = model.view().trouble.expect("a trouble");
    assert_eq!((trouble.code, trouble.next_attempt), ("record", Some(at(2))));
    assert!(trouble.remedy.is_some_and(|remedy| remedy.contains("CRDs")));
    model.on_loaded(Record::default(), at(3));
    saved(&mut model, at(3));
    assert_eq!(model.view().trouble, None);
}

#[test]
fn what_arm_said_of_when_to_come_back_outlives_those_who_asked() {
    let throttled = ArmError::Throttled {
        scope: ThrottleScope::Host,
        retry_after: Some(Duration::from_secs(60)),
    };
    let mut model = HostModel::new(Arc::new(settings()));
    model.set_needed(ids(["db"]));
    model.on_loaded(Record::default(), at(0));
    model.on_get_error(&throttled, at(0));
    model.set_needed(BTreeSet::new());
    assert_eq!(model.next(at(1)), Step::Wait(at(60)), "nobody else may ask earlier");
    assert_eq!(model.next(at(60)), Step::Done);
}

#[test]
fn what_arm_told_a_former_leader_of_when_to_come_back_counts() {
    let cases = [
        ("Throttled", 60, Step::Wait(at(60))),
        ("Forbidden", 60, Step::Get),
        // Nobody who writes a record stops a host for long.
        ("Throttled", 1_000_000, Step::Wait(at(3600))),
    ];
    for (reason, until, next) in cases {
        let mut model = HostModel::new(Arc::new(settings()));
        model.set_needed(ids(["db"]));
        let status = Status {
            reason: Some(reason.to_owned()),
            next_attempt: Some(at(until).to_string()),
            message: Some("too many requests".to_owned()),
            ..Status::default()
        };
        let entries = entries([("db", None)]);
        let record = Record { entries, version: Some("1".to_owned()), status: Some(status) };
        model.on_loaded(record.clone(), at(0));
        assert_eq!(work(&mut model, at(0)), next, "{reason}");
        let mut late = HostModel::new(Arc::new(settings()));
        late.set_needed(ids(["db"]));
        late.on_loaded(record, at(until + 1));
        assert_eq!(work(&mut late, at(until + 1)), Step::Get);
    }
}
