//! `AzureAssignedIdentity` objects that MIC left behind: which they are, what they prove, and when
//! nobody needs them any more. Pure.
//!
//! Pods that were not restarted yet get their tokens from aad-pod-identity's node agent (NMI),
//! which goes by these objects or by ours. One is removed only when ours does the same for the pod.

use std::collections::{BTreeMap, BTreeSet};

use api::crd::assigned_name;
use api::matching::{Match, Scope, matches};
use api::{AssignedState, AzureAssignedIdentity, AzureIdentity, Host, IdentityId};

use super::adopter::Claims;
use crate::snapshot::{ObjectKey, Snapshot, key};
use crate::watch::{BoundPod, name, namespace, uid};

/// What keeps MIC's objects from being deleted.
pub(super) const FINALIZER: &str = "azureassignedidentity.finalizers.aadpodidentity.k8s.io";

/// Where MIC puts the objects of identities that are not namespaced.
const HOME: &str = "default";

/// What is to be done about all of them.
#[derive(Debug, Default)]
pub(super) struct Review {
    /// Identities that MIC attached, by host.
    pub(super) claims: Claims,
    /// Those that nobody needs any more.
    pub(super) removable: Vec<Removal>,
    /// Those that still stand for something.
    pub(super) kept: Vec<(ObjectKey, Keep)>,
}

/// One object that can go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removal {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    pub(super) version: String,
    /// The finalizers that stay: those of others.
    pub(super) finalizers: Vec<String>,
    /// Whether MIC's is among those that the object has.
    pub(super) held: bool,
}

/// Why an object stays for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Keep {
    /// It is the only proof that MIC attached the identity.
    Unrecorded,
    /// The pod has nothing else by which its node agent finds the identity.
    InUse,
}

/// Whether MIC wrote the object: it knows no pod uid, and joins names as we never do.
pub(crate) fn is_leftover(object: &AzureAssignedIdentity) -> bool {
    let spec = &object.spec;
    let Some(identity) = &spec.identity else { return false };
    let (identity_ns, identity) = key(&**identity);
    let (at, called) = key(object);
    spec.pod_uid.is_empty()
        && !spec.pod.is_empty()
        && (at == HOME || at == identity_ns)
        && called == format!("{}-{}-{identity}", spec.pod, spec.pod_namespace)
}

/// Looks at all of them.
pub(super) fn review(snapshot: &Snapshot, scope: Scope) -> Review {
    let leftovers: Vec<_> = snapshot.assigned.iter().filter(|object| is_leftover(object)).collect();
    let mut review = Review::default();
    if leftovers.is_empty() {
        return review;
    }
    let world = World::of(snapshot, scope);
    for object in leftovers {
        let at = key(&**object);
        let at = ObjectKey::new(at.0, at.1);
        let claim = world.claim(object);
        let recorded = claim.as_ref().is_none_or(|(host, id)| {
            world.recorded.get(host).is_some_and(|recorded| recorded.contains(id))
        });
        if let Some((host, id)) = claim {
            review.claims.entry(host).or_default().insert(id);
        }
        if !recorded {
            review.kept.push((at, Keep::Unrecorded));
        } else if world.is_in_use(object) {
            review.kept.push((at, Keep::InUse));
        } else {
            review.removable.push(Removal::of(at, object));
        }
    }
    review
}

/// What the objects are compared with.
struct World<'a> {
    snapshot: &'a Snapshot,
    scope: Scope,
    hosts: BTreeMap<&'a str, Host>,
    pods: BTreeMap<(&'a str, &'a str), &'a BoundPod>,
    identities: BTreeMap<(&'a str, &'a str), &'a AzureIdentity>,
    /// Our own that can be used.
    assigned: BTreeSet<(&'a str, &'a str)>,
    recorded: BTreeMap<Host, BTreeSet<IdentityId>>,
}

// === impl World ===

impl<'a> World<'a> {
    fn of(snapshot: &'a Snapshot, scope: Scope) -> Self {
        let host = |id: Option<&str>| Host::from_provider_id(id.unwrap_or_default()).ok();
        let nodes = snapshot.nodes.iter();
        let recorded = snapshot.attachments.iter().filter_map(|record| {
            let host = Host::from_resource(&record.spec.host.parse().ok()?)?;
            let ids = record.spec.identities.iter();
            Some((host, ids.filter_map(|entry| entry.resource_id.parse().ok()).collect()))
        });
        let usable = |object: &&AzureAssignedIdentity| object.state() == AssignedState::Assigned;
        Self {
            snapshot,
            scope,
            hosts: nodes
                .filter_map(|node| {
                    Some((name(&node.metadata), host(node.spec.provider_id.as_deref())?))
                })
                .collect(),
            pods: snapshot.pods.iter().map(|pod| (key(&**pod), &**pod)).collect(),
            identities: snapshot.identities.iter().map(|one| (key(&**one), &**one)).collect(),
            assigned: snapshot.assigned.iter().map(|one| &**one).filter(usable).map(key).collect(),
            recorded: recorded.collect(),
        }
    }

    /// The identity that MIC attached for the object, and where. MIC itself detached only what it
    /// had seen to be assigned; a state that is empty is one of its oldest versions'.
    fn claim(&self, object: &AzureAssignedIdentity) -> Option<(Host, IdentityId)> {
        let state = object.status.as_ref().map_or("", |status| status.status.as_str());
        if !state.is_empty() && state != AssignedState::Assigned.as_str() {
            return None;
        }
        let id = object.spec.identity.as_ref()?.spec.identity_id().ok()??;
        Some((self.hosts.get(object.spec.node_name.as_str())?.clone(), id))
    }

    /// Whether a pod may use the identity and has no usable object of ours for it yet.
    fn is_in_use(&self, object: &AzureAssignedIdentity) -> bool {
        let spec = &object.spec;
        let Some(pod) = self.pods.get(&(spec.pod_namespace.as_str(), spec.pod.as_str())) else {
            return false;
        };
        let Some(identity) = spec.identity.as_deref().map(key) else { return false };
        if pod.is_finished() || !self.is_entitled(pod, identity) {
            return false;
        }
        let ours = assigned_name(&spec.pod, uid(&pod.metadata), identity.0, identity.1);
        !self.assigned.contains(&(spec.pod_namespace.as_str(), ours.as_str()))
    }

    fn is_entitled(&self, pod: &BoundPod, identity: (&str, &str)) -> bool {
        let bindings = self.snapshot.bindings.iter().map(|binding| &**binding);
        let find = |ns: &str, name: &str| self.identities.get(&(ns, name)).copied();
        let found = matches(namespace(&pod.metadata), pod.label(), bindings, find, self.scope);
        found.iter().any(|one| {
            matches!(one, Match::Identity { identity: object, .. } if key(*object) == identity)
        })
    }
}

// === impl Removal ===

impl Removal {
    fn of(at: ObjectKey, object: &AzureAssignedIdentity) -> Self {
        let meta = &object.metadata;
        let (held, others): (Vec<_>, Vec<_>) =
            meta.finalizers.iter().flatten().cloned().partition(|one| one == FINALIZER);
        Self {
            key: at,
            uid: uid(meta).to_owned(),
            version: meta.resource_version.clone().unwrap_or_default(),
            finalizers: others,
            held: !held.is_empty(),
        }
    }
}

#[cfg(test)]
#[path = "leftover_tests.rs"]
mod tests;
