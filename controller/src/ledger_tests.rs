//! What the ledger passes on, and what it leaves alone.

use std::sync::Arc;

use super::*;
use crate::host::HostView;
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

#[test]
fn how_long_a_pod_waited_is_asked_once() {
    let mut engine = Engine::default();
    let settled = engine.follow(&world());
    let at = &settled.due[0].0;
    assert_eq!(engine.ledger.waited_since(at), Some(Timestamp::UNIX_EPOCH));
    assert_eq!(engine.ledger.waited_since(at), None);
}
