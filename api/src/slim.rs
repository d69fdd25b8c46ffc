//! Reads objects of the API server without what nobody looks at: most of a pod, most of any
//! object's metadata. It is skipped over where it stands, and no memory is taken for it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::core::PartialObjectMeta;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::crd::{
    AzureAssignedIdentity, AzureAssignedIdentitySpec, AzureAssignedIdentityStatus, AzureIdentity,
    AzureIdentityAttachment, AzureIdentityAttachmentSpec, AzureIdentityBinding,
    AzureIdentityBindingSpec, AzureIdentityBindingStatus, AzureIdentitySpec, AzureIdentityStatus,
    AzurePodIdentityException, AzurePodIdentityExceptionSpec,
};
use crate::labels::GROUP;

/// An object as it comes from the API server.
///
/// Of its metadata there are: name, namespace, uid, resource version, generation, time of
/// deletion, finalizers, labels, and those of the annotations that are this project's; where none
/// is, there are no annotations at all.
#[derive(Clone, Debug)]
pub struct Slim<K>(pub K);

/// A kind that can be read so: one of a process's own with the fields that it looks at, or one of
/// this crate's, or [`PartialObjectMeta`].
pub trait Readable: Resource<DynamicType = ()> + Sized {
    /// What is read of the `spec`; an `Option` if it may be missing.
    type Spec: DeserializeOwned;
    /// What is read of the `status`; an `Option` if it may be missing.
    type Status: DeserializeOwned;

    /// The object of these parts.
    fn of(metadata: ObjectMeta, spec: Self::Spec, status: Self::Status) -> Self;
}

/// A `spec` or `status` of which nothing is read, whether it is there or not.
pub type Unread = Option<IgnoredAny>;

/// An object's parts.
#[derive(Deserialize)]
struct Parts<S, T> {
    #[serde(default, deserialize_with = "metadata")]
    metadata: ObjectMeta,
    spec: S,
    status: T,
}

/// The metadata that somebody looks at, be it kube's watcher.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SlimMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<OurAnnotations>,
}

/// Reads metadata.
fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let meta = Option::<SlimMeta>::deserialize(from)?.unwrap_or_default();
    let annotations = meta.annotations.map(|OurAnnotations(annotations)| annotations);
    Ok(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        generation: meta.generation,
        deletion_timestamp: meta.deletion_timestamp,
        finalizers: meta.finalizers,
        labels: meta.labels,
        annotations: annotations.filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    })
}

/// The annotations of this project. Those of others can be as large as the object itself.
#[derive(Default)]
struct OurAnnotations(BTreeMap<String, String>);

/// The key of an annotation, if it is one of ours.
struct OurKey(Option<String>);

// === impl Slim ===

impl<'de, K: Readable> Deserialize<'de> for Slim<K> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Parts { metadata, spec, status } = Parts::deserialize(from)?;
        Ok(Self(K::of(metadata, spec, status)))
    }
}

impl<K: Resource> Resource for Slim<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &K::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &K::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &K::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &K::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

// === impl OurAnnotations ===

impl<'de> Deserialize<'de> for OurAnnotations {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Self::default())
    }
}

impl<'de> Visitor<'de> for OurAnnotations {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("annotations")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut all: A) -> Result<Self, A::Error> {
        while let Some(OurKey(ours)) = all.next_key()? {
            match ours {
                Some(key) => drop(self.0.insert(key, all.next_value()?)),
                None => drop(all.next_value::<IgnoredAny>()?),
            }
        }
        Ok(self)
    }
}

// === impl OurKey ===

impl<'de> Deserialize<'de> for OurKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Self(None))
    }
}

impl Visitor<'_> for OurKey {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key of an annotation")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self, E> {
        let ours = key.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with('/'));
        Ok(Self(ours.then(|| key.to_owned())))
    }
}

// === impl Readable ===

/// The kinds that have a status of their own.
macro_rules! readable {
    ($($kind:ident { $spec:ident, $status:ident })*) => {$(
        impl Readable for $kind {
            type Spec = $spec;
            type Status = Option<$status>;

            fn of(metadata: ObjectMeta, spec: $spec, status: Self::Status) -> Self {
                Self { metadata, spec, status }
            }
        }
    )*};
}

readable! {
    AzureAssignedIdentity { AzureAssignedIdentitySpec, AzureAssignedIdentityStatus }
    AzureIdentity { AzureIdentitySpec, AzureIdentityStatus }
    AzureIdentityBinding { AzureIdentityBindingSpec, AzureIdentityBindingStatus }
}

impl Readable for AzureIdentityAttachment {
    type Spec = AzureIdentityAttachmentSpec;
    type Status = Unread;

    // What is said of the host is for people; its writer reads it where it writes.
    fn of(metadata: ObjectMeta, spec: Self::Spec, _: Unread) -> Self {
        Self { metadata, ..Self::new("", spec) }
    }
}

impl Readable for AzurePodIdentityException {
    type Spec = AzurePodIdentityExceptionSpec;
    type Status = Unread;

    fn of(metadata: ObjectMeta, spec: Self::Spec, _: Unread) -> Self {
        Self { metadata, spec }
    }
}

impl<K: Resource<DynamicType = ()>> Readable for PartialObjectMeta<K> {
    type Spec = Unread;
    type Status = Unread;

    fn of(metadata: ObjectMeta, _: Unread, _: Unread) -> Self {
        Self { types: None, metadata, _phantom: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;
    use k8s_openapi::api::core::v1::{Namespace, Pod};
    use serde_json::{Value, json};

    use super::*;

    fn read<K: Readable>(object: Value) -> K {
        let Slim(object) = serde_json::from_value(object).unwrap();
        object
    }

    fn meta(metadata: &Value) -> ObjectMeta {
        read::<PartialObjectMeta<DaemonSet>>(json!({"metadata": metadata})).metadata
    }

    #[test]
    fn metadata_is_read_as_ever_but_for_what_nobody_looks_at() {
        let mut json = json!({
            "name": "web", "namespace": "team", "uid": "u", "resourceVersion": "7",
            "generation": 2, "deletionTimestamp": "2025-01-01T00:00:00Z", "finalizers": ["f"],
            "labels": {"app": "web", "aadpodidbinding": "db"},
            "annotations": {"aadpodidentity.k8s.io/Behavior": "namespaced"},
        });
        let expected: ObjectMeta = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(meta(&json), expected);
        // None of these could be read if somebody tried to.
        for (field, unread) in [
            ("managedFields", json!("odd")),
            ("ownerReferences", json!({"odd": [{}]})),
            ("creationTimestamp", json!(7)),
            ("generateName", json!([])),
            ("new", json!({"a": {"b": [1, "c", null, true, 0.5]}})),
        ] {
            json[field] = unread;
            assert_eq!(meta(&json), expected, "{field}");
        }
    }

    #[test]
    fn annotations_are_kept_if_they_are_ours() {
        for (annotations, kept) in [
            (json!(null), None),
            (json!({}), None),
            (json!({"a": "b"}), None),
            // Skipped, not read: this is no text.
            (json!({"a": 7, "b": {"c": []}}), None),
            (json!({"aadpodidentity.k8s.io": "x", "aadpodidentity.k8s.io.evil/a": "x"}), None),
            (json!({"x.aadpodidentity.k8s.io/a": "x", "AADPODIDENTITY.k8s.io/a": "x"}), None),
            (
                json!({"a": "b", "aadpodidentity.k8s.io/a": "x\ny", "c": "d"}),
                Some(("aadpodidentity.k8s.io/a", "x\ny")),
            ),
            // As the API server may write it.
            (
                serde_json::from_str(r#"{"aadpodidentity.k8s.io\/a": "\u00e9"}"#).unwrap(),
                Some(("aadpodidentity.k8s.io/a", "é")),
            ),
        ] {
            let kept = kept.map(|(key, value)| [(key.to_owned(), value.to_owned())].into());
            let read = meta(&json!({"annotations": annotations})).annotations;
            assert_eq!(read, kept, "{annotations}");
            let text = json!({"metadata": {"annotations": annotations}}).to_string();
            let Slim(read): Slim<PartialObjectMeta<Pod>> = serde_json::from_str(&text).unwrap();
            assert_eq!(read.metadata.annotations, kept, "{text}");
        }
    }

    #[test]
    fn what_is_looked_at_has_to_be_right() {
        for (metadata, right) in [
            (json!({"annotations": {"aadpodidentity.k8s.io/a": 7}}), false),
            (json!({"annotations": []}), false),
            (json!({"labels": {"a": 7}}), false),
            (json!({"uid": {}}), false),
            (json!("odd"), false),
            (json!({}), true),
            (json!(null), true),
        ] {
            let object = json!({"metadata": metadata});
            let read = serde_json::from_value::<Slim<PartialObjectMeta<Pod>>>(object);
            assert_eq!(read.is_ok(), right, "{metadata}");
        }
    }

    #[test]
    fn nothing_is_a_part_that_is_not_there() {
        for json in [json!({}), json!({"metadata": null, "spec": null, "status": null})] {
            assert_eq!(read::<PartialObjectMeta<Pod>>(json).metadata, ObjectMeta::default());
        }
        let missing = |json| serde_json::from_value::<Slim<AzureIdentity>>(json).unwrap_err();
        assert!(missing(json!({"metadata": {}})).to_string().contains("`spec`"));
        let bare = read::<AzureIdentity>(json!({"spec": {}}));
        assert_eq!((bare.metadata, bare.status), (ObjectMeta::default(), None));
    }

    /// Reads an object both ways.
    fn both<K: Readable + DeserializeOwned>(object: &Value) -> [K; 2] {
        [read(object.clone()), serde_json::from_value(object.clone()).unwrap()]
    }

    #[test]
    fn our_kinds_are_read_as_ever() {
        let metadata = json!({"name": "db", "namespace": "ids"});
        let identity = json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
            "metadata": metadata, "spec": {"type": 0, "resourceID": "x"}, "status": {"pods": 3},
        });
        let [slim, whole] = both::<AzureIdentity>(&identity);
        assert_eq!(slim, whole);
        assert_eq!(slim.status.unwrap().pods, 3);

        let spec = json!({"azureIdentity": "db", "selector": "sel"});
        let binding = json!({"metadata": metadata, "spec": spec, "status": {"pods": 2}});
        let [slim, whole] = both::<AzureIdentityBinding>(&binding);
        assert_eq!(slim, whole);

        let assigned = json!({
            "metadata": {"name": "web-1", "namespace": "apps", "labels": {"nodename": "n1"}},
            "spec": {
                "azureIdentityRef": identity, "pod": "web", "podNamespace": "apps",
                "podUID": "p", "nodename": "n1",
            },
            "status": {"status": "Assigned"},
        });
        let [slim, whole] = both::<AzureAssignedIdentity>(&assigned);
        assert_eq!(slim, whole);

        let record = json!({"metadata": metadata, "spec": {"host": "h", "identities": []}});
        let [slim, whole] = both::<AzureIdentityAttachment>(&record);
        assert_eq!(slim, whole);

        let exception = json!({"metadata": metadata, "spec": {"podLabels": {"a": "b"}}});
        let [slim, whole] = both::<AzurePodIdentityException>(&exception);
        assert_eq!(slim, whole);
    }

    #[test]
    fn it_is_asked_for_as_what_it_is() {
        type Meta = PartialObjectMeta<Namespace>;
        for namespace in [None, Some("team")] {
            let [slim, whole] = [Slim::<Pod>::url_path, Pod::url_path];
            assert_eq!(slim(&(), namespace), whole(&(), namespace));
            let [slim, whole] = [Slim::<AzureIdentity>::url_path, AzureIdentity::url_path];
            assert_eq!(slim(&(), namespace), whole(&(), namespace));
        }
        assert_eq!(Slim::<Pod>::api_version(&()), "v1");
        assert_eq!(Slim::<Pod>::kind(&()), "Pod");
        assert!(Slim::<Meta>::metadata_api() && !Slim::<Pod>::metadata_api());
    }
}
