//! Tables for conditions.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::after;
use crate::host::{HostView, Trouble};
use crate::snapshot::Snapshot;
use crate::testing::{
    Engine, annotate, attached, binding, client_id, host, id, identity, node, pod, snapshot,
};

/// A status that is due.
enum Write {
    Identity(AzureIdentityStatus),
    Binding(AzureIdentityBindingStatus),
}

fn world() -> Snapshot {
    let mut world = snapshot();
    world.nodes = vec![node("n1", "a").into()];
    world.identities = vec![identity("team", "db").into()];
    world.bindings = vec![binding("team", "b", "db", "sel").into()];
    world.pods = vec![pod("apps", "web", "sel", "n1").into()];
    world
}

fn view(names: &[&str]) -> HostView {
    let identities = Some(Arc::new(attached(names.iter().copied())));
    HostView { identities, ..HostView::default() }
}

fn writes(world: &Snapshot, view: HostView, now: Timestamp) -> Vec<Write> {
    let mut engine = Engine::default();
    engine.follow(world);
    engine.see(&host("a"), Some(Arc::new(view)));
    engine.follow(world);
    let (cluster, ledger) = (&engine.cluster, &engine.ledger);
    let keys = world.identities.iter().map(|object| ObjectKey::of(&**object));
    let identities = keys.filter_map(|at| identity_status(cluster, ledger, &at, now));
    let keys = world.bindings.iter().map(|object| ObjectKey::of(&**object));
    let bindings = keys.filter_map(|at| binding_status(cluster, ledger, &at, now));
    identities.map(Write::Identity).chain(bindings.map(Write::Binding)).collect()
}

/// `status reason pods message` of the identity and of the binding.
fn ready(world: &Snapshot, view: HostView) -> (String, String) {
    let mut found = (String::new(), String::new());
    let text = |conditions: &[Condition], pods: i32| {
        let [ready] = conditions else { panic!("one condition, not {conditions:?}") };
        format!("{} {} {pods} {}", ready.status, ready.reason, ready.message)
    };
    for write in writes(world, view, Timestamp::UNIX_EPOCH) {
        match write {
            Write::Identity(status) => found.0 = text(&status.conditions, status.pods),
            Write::Binding(status) => found.1 = text(&status.conditions, status.pods),
        }
    }
    found
}

fn assert_starts(found: &(String, String), identity: &str, binding: &str) {
    assert!(found.0.starts_with(identity), "{:?} does not start with {identity:?}", found.0);
    assert!(found.1.starts_with(binding), "{:?} does not start with {binding:?}", found.1);
}

#[test]
fn what_works_is_said_with_how_many_pods() {
    let found = ready(&world(), view(&["db"]));
    assert_starts(
        &found,
        "True Assigned 1 assigned to 1 pod, attached to vmss/a",
        "True Assigned 1 selects 1 pod",
    );
}

#[test]
fn hosts_are_named_as_long_as_they_are_few() {
    let hosts: Vec<_> = ["d", "b", "a", "c", "e"].map(host).into();
    let cases = [
        (0, ""),
        (1, "vmss/d"),
        (3, "vmss/a, vmss/b, vmss/d"),
        (4, "vmss/a, vmss/b, vmss/c and 1 more"),
        (5, "vmss/a, vmss/b, vmss/c and 2 more"),
    ];
    for (count, expected) in cases {
        assert_eq!(named(&hosts[..count].iter().collect()), expected);
    }
}

#[test]
fn what_arm_took_away_is_not_said_to_be_attached() {
    let mut world = world();
    let trouble = Trouble {
        code: "forbidden",
        message: "the client does not have authorization".to_owned(),
        remedy: None,
        next_attempt: None,
    };
    let mut engine = Engine::default();
    engine.see(&host("a"), Some(Arc::new(view(&["db"]))));
    engine.follow(&world);
    for change in engine.changes() {
        let crate::plan::Change::Create(object) = change else { panic!("{change:?}") };
        world.assigned.push(Arc::new(*object));
    }
    engine.follow(&world);
    assert_eq!((engine.ledger.counts(), engine.ledger.longest_wait()), ((1, 0), None));
    assert_starts(&ready(&world, view(&["db"])), "True Assigned 1", "True Assigned 1");

    let forbidden = HostView { trouble: Some(trouble), ..view(&["other"]) };
    let found = ready(&world, forbidden.clone());
    assert_starts(
        &found,
        "False HostNotReady 0 1 of 1 pods waiting at a",
        "False IdentityNotReady",
    );
    engine.see(&host("a"), Some(Arc::new(forbidden)));
    let settled = engine.settle();
    assert_eq!(engine.changes(), [], "the pod may use the tokens that it has");
    let said: Vec<_> = settled.notices.iter().map(|notice| notice.message.as_str()).collect();
    assert_eq!(
        said,
        ["AzureIdentity team/db is not assigned: the client does not have authorization"]
    );
    assert_eq!(engine.ledger.counts(), (0, 1));
    assert!(engine.ledger.longest_wait().is_some());
}

#[test]
fn what_does_not_work_says_what_to_do() {
    let trouble = Trouble {
        code: "identity_refused",
        message: "ARM refused the identity".to_owned(),
        remedy: Some("Run az role assignment create".to_owned()),
        next_attempt: Some("2026-01-01T12:00:00Z".parse().unwrap()),
    };
    let refusing = HostView { refused: [(id("db"), trouble.clone())].into(), ..view(&[]) };
    let found = ready(&world(), refusing);
    assert_starts(
        &found,
        "False ArmRefused 0 1 of 1 pods waiting at a: remedy: ",
        "False IdentityNotReady 1 see",
    );
    let words = "Run az role assignment create ; next attempt at 2026-01-01T12:00:00Z ; reason: ARM refused";
    assert!(found.0.contains(words), "{}", found.0);

    let troubled = HostView { trouble: Some(trouble), ..HostView::default() };
    assert_starts(&ready(&world(), troubled), "False HostNotReady 0", "False IdentityNotReady 1");
    assert_starts(&ready(&world(), view(&[])), "False Attaching 0", "False Attaching 1");
}

#[test]
fn two_ids_of_two_identities_are_both_named() {
    let mut world = world();
    Arc::make_mut(&mut world.identities[0]).spec.client_id = Some(client_id("x").to_string());
    let found = ready(&world, view(&["db"]));
    assert_starts(&found, "False ClientIDMismatch 0", "False IdentityNotReady 1");
    assert!(found.0.contains(client_id("x").as_str()), "{}", found.0);
    assert!(found.0.contains(client_id("db").as_str()), "{}", found.0);
}

#[test]
fn mistakes_in_the_objects_are_found_without_any_pod() {
    let mut bare = world();
    bare.pods.clear();
    assert_starts(&ready(&bare, view(&[])), "Unknown NoPods 0", "Unknown NoMatchingPods 0");

    let mut invalid = world();
    Arc::make_mut(&mut invalid.identities[0]).spec.resource_id = Some("nonsense".to_owned());
    let found = ready(&invalid, view(&[]));
    assert_starts(&found, "False InvalidSpec 0 spec.resourceID", "False IdentityInvalid 1 see");

    let mut missing = world();
    missing.identities.clear();
    let found = ready(&missing, view(&[]));
    assert!(found.1.contains("AzureIdentity db does not exist in namespace team"), "{}", found.1);

    let mut namespaced = world();
    let identity = Arc::make_mut(&mut namespaced.identities[0]);
    annotate(&mut identity.metadata, api::labels::BEHAVIOR, "namespaced");
    let found = ready(&namespaced, view(&["db"]));
    assert_starts(&found, "Unknown NoPods 0", "False OutOfScope 0 1 pod of other namespaces");
}

/// Stores what is due.
fn store(world: &mut Snapshot, writes: Vec<Write>) {
    for write in writes {
        match write {
            Write::Identity(status) => {
                Arc::make_mut(&mut world.identities[0]).status = Some(status);
            }
            Write::Binding(status) => {
                Arc::make_mut(&mut world.bindings[0]).status = Some(status);
            }
        }
    }
}

#[test]
fn only_changes_are_written_and_only_a_new_status_is_a_transition() {
    let at = |seconds: u64| after(Timestamp::UNIX_EPOCH, Duration::from_millis(seconds * 1000 + 7));
    let mut world = world();
    let due = writes(&world, view(&["db"]), at(1));
    store(&mut world, due);
    assert!(writes(&world, view(&["db"]), at(2)).is_empty());

    world.pods.push(pod("apps", "web-2", "sel", "n1").into());
    let due = writes(&world, view(&["db"]), at(3));
    assert_eq!(due.len(), 2);
    store(&mut world, due);
    let condition = |world: &Snapshot| {
        let status = world.identities[0].status.clone().unwrap();
        (status.pods, status.conditions[0].last_transition_time.0.as_second())
    };
    assert_eq!(condition(&world), (2, 1));

    let due = writes(&world, view(&[]), at(4));
    store(&mut world, due);
    assert_eq!(condition(&world), (0, 4));
    Arc::make_mut(&mut world.identities[0]).metadata.generation = Some(2);
    let due = writes(&world, view(&[]), at(5));
    store(&mut world, due);
    let status = world.identities[0].status.clone().unwrap();
    assert_eq!(status.conditions[0].observed_generation, Some(2));
    assert_eq!(condition(&world), (0, 4));
}

#[test]
fn a_leader_that_knows_nothing_yet_leaves_conditions_as_they_are() {
    let mut world = world();
    let unknown = HostView::default;
    assert_starts(&ready(&world, unknown()), "False Attaching", "False Attaching");
    let due = writes(&world, view(&["db"]), Timestamp::UNIX_EPOCH);
    store(&mut world, due);
    assert!(writes(&world, unknown(), Timestamp::UNIX_EPOCH).is_empty());
    Arc::make_mut(&mut world.bindings[0]).metadata.generation = Some(2);
    assert_eq!(writes(&world, unknown(), Timestamp::UNIX_EPOCH).len(), 1, "a new edit is judged");
}

#[test]
fn a_condition_of_somebody_else_stays() {
    let mut world = world();
    let any = failed("Any", String::new());
    let conditions = conditions(&[], any, Some(1), Timestamp::UNIX_EPOCH);
    let mut theirs = AzureIdentityStatus { conditions, pods: 0 };
    theirs.conditions[0].type_ = "Audited".to_owned();
    Arc::make_mut(&mut world.identities[0]).status = Some(theirs);
    let due = writes(&world, view(&["db"]), Timestamp::UNIX_EPOCH);
    store(&mut world, due);
    let types: Vec<_> = world.identities[0]
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().map(|condition| condition.type_.as_str()))
        .collect();
    assert_eq!(types, ["Audited", READY]);
}
