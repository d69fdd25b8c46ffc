//! What an `AzureAssignedIdentity` contains, and whether a stored one still says what it should.

use api::{
    AssignedState, AzureAssignedIdentity, AzureAssignedIdentitySpec, AzureAssignedIdentityStatus,
    AzureIdentity, AzureIdentityBinding, labels,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use crate::desired::Assignment;
use crate::watch::{BoundPod, name, namespace, uid};

/// The object for an assignment.
pub(crate) fn assigned(
    assignment: &Assignment<'_>,
    status: AzureAssignedIdentityStatus,
) -> AzureAssignedIdentity {
    let pod = &assignment.pod.metadata;
    let node = assignment.pod.node();
    let label = (labels::NODE_NAME.to_owned(), labels::node_label_value(node));
    AzureAssignedIdentity {
        metadata: ObjectMeta {
            name: Some(assignment.name.clone()),
            namespace: pod.namespace.clone(),
            labels: Some([label].into()),
            owner_references: Some(vec![owner(assignment.pod)]),
            ..ObjectMeta::default()
        },
        spec: AzureAssignedIdentitySpec {
            identity: Some(Box::new(trimmed_identity(assignment.identity))),
            binding: Some(Box::new(trimmed_binding(assignment.binding))),
            pod: name(pod).to_owned(),
            pod_namespace: namespace(pod).to_owned(),
            pod_uid: uid(pod).to_owned(),
            node_name: node.to_owned(),
        },
        status: Some(status),
    }
}

/// The object for an assignment that replaces a stored one.
pub(crate) fn replacement(
    assignment: &Assignment<'_>,
    status: AzureAssignedIdentityStatus,
    stored: &AzureAssignedIdentity,
) -> AzureAssignedIdentity {
    let mut object = assigned(assignment, status);
    object.metadata.uid.clone_from(&stored.metadata.uid);
    object.metadata.resource_version.clone_from(&stored.metadata.resource_version);
    object
}

/// Whether the stored object says what the assignment does. Versions and status of identity and
/// binding do not count: an edit that changes nothing moves nothing.
pub(crate) fn is_current(assignment: &Assignment<'_>, stored: &AzureAssignedIdentity) -> bool {
    let spec = &stored.spec;
    let pod = &assignment.pod.metadata;
    let (Some(identity), Some(binding)) = (&spec.identity, &spec.binding) else { return false };
    spec.pod == name(pod)
        && spec.pod_namespace == namespace(pod)
        && spec.pod_uid == uid(pod)
        && spec.node_name == assignment.pod.node()
        && same_object(&identity.metadata, &assignment.identity.metadata)
        && identity.is_namespaced() == assignment.identity.is_namespaced()
        && identity.spec == assignment.identity.spec
        && same_object(&binding.metadata, &assignment.binding.metadata)
        && binding.spec == assignment.binding.spec
}

/// Whether the object was written by this controller: aad-pod-identity's carry no pod uid, other
/// names and a finalizer.
pub(crate) fn is_ours(stored: &AzureAssignedIdentity) -> bool {
    let spec = &stored.spec;
    let finalizers = stored.metadata.finalizers.as_deref().unwrap_or_default();
    let Some(identity) = &spec.identity else { return false };
    let (identity_ns, identity) = (namespace(&identity.metadata), name(&identity.metadata));
    finalizers.is_empty()
        && !spec.pod_uid.is_empty()
        && name(&stored.metadata)
            == api::crd::assigned_name(&spec.pod, &spec.pod_uid, identity_ns, identity)
}

/// A status.
pub(crate) fn status(state: AssignedState, message: Option<String>) -> AzureAssignedIdentityStatus {
    AzureAssignedIdentityStatus {
        status: state.as_str().to_owned(),
        message,
        client_id: None,
        object_id: None,
        host: None,
    }
}

/// Whether the stored status says what it should. One that names no host is not written again for
/// that: it is older than the field, or the cluster's schema is.
pub(crate) fn is_said(
    stored: Option<&AzureAssignedIdentityStatus>,
    wanted: &AzureAssignedIdentityStatus,
) -> bool {
    let Some(stored) = stored else { return false };
    let AzureAssignedIdentityStatus { status, message, client_id, object_id, host } = stored;
    (status, message, client_id, object_id)
        == (&wanted.status, &wanted.message, &wanted.client_id, &wanted.object_id)
        && (host.is_none() || *host == wanted.host)
}

fn owner(pod: &BoundPod) -> OwnerReference {
    OwnerReference {
        api_version: BoundPod::api_version(&()).into_owned(),
        kind: BoundPod::kind(&()).into_owned(),
        name: name(&pod.metadata).to_owned(),
        uid: uid(&pod.metadata).to_owned(),
        controller: Some(false),
        block_owner_deletion: Some(false),
    }
}

/// Whole copies, with what `kubectl apply` notes on objects, would be stored once a pod.
fn trimmed_identity(identity: &AzureIdentity) -> AzureIdentity {
    let mut metadata = reference(&identity.metadata);
    if identity.is_namespaced() {
        let annotation = (labels::BEHAVIOR.to_owned(), labels::BEHAVIOR_NAMESPACED.to_owned());
        metadata.annotations = Some([annotation].into());
    }
    AzureIdentity { metadata, spec: identity.spec.clone(), status: None }
}

fn trimmed_binding(binding: &AzureIdentityBinding) -> AzureIdentityBinding {
    let metadata = reference(&binding.metadata);
    AzureIdentityBinding { metadata, spec: binding.spec.clone(), status: None }
}

fn reference(meta: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        ..ObjectMeta::default()
    }
}

fn same_object(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    a.name == b.name && a.namespace == b.namespace && a.uid == b.uid
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Place;
    use crate::testing::{self, Edit, binding, identity, pod};

    fn assignment<'a>(
        pod: &'a BoundPod,
        binding: &'a AzureIdentityBinding,
        identity: &'a AzureIdentity,
    ) -> Assignment<'a> {
        let name = api::crd::assigned_name("web", uid(&pod.metadata), "team", "db");
        Assignment { name, pod, binding, identity, place: Place::Nowhere }
    }

    #[test]
    fn the_object_belongs_to_the_pod_and_carries_no_ballast() {
        let pod = pod("apps", "web", "sel", "n1");
        let mut identity = identity("team", "db");
        testing::annotate(&mut identity.metadata, labels::BEHAVIOR, "namespaced");
        testing::annotate(&mut identity.metadata, "kubectl.kubernetes.io/last-applied", "{}");
        let binding = binding("team", "b", "db", "sel");
        let assignment = assignment(&pod, &binding, &identity);
        let object = assigned(&assignment, status(AssignedState::Created, None));

        let json = serde_json::to_value(&object).unwrap();
        assert_eq!(json["metadata"]["namespace"], "apps");
        assert_eq!(json["metadata"]["labels"]["nodename"], "n1");
        let owner = &json["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["apiVersion"]), (&"Pod".into(), &"v1".into()));
        assert_eq!(owner["uid"], "uid-apps-web");
        let copy = &json["spec"]["azureIdentityRef"];
        assert_eq!(copy["kind"], "AzureIdentity");
        assert_eq!(copy["metadata"]["annotations"].as_object().unwrap().len(), 1);
        assert!(copy["metadata"].get("resourceVersion").is_none());
        assert_eq!(json["spec"]["podUID"], "uid-apps-web");
        assert_eq!(json["status"]["status"], "Created");

        let read: AzureAssignedIdentity = serde_json::from_value(json).unwrap();
        assert!(is_current(&assignment, &read) && is_ours(&read));
    }

    #[test]
    fn only_changes_of_content_make_an_object_outdated() {
        let pod = pod("apps", "web", "sel", "n1");
        let (base, binding) = (identity("team", "db"), binding("team", "b", "db", "sel"));
        let stored =
            assigned(&assignment(&pod, &binding, &base), status(AssignedState::Assigned, None));
        let cases: [(&str, Edit<'_, AzureIdentity>, bool); 5] = [
            ("nothing", &|_| {}, true),
            ("label", &|i| i.metadata.resource_version = Some("9".into()), true),
            ("recreated", &|i| i.metadata.uid = Some("other".into()), false),
            ("spec", &|i| i.spec.client_id = None, false),
            (
                "namespaced",
                &|i| testing::annotate(&mut i.metadata, labels::BEHAVIOR, "namespaced"),
                false,
            ),
        ];
        for (case, change, expected) in cases {
            let mut identity = base.clone();
            change(&mut identity);
            assert_eq!(
                is_current(&assignment(&pod, &binding, &identity), &stored),
                expected,
                "{case}"
            );
        }
    }

    #[test]
    fn objects_of_aad_pod_identity_are_not_ours() {
        let pod = pod("apps", "web", "sel", "n1");
        let (identity, binding) = (identity("team", "db"), binding("team", "b", "db", "sel"));
        let ours =
            assigned(&assignment(&pod, &binding, &identity), status(AssignedState::Assigned, None));
        assert!(is_ours(&ours));
        let cases: [(&str, Edit<'_, AzureAssignedIdentity>); 3] = [
            ("finalizer", &|o| o.metadata.finalizers = Some(vec!["azureassignedidentity".into()])),
            ("no uid", &|o| o.spec.pod_uid.clear()),
            ("name", &|o| o.metadata.name = Some("web-apps-db".into())),
        ];
        for (case, change) in cases {
            let mut theirs = ours.clone();
            change(&mut theirs);
            assert!(!is_ours(&theirs), "{case}");
        }
    }
}
