//! What the caches keep of each kind: only what is read, since every byte here is there once a pod.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use api::crd::AzureIdentityAttachment;
use api::slim::{Readable, Unread};
use api::{AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding, labels};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Kind;

/// A kind as the caches hold it.
pub(crate) trait Cached: Readable + Clone + fmt::Debug + Send + Sync + 'static {
    /// Which kind it is.
    const KIND: Kind;

    /// Drops what is never read.
    fn trim(&mut self) {
        keep(self.meta_mut(), &[], &[]);
    }

    /// Whether a change from `before` can matter to a decision.
    fn matters(&self, before: &Self) -> bool;
}

/// What is read of a pod.
#[derive(Resource, Clone, Debug, Default)]
#[resource(inherit = Pod)]
pub(crate) struct BoundPod {
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: BoundPodSpec,
    pub(crate) status: BoundPodStatus,
}

/// What is read of a pod's spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BoundPodSpec {
    #[serde(default)]
    pub(crate) node_name: Option<String>,
}

/// What is read of a pod's status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct BoundPodStatus {
    #[serde(default)]
    pub(crate) phase: Option<String>,
    /// When the pod was scheduled, in seconds since 1970; 0 if nothing says so.
    #[serde(rename = "conditions", default, deserialize_with = "scheduled")]
    pub(crate) scheduled: i64,
}

/// What is read of a pod's condition.
#[derive(Deserialize)]
struct PodCondition<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(rename = "lastTransitionTime", borrow, default)]
    since: Option<Cow<'a, str>>,
}

/// Reads the conditions one by one and keeps a number.
struct Scheduled;

/// What is read of a node.
#[derive(Resource, Clone, Debug, Default)]
#[resource(inherit = Node)]
pub(crate) struct CloudNode {
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: CloudNodeSpec,
}

/// What is read of a node's spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct CloudNodeSpec {
    #[serde(rename = "providerID", default)]
    pub(crate) provider_id: Option<String>,
}

/// The namespace of an object; empty if it has none.
pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// The name of an object.
pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// The uid of an object.
pub(crate) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

// === impl BoundPod ===

impl BoundPod {
    /// The value of the label that bindings select by; empty if there is none.
    pub(crate) fn label(&self) -> &str {
        let labels = self.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(labels::BINDING)).map_or("", String::as_str)
    }

    /// The node; empty until the pod is scheduled.
    pub(crate) fn node(&self) -> &str {
        self.spec.node_name.as_deref().unwrap_or_default()
    }

    /// When the pod was scheduled, as far as it says so.
    pub(crate) fn scheduled(&self) -> Option<Timestamp> {
        let seconds = Some(self.status.scheduled).filter(|seconds| *seconds > 0)?;
        Timestamp::from_second(seconds).ok()
    }

    /// Whether no container runs any more or ever will. A pod that is only being deleted still
    /// runs, and may need tokens to shut down.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }
}

impl Readable for BoundPod {
    type Spec = Option<BoundPodSpec>;
    type Status = Option<BoundPodStatus>;

    fn of(metadata: ObjectMeta, spec: Self::Spec, status: Self::Status) -> Self {
        Self { metadata, spec: spec.unwrap_or_default(), status: status.unwrap_or_default() }
    }
}

fn scheduled<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    from.deserialize_any(Scheduled)
}

impl<'de> Visitor<'de> for Scheduled {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the conditions of a pod")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut conditions: A) -> Result<i64, A::Error> {
        let mut scheduled = 0;
        while let Some(condition) = conditions.next_element::<PodCondition<'de>>()? {
            if (&*condition.kind, &*condition.status) == ("PodScheduled", "True") {
                let since = condition.since.and_then(|since| since.parse::<Timestamp>().ok());
                scheduled = since.map_or(0, Timestamp::as_second);
            }
        }
        Ok(scheduled)
    }

    fn visit_unit<E>(self) -> Result<i64, E> {
        Ok(0)
    }
}

impl Cached for BoundPod {
    const KIND: Kind = Kind::Pods;

    fn trim(&mut self) {
        keep(&mut self.metadata, &[labels::BINDING], &[]);
    }

    fn matters(&self, before: &Self) -> bool {
        self.metadata.uid != before.metadata.uid
            || self.label() != before.label()
            || self.node() != before.node()
            || self.is_finished() != before.is_finished()
    }
}

// === the other kinds ===

impl Readable for CloudNode {
    type Spec = Option<CloudNodeSpec>;
    type Status = Unread;

    fn of(metadata: ObjectMeta, spec: Self::Spec, _: Unread) -> Self {
        Self { metadata, spec: spec.unwrap_or_default() }
    }
}

impl Cached for CloudNode {
    const KIND: Kind = Kind::Nodes;

    fn matters(&self, before: &Self) -> bool {
        self.spec != before.spec || self.metadata.uid != before.metadata.uid
    }
}

impl Cached for AzureIdentity {
    const KIND: Kind = Kind::Identities;

    fn trim(&mut self) {
        keep(&mut self.metadata, &[], &[labels::BEHAVIOR]);
    }

    fn matters(&self, before: &Self) -> bool {
        // A change of the status is the controller's own.
        self.spec != before.spec
            || self.metadata.uid != before.metadata.uid
            || self.metadata.generation != before.metadata.generation
            || self.metadata.annotations != before.metadata.annotations
    }
}

impl Cached for AzureIdentityBinding {
    const KIND: Kind = Kind::Bindings;

    fn matters(&self, before: &Self) -> bool {
        self.spec != before.spec
            || self.metadata.uid != before.metadata.uid
            || self.metadata.generation != before.metadata.generation
    }
}

impl Cached for AzureAssignedIdentity {
    const KIND: Kind = Kind::Assigned;

    fn matters(&self, before: &Self) -> bool {
        self.spec != before.spec
            || self.status != before.status
            || self.metadata.uid != before.metadata.uid
    }
}

impl Cached for AzureIdentityAttachment {
    const KIND: Kind = Kind::Attachments;

    fn matters(&self, before: &Self) -> bool {
        self.spec != before.spec
    }
}

/// Reduces metadata to what identifies the object, and the named labels and annotations.
fn keep(meta: &mut ObjectMeta, labels: &[&str], annotations: &[&str]) {
    let only = |map: Option<BTreeMap<String, String>>, keys: &[&str]| {
        let mut map = map?;
        map.retain(|key, _| keys.contains(&key.as_str()));
        (!map.is_empty()).then_some(map)
    };
    *meta = ObjectMeta {
        name: meta.name.take(),
        namespace: meta.namespace.take(),
        uid: meta.uid.take(),
        resource_version: meta.resource_version.take(),
        generation: meta.generation,
        finalizers: meta.finalizers.take(),
        labels: only(meta.labels.take(), labels),
        annotations: only(meta.annotations.take(), annotations),
        ..ObjectMeta::default()
    };
}

#[cfg(test)]
mod tests {
    use api::Slim;

    use super::*;

    fn pod(json: serde_json::Value) -> BoundPod {
        let Slim(mut pod): Slim<BoundPod> = serde_json::from_value(json).unwrap();
        pod.trim();
        pod
    }

    #[test]
    fn a_pod_is_cut_down_to_what_is_read() {
        let pod = pod(serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "team", "uid": "u",
                "labels": {"aadpodidbinding": "sel", "app": "web"},
                "annotations": {"big": "x"}, "managedFields": [{"manager": "m"}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        }));
        assert_eq!((pod.label(), pod.node(), pod.is_finished()), ("sel", "n1", false));
        assert_eq!(pod.metadata.labels.as_ref().unwrap().len(), 1);
        assert!(pod.metadata.annotations.is_none() && pod.metadata.managed_fields.is_none());
    }

    #[test]
    fn a_pod_says_when_it_was_scheduled() {
        let condition = |kind: &str, status: &str, since: serde_json::Value| {
            serde_json::json!({"type": kind, "status": status, "lastTransitionTime": since,
                "observedGeneration": 1, "reason": null})
        };
        let ready = condition("Ready", "True", "2026-01-01T00:00:09Z".into());
        let cases = [
            (
                serde_json::json!([
                    ready,
                    condition("PodScheduled", "True", "2026-01-01T00:00:07Z".into()),
                    ready,
                ]),
                Some("2026-01-01T00:00:07Z"),
            ),
            (
                serde_json::json!([condition(
                    "PodScheduled",
                    "False",
                    "2026-01-01T00:00:07Z".into()
                )]),
                None,
            ),
            (serde_json::json!([condition("PodScheduled", "True", serde_json::Value::Null)]), None),
            (serde_json::json!([condition("PodScheduled", "True", "now".into())]), None),
            (serde_json::json!([ready]), None),
            (serde_json::json!([]), None),
            (serde_json::Value::Null, None),
        ];
        for (conditions, expected) in cases {
            let json = serde_json::json!({"metadata": {"name": "web"},
                "status": {"phase": "Running", "conditions": conditions}});
            let found = pod(json.clone()).scheduled().map(|at| at.to_string());
            assert_eq!(found.as_deref(), expected, "{json}");
            let Slim(read): Slim<BoundPod> = serde_json::from_str(&json.to_string()).unwrap();
            assert_eq!(read.scheduled(), pod(json).scheduled(), "from bytes");
        }
        assert_eq!(size_of::<BoundPodStatus>(), size_of::<Option<String>>() + 8);
    }

    #[test]
    fn only_changes_that_decide_something_matter() {
        let base = serde_json::json!({"metadata": {"name": "web", "uid": "u",
            "labels": {"aadpodidbinding": "sel"}}, "spec": {"nodeName": "n1"},
            "status": {"phase": "Pending"}});
        let cases = [
            ("/metadata/uid", "v", true),
            ("/metadata/labels/aadpodidbinding", "other", true),
            ("/spec/nodeName", "n2", true),
            ("/status/phase", "Running", false),
            ("/status/phase", "Succeeded", true),
        ];
        for (path, value, expected) in cases {
            let mut changed = base.clone();
            *changed.pointer_mut(path).unwrap() = value.into();
            assert_eq!(pod(changed).matters(&pod(base.clone())), expected, "{path} {value}");
        }
    }
}
