//! Tables for plans.

use std::collections::HashMap;
use std::sync::Arc;

use api::{AzureIdentity, AzureIdentityBinding, Host};

use super::*;
use crate::host::HostView;
use crate::snapshot::{Snapshot, key};
use crate::testing::{Edit, Engine, attached, binding, host, id, identity, node, pod, snapshot};
use crate::watch::BoundPod;

type Views = HashMap<Host, Arc<HostView>>;

fn world() -> Snapshot {
    let mut world = snapshot();
    world.nodes = vec![node("n1", "a").into(), node("n2", "a").into(), node("n3", "b").into()];
    world.identities = vec![identity("team", "db").into()];
    world.bindings = vec![binding("team", "b", "db", "sel").into()];
    world
}

fn views(host_name: &str, names: &[&str]) -> Views {
    let identities = Some(Arc::new(attached(names.iter().copied())));
    let view = HostView { identities, ..HostView::default() };
    [(host(host_name), Arc::new(view))].into()
}

fn engine(world: &Snapshot, views: &Views) -> Engine {
    let mut engine = Engine::default();
    views.iter().for_each(|(host, view)| engine.see(host, Some(view.clone())));
    engine.follow(world);
    engine
}

/// Writes the changes of a plan into the world.
fn apply(world: &mut Snapshot, views: &Views) -> Vec<String> {
    let changes = engine(world, views).changes();
    let mut said = Vec::new();
    for change in changes {
        let at = change.key();
        let stored = |object: &Arc<AzureAssignedIdentity>| {
            key(&**object) == (at.namespace.as_str(), at.name.as_str())
        };
        match change {
            Change::Create(object) => {
                said.push(format!("create {}", object.state().as_str()));
                world.assigned.push((*object).into());
            }
            Change::Replace { object, .. } => {
                said.push(format!("replace {}", object.state().as_str()));
                let number = world.assigned.iter().position(stored).unwrap();
                world.assigned[number] = (*object).into();
            }
            Change::Move { status, .. } => {
                said.push(format!("move {}", status.status));
                let number = world.assigned.iter().position(stored).unwrap();
                Arc::make_mut(&mut world.assigned[number]).status = Some(*status);
            }
            Change::Delete { .. } => {
                said.push("delete".to_owned());
                world.assigned.retain(|object| !stored(object));
            }
        }
    }
    said
}

#[test]
fn a_new_assignment_is_created_and_moved_when_the_identity_is_attached() {
    let mut world = world();
    world.pods = vec![pod("apps", "web", "sel", "n1").into()];
    assert_eq!(apply(&mut world, &Views::new()), ["create Created"]);
    assert!(apply(&mut world, &Views::new()).is_empty());
    assert_eq!(apply(&mut world, &views("a", &["db"])), ["move Assigned"]);
    assert!(apply(&mut world, &views("a", &["db"])).is_empty());
}

#[test]
fn an_attached_identity_is_assigned_in_one_write() {
    let mut world = world();
    world.pods = vec![pod("apps", "web", "sel", "n1").into()];
    assert_eq!(apply(&mut world, &views("a", &["db"])), ["create Assigned"]);
}

#[test]
fn whatever_ends_the_assignment_deletes_the_object() {
    let cases: [(&str, Edit<'_, Snapshot>); 5] = [
        ("pod gone", &|world| world.pods.clear()),
        ("pod finished", &|world| change_pod(world, |p| p.status.phase = Some("Failed".into()))),
        ("label changed", &|world| change_pod(world, |p| crate::testing::relabel(p, "x"))),
        ("binding gone", &|world| world.bindings.clear()),
        ("identity gone", &|world| world.identities.clear()),
    ];
    for (case, change) in cases {
        let mut world = world();
        world.pods = vec![pod("apps", "web", "sel", "n1").into()];
        apply(&mut world, &views("a", &["db"]));
        change(&mut world);
        assert_eq!(apply(&mut world, &views("a", &["db"])), ["delete"], "{case}");
        assert!(engine(&world, &Views::new()).ledger.needs().is_empty(), "{case}");
    }
}

fn change_pod(world: &mut Snapshot, change: impl Fn(&mut BoundPod)) {
    change(Arc::make_mut(&mut world.pods[0]));
}

#[test]
fn an_edit_of_identity_or_binding_moves_only_what_it_changes() {
    let edit_identity = |change: &dyn Fn(&mut AzureIdentity)| {
        let mut world = world();
        world.pods = vec![pod("apps", "web", "sel", "n1").into()];
        apply(&mut world, &views("a", &["db"]));
        change(Arc::make_mut(&mut world.identities[0]));
        apply(&mut world, &views("a", &["db"]))
    };
    assert!(edit_identity(&|i| i.metadata.resource_version = Some("9".into())).is_empty());
    assert_eq!(edit_identity(&|i| i.spec.ad_resource_id = Some("x".into())), ["replace Assigned"]);
    let casing = id("db").as_str().to_ascii_uppercase();
    assert_eq!(
        edit_identity(&|i| i.spec.resource_id = Some(casing.clone())),
        ["replace Assigned"],
        "the copy follows, the rights stay"
    );
    assert_eq!(
        edit_identity(&|i| i.metadata.uid = Some("recreated".into())),
        ["replace Assigned"],
        "seen as one change: the same Azure identity"
    );
    let elsewhere = id("queue").as_str().to_owned();
    assert_eq!(
        edit_identity(&|i| i.spec.resource_id = Some(elsewhere.clone())),
        ["replace Created"]
    );
    assert_eq!(
        edit_identity(&|i| i.spec.client_id = Some(crate::testing::client_id("x").to_string())),
        ["replace Created"]
    );

    let mut world = world();
    world.pods = vec![pod("apps", "web", "sel", "n1").into()];
    apply(&mut world, &views("a", &["db"]));
    let edited: &mut AzureIdentityBinding = Arc::make_mut(&mut world.bindings[0]);
    edited.spec.weight = Some(2);
    assert_eq!(apply(&mut world, &views("a", &["db"])), ["replace Assigned"]);
}

#[test]
fn another_casing_of_the_resource_id_is_the_same_need() {
    let mut world = world();
    world.pods = vec![pod("apps", "web", "sel", "n1").into()];
    let before = engine(&world, &Views::new()).ledger.needs();
    let identity = Arc::make_mut(&mut world.identities[0]);
    identity.spec.resource_id = Some(id("db").as_str().to_ascii_uppercase());
    assert_eq!(engine(&world, &Views::new()).ledger.needs(), before, "nothing is detached");
}

#[test]
fn an_identity_in_use_that_is_federated_from_now_on_needs_no_host_any_more() {
    let mut world = world();
    world.pods = vec![pod("apps", "web", "sel", "n1").into()];
    apply(&mut world, &views("a", &["db"]));
    let spec = &mut Arc::make_mut(&mut world.identities[0]).spec;
    spec.kind = api::crd::IdentityType::Federated;
    spec.federated_by = Some(api::crd::FederatedBy::NodeAgent);
    spec.tenant_id = Some("contoso.example".to_owned());
    assert_eq!(apply(&mut world, &views("a", &["db"])), ["replace Assigned"]);
    let status = world.assigned[0].status.clone().unwrap();
    assert_eq!((status.client_id, status.host), (None, None), "nothing that ARM reported");
    assert!(engine(&world, &views("a", &["db"])).ledger.needs().is_empty());
    assert!(apply(&mut world, &views("a", &[])).is_empty());
}

#[test]
fn an_identity_that_is_deleted_and_created_again_is_assigned_anew() {
    let mut world = world();
    world.pods = vec![pod("apps", "web", "sel", "n1").into()];
    apply(&mut world, &views("a", &["db"]));
    let mut identity = world.identities.remove(0);
    assert_eq!(apply(&mut world, &views("a", &["db"])), ["delete"]);
    Arc::make_mut(&mut identity).metadata.uid = Some("recreated".to_owned());
    world.identities.push(identity);
    assert_eq!(apply(&mut world, &views("a", &["db"])), ["create Assigned"]);
    assert!(apply(&mut world, &views("a", &["db"])).is_empty());
}

#[test]
fn objects_of_a_release_that_named_no_host_are_not_written_again_for_it() {
    let mut world = world();
    world.pods = vec![pod("apps", "web", "sel", "n1").into()];
    apply(&mut world, &views("a", &["db"]));
    let status = Arc::make_mut(&mut world.assigned[0]).status.as_mut().unwrap();
    assert!(status.host.take().is_some());
    assert!(apply(&mut world, &views("a", &["db"])).is_empty());
    assert!(apply(&mut world, &Views::new()).is_empty());
}

#[test]
fn a_pod_of_the_same_name_is_another_pod() {
    let mut world = world();
    world.pods = vec![pod("apps", "web", "sel", "n1").into()];
    apply(&mut world, &views("a", &["db"]));
    change_pod(&mut world, |pod| pod.metadata.uid = Some("another".into()));
    assert_eq!(apply(&mut world, &views("a", &["db"])), ["delete", "create Assigned"]);
}

#[test]
fn a_host_needs_an_identity_once_however_many_pods_use_it() {
    let mut world = world();
    let mut twin = identity("other", "twin");
    twin.spec.resource_id = Some(id("DB").as_str().to_owned());
    twin.spec.client_id = None;
    world.identities.push(twin.into());
    world.bindings.push(binding("other", "b", "twin", "sel").into());
    world.pods = vec![
        pod("x", "web-0", "sel", "n1").into(),
        pod("y", "web-0", "sel", "n2").into(),
        pod("x", "web-1", "sel", "n3").into(),
    ];
    let needs = engine(&world, &Views::new()).ledger.needs();
    let expected = [(host("a"), [id("db")].into()), (host("b"), [id("db")].into())];
    assert_eq!(needs, expected.into());
    world.pods.remove(0);
    let needs = engine(&world, &Views::new()).ledger.needs();
    assert!(needs.contains_key(&host("a")), "the pod of the same name still uses it");
}

#[test]
fn what_takes_rights_away_comes_first() {
    let mut world = world();
    world.pods =
        vec![pod("apps", "old", "sel", "n1").into(), pod("apps", "lost", "sel", "n3").into()];
    let mut both = views("a", &["db"]);
    both.extend(views("b", &["db"]));
    apply(&mut world, &both);
    world.pods = vec![
        pod("apps", "lost", "sel", "n3").into(),
        pod("apps", "new", "sel", "n1").into(),
        pod("apps", "waiting", "sel", "n3").into(),
    ];
    let trouble = crate::host::Trouble {
        code: "x",
        message: "deleted".into(),
        remedy: None,
        next_attempt: None,
    };
    let refusing = HostView { refused: [(id("db"), trouble)].into(), ..HostView::default() };
    both.insert(host("b"), Arc::new(refusing));
    let said = apply(&mut world, &both);
    assert_eq!(said.len(), 4);
    assert!(
        said[..2].contains(&"delete".to_owned()) && said[..2].contains(&"move Created".to_owned())
    );
    assert_eq!(said[2..], ["create Assigned", "create Created"]);
}

#[test]
fn objects_of_another_controller_are_named_and_left_alone() {
    let mut world = world();
    let mut theirs = AzureAssignedIdentity::new("web-default-db", Default::default());
    theirs.metadata.namespace = Some("default".to_owned());
    theirs.metadata.finalizers = Some(vec!["azureassignedidentity".to_owned()]);
    world.assigned = vec![theirs.into()];
    let mut engine = Engine::default();
    let settled = engine.follow(&world);
    assert_eq!(settled.foreign, [ObjectKey::new("default", "web-default-db")]);
    assert_eq!(engine.changes(), []);
}

#[test]
fn what_needs_no_arm_is_assigned_without_any_host() {
    let client = crate::testing::client_id("x");
    for spec in [
        serde_json::json!({"type": 1, "clientID": client.as_str(), "tenantID": "t",
            "clientPassword": {"name": "secret"}}),
        serde_json::json!({"type": 3, "clientID": client.as_str(), "tenantID": "t",
            "federatedBy": "Pod", "resourceID": id("x").as_str()}),
    ] {
        let mut world = world();
        let identity = Arc::make_mut(&mut world.identities[0]);
        identity.spec = serde_json::from_value(spec).unwrap();
        world.pods = vec![pod("apps", "web", "sel", "unknown-node").into()];
        assert_eq!(apply(&mut world, &Views::new()), ["create Assigned"]);
        assert!(engine(&world, &Views::new()).ledger.needs().is_empty());
        // What the node's agent needs to know is in the object.
        let stored = world.assigned[0].spec.identity.as_ref().unwrap();
        assert_eq!(stored.spec, world.identities[0].spec);
    }
}
