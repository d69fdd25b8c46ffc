//! What the ledger passes on, and what it leaves alone.

use std::sync::Arc;

use super::*;
use crate::host::HostView;
use crate::plan::Change;
use crate::snapshot::Snapshot;
use crate::testing::{Engine, attached, binding, host, identity, node, pod, relabel, snapshot};

fn world() -> Snapshot {
    let mut world = snapshot();
    world.nodes = vec![node("n1", "a").into(), node("n2", "b").into()];
    world.identities = vec![identity("team", "db").into(), identity("team", "queue").into()];
    world.bindings = vec![
        binding("team", "b", "db", "sel").into(),
        binding("team", "q", "queue", "other").into(),
    ];
    world.pods = vec![
        pod("apps", "web-0", "sel", "n1").into(),
        pod("apps", "web-1", "sel", "n2").into(),
        pod("apps", "job", "other", "n1").into(),
    ];
    world
}

/// The pods for whose assignments a write is due or not: those that were looked at.
fn looked_at(settled: &Settled) -> Vec<String> {
    let mut names: Vec<String> =
        settled.due.iter().map(|(at, _)| at.name.rsplit_once('-').unwrap().0.to_owned()).collect();
    names.sort();
    names
}

fn following(world: &Snapshot) -> Engine {
    let mut engine = Engine::default();
    assert_eq!(looked_at(&engine.follow(world)), ["job", "web-0", "web-1"]);
    engine
}

#[test]
fn only_what_a_change_concerns_is_decided_again() {
    let mut world = world();
    let mut engine = following(&world);
    assert!(looked_at(&engine.follow(&world)).is_empty());

    Arc::make_mut(&mut world.pods[0]).metadata.uid = Some("another".to_owned());
    assert_eq!(looked_at(&engine.follow(&world)), ["web-0", "web-0"], "its old and its new one");

    Arc::make_mut(&mut world.identities[0]).spec.client_id = None;
    assert_eq!(looked_at(&engine.follow(&world)), ["web-0", "web-1"]);

    Arc::make_mut(&mut world.bindings[1]).spec.weight = Some(2);
    assert_eq!(looked_at(&engine.follow(&world)), ["job"]);

    Arc::make_mut(&mut world.nodes[1]).spec.provider_id = None;
    assert_eq!(looked_at(&engine.follow(&world)), ["web-1"]);

    let identities = Some(Arc::new(attached(["db"])));
    engine.see(&host("a"), Some(Arc::new(HostView { identities, ..HostView::default() })));
    assert_eq!(looked_at(&engine.settle()), ["job", "web-0"]);
}

#[test]
fn a_selector_that_moves_concerns_both_labels() {
    let mut world = world();
    let mut engine = following(&world);
    Arc::make_mut(&mut world.bindings[0]).spec.selector = Some("other".to_owned());
    let settled = engine.follow(&world);
    assert_eq!(looked_at(&settled), ["job", "job", "web-0", "web-1"]);
    assert_eq!(engine.ledger.selected(&ObjectKey::new("team", "b")).in_scope, 1);
    assert_eq!(settled.notices.len(), 2, "no binding selects the other two");
    relabel(Arc::make_mut(&mut world.pods[0]), "other");
    let settled = engine.follow(&world);
    assert_eq!(settled.mended.len(), 1);
    assert_eq!(engine.ledger.selected(&ObjectKey::new("team", "b")).in_scope, 2);
}

#[test]
fn a_status_of_our_own_decides_nothing_again() {
    let mut world = world();
    let mut engine = following(&world);
    Arc::make_mut(&mut world.identities[0]).status = Some(Default::default());
    Arc::make_mut(&mut world.bindings[0]).status = Some(Default::default());
    let settled = engine.follow(&world);
    assert!(looked_at(&settled).is_empty());
    assert_eq!((settled.identities.len(), settled.bindings.len()), (1, 1), "it may be told anew");
}

#[test]
fn the_last_user_ends_the_need() {
    let mut world = world();
    let mut engine = following(&world);
    world.pods.push(pod("apps", "web-2", "sel", "n1").into());
    assert!(engine.follow(&world).hosts.is_empty(), "another user changes nothing");
    world.pods.pop();
    world.pods.remove(0);
    let settled = engine.follow(&world);
    assert!(settled.hosts.contains(&host("a")));
    assert_eq!(engine.ledger.need(&host("a")).len(), 1, "the job's");
    world.pods.remove(1);
    engine.follow(&world);
    assert!(engine.ledger.need(&host("a")).is_empty());
    assert_eq!(engine.ledger.counts(), (0, 1));
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// One pod, scheduled at that second, with its node, identity and binding.
fn one_pod(scheduled: i64) -> Snapshot {
    let mut world = world();
    world.pods.truncate(1);
    Arc::make_mut(&mut world.pods[0]).status.scheduled = scheduled;
    world
}

/// Writes all that is due.
fn write(world: &mut Snapshot, engine: &Engine) {
    for change in engine.changes() {
        let stored = |object: &Arc<AzureAssignedIdentity>| ObjectKey::of(&**object) == change.key();
        let found = world.assigned.iter().position(stored);
        match (&change, found) {
            (Change::Create(object), None) => world.assigned.push(Arc::new((**object).clone())),
            (Change::Replace { object, .. }, Some(number)) => {
                world.assigned[number] = Arc::new((**object).clone());
            }
            (Change::Move { status, .. }, Some(number)) => {
                let object = Arc::make_mut(&mut world.assigned[number]);
                object.status = Some((**status).clone());
            }
            (Change::Delete { .. }, Some(number)) => drop(world.assigned.remove(number)),
            _ => panic!("{change:?}"),
        }
    }
}

fn attach(engine: &mut Engine, names: &[&str]) {
    let identities = Some(Arc::new(attached(names.iter().copied())));
    engine.see(&host("a"), Some(Arc::new(HostView { identities, ..HostView::default() })));
}

#[test]
fn a_pod_waits_from_when_it_was_scheduled_until_its_object_says_assigned() {
    let mut world = one_pod(1000);
    let mut engine = Engine::at(at(1300));
    engine.follow(&world);
    assert_eq!(engine.ledger.longest_wait(), Some(at(1000)), "nobody led meanwhile");
    write(&mut world, &engine);
    attach(&mut engine, &["db"]);
    engine.now = at(1310);
    assert_eq!(engine.follow(&world).waited, []);
    assert_eq!(engine.ledger.longest_wait(), Some(at(1000)), "not written yet");
    write(&mut world, &engine);
    engine.now = at(1320);
    assert_eq!(engine.follow(&world).waited, [at(1000)]);
    assert_eq!(engine.ledger.longest_wait(), None);
    engine.now = at(1330);
    engine.cluster.review_all();
    assert_eq!(engine.settle().waited, [], "counted once");

    attach(&mut engine, &[]);
    engine.settle();
    assert_eq!(engine.ledger.longest_wait(), Some(at(1330)), "somebody took it away");
    attach(&mut engine, &["db"]);
    assert_eq!(engine.settle().waited, [], "it was assigned before");
    assert_eq!(engine.ledger.longest_wait(), None);
}

#[test]
fn a_wait_begins_when_it_is_first_seen_where_the_pod_says_nothing_better() {
    for (case, scheduled, expected) in
        [("not said", 0, 1300), ("seen at once", 1299, 1300), ("a clock that is ahead", 1400, 1300)]
    {
        let mut engine = Engine::at(at(1300));
        engine.follow(&one_pod(scheduled));
        assert_eq!(engine.ledger.longest_wait(), Some(at(expected)), "{case}");
    }

    let mut world = one_pod(1000);
    let binding = world.bindings.remove(0);
    let mut engine = Engine::at(at(1300));
    engine.follow(&world);
    assert_eq!(engine.ledger.longest_wait(), None, "there is nothing to wait for");
    world.bindings.push(binding);
    engine.now = at(5000);
    engine.follow(&world);
    assert_eq!(engine.ledger.longest_wait(), Some(at(5000)), "bound long after it was scheduled");
    world.pods.clear();
    engine.follow(&world);
    assert_eq!(engine.ledger.longest_wait(), None);
}

#[test]
fn a_new_leader_does_not_blame_a_loss_on_the_pods_whole_life() {
    let mut world = one_pod(1000);
    let mut engine = Engine::default();
    attach(&mut engine, &["db"]);
    engine.follow(&world);
    write(&mut world, &engine);
    let mut engine = Engine::at(at(9000));
    attach(&mut engine, &[]);
    engine.follow(&world);
    assert_eq!(engine.ledger.longest_wait(), Some(at(9000)));
}

#[test]
fn pods_that_lack_something_are_counted_by_reason_until_they_do_not() {
    let mut world = world();
    let mut engine = following(&world);
    let lacks = |engine: &Engine| -> Vec<_> {
        engine.ledger.lacks().filter(|(_, count)| *count > 0).collect()
    };
    assert_eq!(lacks(&engine), []);
    let binding = world.bindings.remove(0);
    world.identities.remove(1);
    engine.follow(&world);
    assert_eq!(lacks(&engine), [(Lack::NoBinding, 2), (Lack::IdentityNotFound, 1)]);
    engine.cluster.review_all();
    engine.settle();
    assert_eq!(lacks(&engine), [(Lack::NoBinding, 2), (Lack::IdentityNotFound, 1)], "once a pod");
    world.bindings.push(binding);
    Arc::make_mut(&mut world.pods[2]).status.phase = Some("Succeeded".to_owned());
    engine.follow(&world);
    assert_eq!(lacks(&engine), []);
}

#[test]
fn an_object_of_another_controller_is_named_once_while_it_is_there() {
    let mut world = world();
    let mut theirs = AzureAssignedIdentity::new("web-default-db", Default::default());
    theirs.metadata.namespace = Some("default".to_owned());
    theirs.metadata.finalizers = Some(vec!["somebody".to_owned()]);
    world.assigned = vec![Arc::new(theirs)];
    let mut engine = Engine::default();
    assert_eq!(engine.follow(&world).foreign.len(), 1);
    engine.cluster.review_all();
    assert_eq!(engine.settle().foreign, []);
    let theirs = world.assigned.remove(0);
    engine.follow(&world);
    assert!(engine.ledger.foreign.is_empty(), "what is gone is not remembered");
    world.assigned.push(theirs);
    assert_eq!(engine.follow(&world).foreign.len(), 1);
}

#[test]
fn a_node_that_comes_back_in_another_scale_set_does_not_bring_its_identities() {
    let mut world = one_pod(0);
    let mut engine = Engine::default();
    attach(&mut engine, &["db"]);
    engine.follow(&world);
    write(&mut world, &engine);
    engine.follow(&world);
    assert_eq!((engine.changes(), engine.ledger.counts()), (Vec::new(), (1, 0)));

    let gone = world.nodes.remove(0);
    engine.follow(&world);
    assert_eq!((engine.changes(), engine.ledger.counts()), (Vec::new(), (1, 0)), "for a moment");
    world.nodes.push(gone);
    engine.follow(&world);
    assert_eq!(engine.changes(), [], "as it was");

    world.nodes[1] = node("n1", "c").into();
    engine.follow(&world);
    let changes = engine.changes();
    let [Change::Move { status, .. }] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((status.status.as_str(), &status.host), ("Created", &None));
    assert!(engine.ledger.need(&host("a")).is_empty() && engine.ledger.need(&host("c")).len() == 1);
    write(&mut world, &engine);
    let identities = Some(Arc::new(attached(["db"])));
    engine.see(&host("c"), Some(Arc::new(HostView { identities, ..HostView::default() })));
    engine.follow(&world);
    write(&mut world, &engine);
    engine.follow(&world);
    assert_eq!((engine.changes(), engine.ledger.counts()), (Vec::new(), (1, 0)));
    let stored = world.assigned[0].status.as_ref().unwrap();
    assert_eq!(stored.host, Some(api::crd::attachment_name(&host("c"))));
}
