//! Tables for what MIC left behind.

use std::sync::Arc;

use api::crd::{
    AttachedIdentity, AzureIdentityAttachment, AzureIdentityAttachmentSpec, attachment_name,
};
use api::{AzureAssignedIdentitySpec, AzureAssignedIdentityStatus};

use super::*;
use crate::content;
use crate::desired::{Assignment, Place};
use crate::testing::{Edit, binding, host, id, identity, node, pod, snapshot};

/// As MIC writes it for pod apps/web and identity team/db on node n1.
fn leftover(state: &str) -> AzureAssignedIdentity {
    let copy = identity("team", "db");
    let mut object = AzureAssignedIdentity::new(
        "web-apps-db",
        AzureAssignedIdentitySpec {
            identity: Some(Box::new(copy)),
            binding: Some(Box::new(binding("team", "b", "db", "sel"))),
            pod: "web".to_owned(),
            pod_namespace: "apps".to_owned(),
            pod_uid: String::new(),
            node_name: "n1".to_owned(),
        },
    );
    let meta = &mut object.metadata;
    meta.namespace = Some("default".to_owned());
    meta.uid = Some("left".to_owned());
    meta.resource_version = Some("7".to_owned());
    meta.finalizers = Some(vec![FINALIZER.to_owned()]);
    let status = AzureAssignedIdentityStatus { status: state.to_owned(), ..Default::default() };
    object.status = Some(status);
    object
}

/// The pod, its binding and its node, and MIC's object.
fn world() -> Snapshot {
    let mut world = snapshot();
    world.nodes = vec![node("n1", "vmss").into()];
    world.pods = vec![pod("apps", "web", "sel", "n1").into()];
    world.identities = vec![identity("team", "db").into()];
    world.bindings = vec![binding("team", "b", "db", "sel").into()];
    world.assigned = vec![leftover("Assigned").into()];
    world
}

fn recorded(world: &mut Snapshot) {
    let entry = AttachedIdentity {
        // Compared as ids, not as texts.
        resource_id: id("db").as_str().to_uppercase().replace("USERASSIGNED", "userAssigned"),
        unused_since: None,
    };
    let spec =
        AzureIdentityAttachmentSpec { host: host("vmss").to_string(), identities: vec![entry] };
    let record = AzureIdentityAttachment::new(&attachment_name(&host("vmss")), spec);
    world.attachments.push(Arc::new(record));
}

fn ours(world: &Snapshot, state: AssignedState) -> AzureAssignedIdentity {
    let pod = &world.pods[0];
    let assignment = Assignment {
        name: assigned_name("web", uid(&pod.metadata), "team", "db"),
        pod,
        binding: &world.bindings[0],
        identity: &world.identities[0],
        place: Place::Nowhere,
    };
    content::assigned(&assignment, content::status(state, None))
}

fn kept(world: &Snapshot) -> Option<Keep> {
    let review = review(world, Scope::Cluster);
    assert_eq!(review.kept.len() + review.removable.len(), 1);
    review.kept.first().map(|(_, keep)| *keep)
}

#[test]
fn mics_objects_are_told_from_ours_and_from_anybody_elses() {
    let theirs = leftover("Assigned");
    assert!(is_leftover(&theirs) && !content::is_ours(&theirs));
    let ours = ours(&world(), AssignedState::Assigned);
    assert!(!is_leftover(&ours) && content::is_ours(&ours));
    let cases: [(&str, Edit<'_, AzureAssignedIdentity>, bool); 6] = [
        ("half removed", &|o| o.metadata.finalizers = None, true),
        ("of a namespaced identity", &|o| o.metadata.namespace = Some("team".into()), true),
        ("elsewhere", &|o| o.metadata.namespace = Some("apps".into()), false),
        ("another name", &|o| o.metadata.name = Some("web-apps-queue".into()), false),
        ("a pod uid", &|o| o.spec.pod_uid = "u".into(), false),
        ("no identity", &|o| o.spec.identity = None, false),
    ];
    for (case, change, expected) in cases {
        let mut object = theirs.clone();
        change(&mut object);
        assert_eq!(is_leftover(&object), expected, "{case}");
    }
}

#[test]
fn what_go_wrote_is_read_as_mics() {
    let nothing = serde_json::json!({"creationTimestamp": null});
    let embedded = |kind: &str, name: &str, mut spec: serde_json::Value| {
        spec["metadata"] = nothing.clone();
        serde_json::json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "team", "uid": "u", "resourceVersion": "3",
                "generation": 1, "creationTimestamp": "2023-01-01T00:00:00Z",
                "managedFields": [{"manager": "kubectl", "operation": "Update"}]},
            "spec": spec, "status": {"metadata": nothing.clone()},
        })
    };
    let identity = serde_json::json!({"resourceID": id("db").as_str(), "clientPassword": {}});
    let binding = serde_json::json!({"azureIdentity": "db", "selector": "sel"});
    let object = serde_json::json!({
        "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureAssignedIdentity",
        "metadata": {"name": "web-apps-db", "namespace": "default", "uid": "left",
            "resourceVersion": "7", "labels": {"nodename": "n1"}, "finalizers": [FINALIZER]},
        // Written before our schema came, which prunes most of what is empty.
        "spec": {"metadata": nothing.clone(), "pod": "web", "podNamespace": "apps",
            "nodename": "n1",
            "azureIdentityRef": embedded("AzureIdentityList", "db", identity),
            "azureBindingRef": embedded("AzureIdentityBindingList", "b", binding)},
        "status": {"metadata": nothing.clone(), "status": "Assigned", "availableReplicas": 1},
    });
    let object: AzureAssignedIdentity = serde_json::from_value(object).unwrap();
    assert!(is_leftover(&object));
    let mut world = world();
    world.assigned = vec![object.into()];
    let claims = review(&world, Scope::Cluster).claims;
    assert_eq!(claims, [(host("vmss"), [id("db")].into())].into());
}

#[test]
fn an_object_goes_only_after_its_claim_is_recorded_and_ours_does_the_same() {
    let mut world = world();
    assert_eq!(kept(&world), Some(Keep::Unrecorded));
    let claims = review(&world, Scope::Cluster).claims;
    assert_eq!(claims, [(host("vmss"), [id("db")].into())].into());
    recorded(&mut world);
    assert_eq!(kept(&world), Some(Keep::InUse), "NMI has nothing else to go by");
    let waiting = ours(&world, AssignedState::Created);
    world.assigned.push(waiting.into());
    assert_eq!(kept(&world), Some(Keep::InUse), "ours cannot be used yet");
    world.assigned.pop();
    let usable = ours(&world, AssignedState::Assigned);
    world.assigned.push(usable.into());
    let review = review(&world, Scope::Cluster);
    let removal = Removal {
        key: ObjectKey::new("default", "web-apps-db"),
        uid: "left".to_owned(),
        version: "7".to_owned(),
        finalizers: vec![],
        held: true,
    };
    assert_eq!(review.removable, [removal]);
}

#[test]
fn what_no_pod_may_use_goes_as_soon_as_it_is_recorded() {
    let cases: [(&str, Edit<'_, Snapshot>); 5] = [
        ("no pod", &|w| w.pods.clear()),
        ("finished", &|w| Arc::make_mut(&mut w.pods[0]).status.phase = Some("Failed".into())),
        ("no binding", &|w| w.bindings.clear()),
        ("no identity", &|w| w.identities.clear()),
        ("another label", &|w| w.pods = vec![pod("apps", "web", "other", "n1").into()]),
    ];
    for (case, change) in cases {
        let mut world = world();
        change(&mut world);
        assert_eq!(kept(&world), Some(Keep::Unrecorded), "{case}");
        recorded(&mut world);
        assert_eq!(kept(&world), None, "{case}");
    }
    let mut world = world();
    recorded(&mut world);
    assert!(review(&world, Scope::Namespaced).kept.is_empty(), "out of scope");
}

#[test]
fn only_what_mic_says_it_attached_is_claimed() {
    for (state, claimed) in
        [("Assigned", true), ("", true), ("Created", false), ("Unassigned", false)]
    {
        let mut world = world();
        world.assigned = vec![leftover(state).into()];
        assert_eq!(!review(&world, Scope::Cluster).claims.is_empty(), claimed, "{state:?}");
    }
    let mut world = world();
    world.nodes.clear();
    assert!(review(&world, Scope::Cluster).claims.is_empty(), "nobody knows where");
    let mut principal = leftover("Assigned");
    let spec = &mut principal.spec.identity.as_mut().unwrap().spec;
    (spec.kind, spec.resource_id) = (api::IdentityType::ServicePrincipal, None);
    world.assigned = vec![principal.into()];
    world.pods.clear();
    assert_eq!(kept(&world), None, "nothing was attached for it");
}

#[test]
fn finalizers_of_others_stay() {
    let mut world = world();
    world.pods.clear();
    world.nodes.clear();
    let object = Arc::make_mut(&mut world.assigned[0]);
    object.metadata.finalizers = Some(vec!["other".to_owned(), FINALIZER.to_owned()]);
    let review = review(&world, Scope::Cluster);
    assert_eq!(review.removable[0].finalizers, ["other"]);
}
