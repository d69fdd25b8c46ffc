//! Objects and fakes that the tests of several modules use.

use std::collections::BTreeMap;

use api::{
    AzureIdentity, AzureIdentityBinding, AzureIdentityBindingSpec, AzureIdentitySpec, Guid, Host,
    IdentityId, labels,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::compute::{HostIdentities, IdentityDetails};
use crate::snapshot::Snapshot;
use crate::watch::{BoundPod, BoundPodSpec, BoundPodStatus, CloudNode, CloudNodeSpec};

/// A change of an object, in a table of cases.
pub(crate) type Edit<'a, T> = &'a dyn Fn(&mut T);

/// An empty cluster.
pub(crate) fn snapshot() -> Snapshot {
    Snapshot::default()
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(format!("uid-{namespace}-{name}")),
        resource_version: Some("1".to_owned()),
        generation: Some(1),
        ..ObjectMeta::default()
    }
}

/// A running pod.
pub(crate) fn pod(namespace: &str, name: &str, label: &str, node: &str) -> BoundPod {
    let mut pod = BoundPod {
        metadata: meta(namespace, name),
        spec: BoundPodSpec { node_name: Some(node.to_owned()) },
        status: BoundPodStatus { phase: Some("Running".to_owned()) },
    };
    relabel(&mut pod, label);
    pod
}

/// Gives a pod another value of the label.
pub(crate) fn relabel(pod: &mut BoundPod, label: &str) {
    pod.metadata.labels = Some(BTreeMap::from([(labels::BINDING.to_owned(), label.to_owned())]));
}

/// Adds an annotation.
pub(crate) fn annotate(meta: &mut ObjectMeta, key: &str, value: &str) {
    meta.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

/// A node of a scale set.
pub(crate) fn node(name: &str, scale_set: &str) -> CloudNode {
    let id = format!("azure://{}/virtualMachines/0", host(scale_set).id());
    CloudNode { metadata: meta("", name), spec: CloudNodeSpec { provider_id: Some(id) } }
}

/// A type 0 identity whose Azure name is its own.
pub(crate) fn identity(namespace: &str, name: &str) -> AzureIdentity {
    let spec = AzureIdentitySpec {
        resource_id: Some(id(name).as_str().to_owned()),
        client_id: Some(client_id(name).as_str().to_owned()),
        ..AzureIdentitySpec::default()
    };
    AzureIdentity { metadata: meta(namespace, name), spec, status: None }
}

/// A binding.
pub(crate) fn binding(
    namespace: &str,
    name: &str,
    identity: &str,
    selector: &str,
) -> AzureIdentityBinding {
    let spec = AzureIdentityBindingSpec {
        azure_identity: Some(identity.to_owned()),
        selector: Some(selector.to_owned()),
        weight: None,
    };
    AzureIdentityBinding { metadata: meta(namespace, name), spec, status: None }
}

/// The ARM id of a managed identity.
pub(crate) fn id(name: &str) -> IdentityId {
    format!(
        "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
    )
    .parse()
    .unwrap()
}

/// A scale set.
pub(crate) fn host(name: &str) -> Host {
    Host::from_provider_id(&format!(
        "azure:///subscriptions/s/resourceGroups/mc/providers/Microsoft.Compute/virtualMachineScaleSets/{name}"
    ))
    .unwrap()
}

/// The client id that ARM reports for a managed identity of that name.
pub(crate) fn client_id(name: &str) -> Guid {
    let hash = labels::short_hash(&[name]);
    format!("00000000-0000-0000-{}-{}", &hash[..4], &hash[4..]).parse().unwrap()
}

/// What ARM reports for a host with these identities.
pub(crate) fn attached<'a>(names: impl IntoIterator<Item = &'a str>) -> HostIdentities {
    let details = |name: &str| IdentityDetails {
        client_id: Some(client_id(name)),
        object_id: Some(client_id(&format!("{name}-object"))),
    };
    HostIdentities {
        attached: names.into_iter().map(|name| (id(name), details(name))).collect(),
        system_assigned: false,
        provisioning_state: Some("Succeeded".to_owned()),
    }
}
