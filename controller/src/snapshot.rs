//! What the caches held at one moment, and how their objects are named.

use std::sync::Arc;

use api::crd::AzureIdentityAttachment;
use api::{AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding};

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

// === impl ObjectKey ===

impl ObjectKey {
    /// The key of `namespace/name`.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of an object.
    pub(crate) fn of<K: kube::Resource>(object: &K) -> Self {
        let (namespace, name) = key(object);
        Self::new(namespace, name)
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
}

/// The namespace and name of an object, borrowed.
pub(crate) fn key<K: kube::Resource>(object: &K) -> (&str, &str) {
    (namespace(object.meta()), name(object.meta()))
}
