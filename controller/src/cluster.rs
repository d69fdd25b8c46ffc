//! All that is known and that decisions depend on, with the indexes that say which pods a change
//! of something else concerns.
//!
//! Decides nothing. It is told of single objects and remembers whom that affects.

mod groups;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::crd::{AzureIdentityAttachment, IdentityProblem};
use api::host::HostError;
use api::{ArmId, AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding, Host, IdentityId};

use self::groups::Groups;
use crate::host::HostView;
use crate::snapshot::ObjectKey;
use crate::watch::{BoundPod, Cached, CloudNode, Kind, namespace};

/// What is known of a cluster and its hosts.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pods: HashMap<ObjectKey, Arc<BoundPod>>,
    identities: HashMap<ObjectKey, Identity>,
    bindings: HashMap<ObjectKey, Arc<AzureIdentityBinding>>,
    assigned: HashMap<ObjectKey, Arc<AzureAssignedIdentity>>,
    /// By the name of the node.
    hosts: HashMap<String, Result<Host, HostError>>,
    views: HashMap<Host, Arc<HostView>>,
    /// By the record that names the host.
    recorded: HashMap<ObjectKey, Host>,
    pods_by_label: Groups<String, ObjectKey>,
    pods_by_node: Groups<String, ObjectKey>,
    nodes_by_host: Groups<Host, String>,
    /// A binding without a selector selects nothing and is not here.
    bindings_by_selector: Groups<String, ObjectKey>,
    bindings_by_identity: Groups<ObjectKey, ObjectKey>,
    affected: Affected,
}

/// An identity, and what it takes to hand it out.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) object: Arc<AzureIdentity>,
    /// What has to be attached: nothing for service principals.
    pub(crate) attach: Result<Option<IdentityId>, IdentityProblem>,
}

/// What has to be decided again.
#[derive(Debug, Default)]
pub(crate) struct Affected {
    pub(crate) pods: HashSet<ObjectKey>,
    pub(crate) assigned: HashSet<ObjectKey>,
    pub(crate) identities: HashSet<ObjectKey>,
    pub(crate) bindings: HashSet<ObjectKey>,
    /// Hosts of which there is a record now.
    pub(crate) recorded: HashSet<Host>,
}

/// The identity that a binding names.
pub(crate) fn named_by(binding: &AzureIdentityBinding) -> ObjectKey {
    ObjectKey::new(namespace(&binding.metadata), binding.spec.identity_name())
}

// === impl Cluster: what is told ===

impl Cluster {
    /// A pod is like this now, or is gone.
    pub(crate) fn set_pod(&mut self, at: &ObjectKey, pod: Option<Arc<BoundPod>>) {
        let before = self.pods.get(at);
        if changes(before, pod.as_ref()) {
            if let Some(before) = before {
                self.pods_by_label.remove(before.label(), at);
                self.pods_by_node.remove(before.node(), at);
            }
            if let Some(pod) = &pod {
                self.pods_by_label.add(pod.label().to_owned(), at.clone());
                self.pods_by_node.add(pod.node().to_owned(), at.clone());
            }
            self.affected.pods.insert(at.clone());
        }
        put(&mut self.pods, at, pod);
    }

    /// A node is like this now, or is gone.
    pub(crate) fn set_node(&mut self, name: &str, node: Option<&CloudNode>) {
        let host = node.map(|node| {
            Host::from_provider_id(node.spec.provider_id.as_deref().unwrap_or_default())
        });
        if self.hosts.get(name) == host.as_ref() {
            return;
        }
        self.affected.pods.extend(self.pods_by_node.get(name).cloned());
        if let Some(Ok(before)) = self.hosts.remove(name) {
            self.nodes_by_host.remove(&before, name);
        }
        if let Some(Ok(host)) = &host {
            self.nodes_by_host.add(host.clone(), name.to_owned());
        }
        self.hosts.extend(host.map(|host| (name.to_owned(), host)));
    }

    /// An identity is like this now, or is gone.
    pub(crate) fn set_identity(&mut self, at: &ObjectKey, object: Option<Arc<AzureIdentity>>) {
        let before = self.identities.get(at).map(|identity| &identity.object);
        if changes(before, object.as_ref()) {
            for binding in self.bindings_by_identity.get(at) {
                if let Some(binding) = self.bindings.get(binding) {
                    let selected = self.pods_by_label.get(binding.spec.selector());
                    self.affected.pods.extend(selected.cloned());
                }
                self.affected.bindings.insert(binding.clone());
            }
        }
        self.affected.identities.insert(at.clone());
        put(&mut self.identities, at, object.map(Identity::of));
    }

    /// A binding is like this now, or is gone.
    pub(crate) fn set_binding(
        &mut self,
        at: &ObjectKey,
        binding: Option<Arc<AzureIdentityBinding>>,
    ) {
        let before = self.bindings.get(at).cloned();
        if changes(before.as_ref(), binding.as_ref()) {
            for one in before.iter().chain(&binding) {
                let selected = self.pods_by_label.get(one.spec.selector());
                self.affected.pods.extend(selected.cloned());
            }
            if let Some(before) = &before {
                self.bindings_by_selector.remove(before.spec.selector(), at);
                self.bindings_by_identity.remove(&named_by(before), at);
            }
            if let Some(binding) = &binding {
                if !binding.spec.selector().is_empty() {
                    let selector = binding.spec.selector().to_owned();
                    self.bindings_by_selector.add(selector, at.clone());
                }
                self.bindings_by_identity.add(named_by(binding), at.clone());
            }
        }
        self.affected.bindings.insert(at.clone());
        put(&mut self.bindings, at, binding);
    }

    /// An assigned identity is like this now, or is gone.
    pub(crate) fn set_assigned(
        &mut self,
        at: &ObjectKey,
        object: Option<Arc<AzureAssignedIdentity>>,
    ) {
        if changes(self.assigned.get(at), object.as_ref()) {
            self.affected.assigned.insert(at.clone());
        }
        put(&mut self.assigned, at, object);
    }

    /// The record of a host is like this now, or is gone.
    pub(crate) fn set_record(&mut self, at: &ObjectKey, record: Option<&AzureIdentityAttachment>) {
        let id = record.and_then(|record| record.spec.host.parse::<ArmId>().ok());
        let host = id.and_then(|id| Host::from_resource(&id));
        self.affected.recorded.extend(host.clone());
        put(&mut self.recorded, at, host);
    }

    /// This is known of a host now, or nothing.
    pub(crate) fn set_view(&mut self, host: &Host, view: Option<Arc<HostView>>) {
        if self.views.get(host) == view.as_ref() {
            return;
        }
        for node in self.nodes_by_host.get(host) {
            self.affected.pods.extend(self.pods_by_node.get(node.as_str()).cloned());
        }
        match view {
            Some(view) => drop(self.views.insert(host.clone(), view)),
            None => drop(self.views.remove(host)),
        }
    }

    /// An assigned identity is to be looked at again, although it is as before.
    pub(crate) fn review(&mut self, assigned: ObjectKey) {
        self.affected.assigned.insert(assigned);
    }

    /// A host is to be looked after again, if there is a record of it.
    pub(crate) fn review_record(&mut self, host: &Host) {
        let recorded = self.recorded.values().find(|recorded| *recorded == host);
        self.affected.recorded.extend(recorded.cloned());
    }

    /// Everything is to be decided again.
    pub(crate) fn review_all(&mut self) {
        self.affected.pods.extend(self.pods.keys().cloned());
        self.affected.assigned.extend(self.assigned.keys().cloned());
        self.affected.identities.extend(self.identities.keys().cloned());
        self.affected.bindings.extend(self.bindings.keys().cloned());
        self.affected.recorded.extend(self.recorded.values().cloned());
    }

    /// What has to be decided again because of all that was told since the last time.
    pub(crate) fn take_affected(&mut self) -> Affected {
        std::mem::take(&mut self.affected)
    }
}

// === impl Cluster: what is asked ===

impl Cluster {
    /// A pod.
    pub(crate) fn pod(&self, at: &ObjectKey) -> Option<&BoundPod> {
        self.pods.get(at).map(|pod| &**pod)
    }

    /// An identity.
    pub(crate) fn identity(&self, at: &ObjectKey) -> Option<&Identity> {
        self.identities.get(at)
    }

    /// A binding.
    pub(crate) fn binding(&self, at: &ObjectKey) -> Option<&AzureIdentityBinding> {
        self.bindings.get(at).map(|binding| &**binding)
    }

    /// The bindings with this selector.
    pub(crate) fn bindings_for(&self, label: &str) -> impl Iterator<Item = &AzureIdentityBinding> {
        let keys = self.bindings_by_selector.get(label);
        keys.filter_map(|at| self.bindings.get(at)).map(|binding| &**binding)
    }

    /// An assigned identity.
    pub(crate) fn assigned(&self, at: &ObjectKey) -> Option<&Arc<AzureAssignedIdentity>> {
        self.assigned.get(at)
    }

    /// The host of a node; `None` if there is no such node.
    pub(crate) fn host(&self, node: &str) -> Option<&Result<Host, HostError>> {
        self.hosts.get(node)
    }

    /// What is known of a host.
    pub(crate) fn view(&self, host: &Host) -> Option<&HostView> {
        self.views.get(host).map(|view| &**view)
    }

    /// The bindings that name an identity.
    pub(crate) fn bindings_of(&self, identity: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.bindings_by_identity.get(identity)
    }

    /// The names of all objects of a kind.
    pub(crate) fn held(&self, kind: Kind) -> Vec<ObjectKey> {
        match kind {
            Kind::Pods => self.pods.keys().cloned().collect(),
            Kind::Nodes => self.hosts.keys().map(|name| ObjectKey::new("", name)).collect(),
            Kind::Identities => self.identities.keys().cloned().collect(),
            Kind::Bindings => self.bindings.keys().cloned().collect(),
            Kind::Assigned => self.assigned.keys().cloned().collect(),
            Kind::Attachments => self.recorded.keys().cloned().collect(),
        }
    }
}

// === impl Identity ===

impl Identity {
    fn of(object: Arc<AzureIdentity>) -> Self {
        let attach = object.validate().and_then(|()| object.spec.identity_id());
        Self { object, attach }
    }
}

fn changes<K: Cached>(before: Option<&Arc<K>>, now: Option<&Arc<K>>) -> bool {
    match (before, now) {
        (None, None) => false,
        (Some(before), Some(now)) => !Arc::ptr_eq(before, now) && now.matters(before),
        _ => true,
    }
}

fn put<V>(map: &mut HashMap<ObjectKey, V>, at: &ObjectKey, value: Option<V>) {
    match value {
        None => drop(map.remove(at)),
        Some(value) => match map.get_mut(at) {
            Some(held) => *held = value,
            None => drop(map.insert(at.clone(), value)),
        },
    }
}
