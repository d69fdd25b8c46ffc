//! Objects and fakes that the tests of several modules use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::matching::Scope;
use api::{
    AzureIdentity, AzureIdentityBinding, AzureIdentityBindingSpec, AzureIdentitySpec, Guid, Host,
    IdentityId, labels,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cluster::Cluster;
use crate::compute::{HostIdentities, IdentityDetails};
use crate::host::HostView;
use crate::ledger::{Ledger, Settled};
use crate::plan::{Change, change};
use crate::snapshot::{ObjectKey, Snapshot};
use crate::turns::{Target, Turns};
use crate::watch::{BoundPod, BoundPodSpec, BoundPodStatus, Cached, CloudNode, CloudNodeSpec};

/// A cluster and what was decided about it. It is told of what differs from before, no more.
pub(crate) struct Engine {
    pub(crate) cluster: Cluster,
    pub(crate) ledger: Ledger,
    pub(crate) turns: Turns,
    pub(crate) now: Timestamp,
    seen: Snapshot,
}

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
        status: BoundPodStatus { phase: Some("Running".to_owned()), scheduled: 0 },
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

/// A cluster that was told of everything.
pub(crate) fn cluster(world: &Snapshot) -> Cluster {
    let mut engine = Engine::default();
    engine.tell(world);
    engine.cluster
}

// === impl Engine ===

impl Default for Engine {
    fn default() -> Self {
        Self {
            cluster: Cluster::default(),
            ledger: Ledger::new(Scope::Cluster),
            turns: Turns::default(),
            now: Timestamp::UNIX_EPOCH,
            seen: Snapshot::default(),
        }
    }
}

impl Engine {
    /// One that begins then.
    pub(crate) fn at(now: Timestamp) -> Self {
        Self { now, ..Self::default() }
    }

    /// Tells of what differs, and decides what that concerns.
    pub(crate) fn follow(&mut self, world: &Snapshot) -> Settled {
        self.tell(world);
        self.settle()
    }

    /// Says what is known of a host.
    pub(crate) fn see(&mut self, host: &Host, view: Option<Arc<HostView>>) {
        self.cluster.set_view(host, view);
    }

    /// Decides what is concerned by what was told.
    pub(crate) fn settle(&mut self) -> Settled {
        let affected = self.cluster.take_affected();
        let settled = self.ledger.settle(&self.cluster, affected, self.now);
        for (at, rank) in &settled.due {
            self.turns.want(Target::Assigned(at.clone()), *rank);
        }
        settled
    }

    /// The writes that are due, in their order.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let wanted = self.turns.wanted().into_iter();
        wanted.filter_map(|(_, target)| self.change(&target)).collect()
    }

    fn change(&self, target: &Target) -> Option<Change> {
        let Target::Assigned(at) = target else { return None };
        let change = change(&self.cluster, at, self.ledger.owner(at), Scope::Cluster);
        assert!(change.is_some(), "{at} has its turn for nothing");
        change
    }

    fn tell(&mut self, world: &Snapshot) {
        let before = std::mem::replace(&mut self.seen, world.clone());
        let cluster = &mut self.cluster;
        differing(&before.pods, &world.pods, |at, now| cluster.set_pod(&at, now));
        differing(&before.nodes, &world.nodes, |at, now| {
            cluster.set_node(&at.name, now.as_deref());
        });
        differing(&before.identities, &world.identities, |at, now| cluster.set_identity(&at, now));
        differing(&before.bindings, &world.bindings, |at, now| cluster.set_binding(&at, now));
        differing(&before.assigned, &world.assigned, |at, now| cluster.set_assigned(&at, now));
        differing(&before.attachments, &world.attachments, |at, now| {
            cluster.set_record(&at, now.as_deref());
        });
    }
}

/// Calls `tell` for each object that is new, gone or another one.
fn differing<K: Cached>(
    before: &[Arc<K>],
    now: &[Arc<K>],
    mut tell: impl FnMut(ObjectKey, Option<Arc<K>>),
) {
    let by_key = |objects: &[Arc<K>]| -> BTreeMap<ObjectKey, Arc<K>> {
        objects.iter().map(|object| (ObjectKey::of(&**object), object.clone())).collect()
    };
    let (before, mut now) = (by_key(before), by_key(now));
    let keys: BTreeSet<ObjectKey> = before.keys().chain(now.keys()).cloned().collect();
    for at in keys {
        let (before, now) = (before.get(&at), now.remove(&at));
        let same = matches!((before, &now), (Some(before), Some(now)) if Arc::ptr_eq(before, now));
        if !same {
            tell(at, now);
        }
    }
}
