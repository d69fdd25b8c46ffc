//! One immutable view of the caches, and the indexes that decisions look things up in.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use api::crd::{AzureIdentityAttachment, IdentityProblem};
use api::host::HostError;
use api::{ArmId, AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding, Host, IdentityId};

use crate::watch::{BoundPod, CloudNode, Stores, name, namespace};

/// A namespace and a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What the caches held at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) pods: Vec<Arc<BoundPod>>,
    pub(crate) nodes: Vec<Arc<CloudNode>>,
    pub(crate) identities: Vec<Arc<AzureIdentity>>,
    pub(crate) bindings: Vec<Arc<AzureIdentityBinding>>,
    pub(crate) assigned: Vec<Arc<AzureAssignedIdentity>>,
    pub(crate) attachments: Vec<Arc<AzureIdentityAttachment>>,
}

/// A snapshot, indexed.
pub(crate) struct Index<'a> {
    pub(crate) pods: &'a [Arc<BoundPod>],
    pub(crate) identities: HashMap<(&'a str, &'a str), Identity<'a>>,
    /// By selector; a binding without one selects nothing and is not here.
    pub(crate) selectors: HashMap<&'a str, Vec<&'a AzureIdentityBinding>>,
    pub(crate) bindings: &'a [Arc<AzureIdentityBinding>],
    pub(crate) assigned: HashMap<(&'a str, &'a str), &'a AzureAssignedIdentity>,
    pub(crate) hosts: HashMap<&'a str, Result<Host, HostError>>,
}

/// An identity, and what it takes to hand it out.
pub(crate) struct Identity<'a> {
    pub(crate) object: &'a AzureIdentity,
    /// What has to be attached: nothing for service principals.
    pub(crate) attach: Result<Option<IdentityId>, IdentityProblem>,
}

// === impl ObjectKey ===

impl ObjectKey {
    /// The key of `namespace/name`.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Takes what the caches hold now.
    pub(crate) fn take(stores: &Stores) -> Self {
        Self {
            pods: stores.pods.state(),
            nodes: stores.nodes.state(),
            identities: stores.identities.state(),
            bindings: stores.bindings.state(),
            assigned: stores.assigned.state(),
            attachments: stores.attachments.state(),
        }
    }

    /// The hosts on which the controller may have attached something.
    pub(crate) fn recorded_hosts(&self) -> BTreeSet<Host> {
        let ids =
            self.attachments.iter().filter_map(|record| record.spec.host.parse::<ArmId>().ok());
        ids.filter_map(|id| Host::from_resource(&id)).collect()
    }

    /// Indexes the snapshot.
    pub(crate) fn index(&self) -> Index<'_> {
        let mut selectors: HashMap<&str, Vec<&AzureIdentityBinding>> = HashMap::new();
        for binding in &self.bindings {
            if !binding.spec.selector().is_empty() {
                selectors.entry(binding.spec.selector()).or_default().push(binding);
            }
        }
        Index {
            pods: &self.pods,
            identities: self
                .identities
                .iter()
                .map(|object| (key(&**object), Identity::of(object)))
                .collect(),
            selectors,
            bindings: &self.bindings,
            assigned: self.assigned.iter().map(|object| (key(&**object), &**object)).collect(),
            hosts: self.nodes.iter().map(|node| (name(&node.metadata), host(node))).collect(),
        }
    }
}

/// The namespace and name of an object, borrowed.
pub(crate) fn key<K: kube::Resource>(object: &K) -> (&str, &str) {
    (namespace(object.meta()), name(object.meta()))
}

fn host(node: &CloudNode) -> Result<Host, HostError> {
    Host::from_provider_id(node.spec.provider_id.as_deref().unwrap_or_default())
}

// === impl Identity ===

impl<'a> Identity<'a> {
    fn of(object: &'a AzureIdentity) -> Self {
        let attach = object.validate().and_then(|()| object.spec.identity_id());
        Self { object, attach }
    }
}
