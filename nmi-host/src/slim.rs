//! Reads objects without what nobody looks at: most of a pod is of no interest here, and a list
//! would hold hundreds of them as a whole.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

/// A part of an object that is not read.
pub(crate) type Unread = Option<IgnoredAny>;

/// An object of kind `K`, of which a part is read: `S` of its `spec`, `T` of its `status`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Slim<K, S = Unread, T = Unread> {
    #[serde(default, deserialize_with = "metadata")]
    pub(crate) metadata: ObjectMeta,
    pub(crate) spec: S,
    pub(crate) status: T,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

/// The metadata that somebody looks at, be it kube's watcher.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SlimMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
}

/// Reads metadata.
fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let meta = Option::<SlimMeta>::deserialize(from)?.unwrap_or_default();
    Ok(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        deletion_timestamp: meta.deletion_timestamp,
        labels: meta.labels,
        ..ObjectMeta::default()
    })
}

// === impl Slim ===

impl<K: Resource<DynamicType = ()>, S, T> Resource for Slim<K, S, T> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_is_read_as_ever_but_for_what_nobody_looks_at() {
        let mut json = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {
                "name": "agent", "namespace": "system", "uid": "u", "resourceVersion": "7",
                "labels": {"app": "agent"}, "deletionTimestamp": "2025-01-01T00:00:00Z"
            }
        });
        let expected = serde_json::from_value::<DaemonSet>(json.clone()).unwrap().metadata;
        json["metadata"]["managedFields"] = json!([{"manager": "m", "fieldsV1": {"f:spec": {}}}]);
        json["metadata"]["annotations"] = json!({"a": "b"});
        json["metadata"]["ownerReferences"] = json!("odd, but nobody looks");
        json["spec"] = json!({"selector": {}, "template": {}});
        json["status"] = json!(7);
        let read: Slim<DaemonSet> = serde_json::from_value(json).unwrap();
        assert_eq!(read.metadata, expected);
    }

    #[test]
    fn nothing_is_a_part_that_is_not_there() {
        for json in [json!({}), json!({"metadata": null, "spec": null, "status": null})] {
            let read: Slim<DaemonSet> = serde_json::from_value(json).unwrap();
            assert_eq!(read.metadata, ObjectMeta::default());
            assert_eq!((read.spec, read.status), (None, None));
        }
    }

    #[test]
    fn it_is_asked_for_as_the_kind_it_is_of() {
        for namespace in [None, Some("team")] {
            assert_eq!(Slim::<Pod>::url_path(&(), namespace), Pod::url_path(&(), namespace));
        }
        assert_eq!(Slim::<Pod>::api_version(&()), "v1");
        assert_eq!(Slim::<Pod>::kind(&()), "Pod");
    }
}
