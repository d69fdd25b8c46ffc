//! Reads objects without what nobody looks at. What an object's fields belong to (`managedFields`)
//! is most of its bytes, and would be most of the work of reading it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use api::crd::{
    AzureIdentityAttachment, AzureIdentityAttachmentSpec, AzureIdentityBindingStatus,
    AzureIdentityStatus,
};
use api::{
    AzureAssignedIdentity, AzureAssignedIdentitySpec, AzureAssignedIdentityStatus, AzureIdentity,
    AzureIdentityBinding, AzureIdentityBindingSpec, AzureIdentitySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};

/// A kind that can be read so.
pub(crate) trait Readable: Resource<DynamicType = ()> {
    /// Reads an object.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>
    where
        Self: Sized;
}

/// An object as it comes from the API server.
#[derive(Clone, Debug)]
pub(crate) struct Slim<K>(pub(crate) K);

/// The metadata that somebody looks at.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SlimMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    finalizers: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

/// A custom resource.
#[derive(Deserialize)]
struct Custom<S, T> {
    #[serde(default, deserialize_with = "metadata")]
    metadata: ObjectMeta,
    spec: S,
    #[serde(default = "Option::default")]
    status: Option<T>,
}

/// Reads metadata.
pub(crate) fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let meta = SlimMeta::deserialize(from)?;
    Ok(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        generation: meta.generation,
        finalizers: meta.finalizers,
        labels: meta.labels,
        annotations: meta.annotations,
        ..ObjectMeta::default()
    })
}

// === impl Slim ===

impl<K: Readable> Resource for Slim<K> {
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
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

impl<'de, K: Readable> Deserialize<'de> for Slim<K> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        K::read(from).map(Self)
    }
}

// === the kinds ===

impl Readable for AzureAssignedIdentity {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        type Read = Custom<AzureAssignedIdentitySpec, AzureAssignedIdentityStatus>;
        let Custom { metadata, spec, status } = Read::deserialize(from)?;
        Ok(Self { metadata, spec, status })
    }
}

impl Readable for AzureIdentity {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        type Read = Custom<AzureIdentitySpec, AzureIdentityStatus>;
        let Custom { metadata, spec, status } = Read::deserialize(from)?;
        Ok(Self { metadata, spec, status })
    }
}

impl Readable for AzureIdentityBinding {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        type Read = Custom<AzureIdentityBindingSpec, AzureIdentityBindingStatus>;
        let Custom { metadata, spec, status } = Read::deserialize(from)?;
        Ok(Self { metadata, spec, status })
    }
}

impl Readable for AzureIdentityAttachment {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        type Read = Custom<AzureIdentityAttachmentSpec, serde::de::IgnoredAny>;
        let Custom { metadata, spec, .. } = Read::deserialize(from)?;
        Ok(Self { metadata, spec })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_read_as_ever_but_for_what_nobody_looks_at() {
        let mut json = json!({
            "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureAssignedIdentity",
            "metadata": {
                "name": "web-1", "namespace": "apps", "uid": "u", "resourceVersion": "7",
                "generation": 2, "finalizers": ["f"], "labels": {"nodename": "n1"},
                "annotations": {"a": "b"},
            },
            "spec": {
                "azureIdentityRef": {
                    "apiVersion": "aadpodidentity.k8s.io/v1", "kind": "AzureIdentity",
                    "metadata": {"name": "db"}, "spec": {"type": 0, "resourceID": "x"},
                },
                "pod": "web", "podNamespace": "apps", "podUID": "p", "nodename": "n1",
            },
            "status": {"status": "Assigned"},
        });
        let expected: AzureAssignedIdentity = serde_json::from_value(json.clone()).unwrap();
        json["metadata"]["managedFields"] = json!([{"manager": "m", "fieldsV1": {"f:spec": {}}}]);
        json["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z".into();
        json["metadata"]["ownerReferences"] = json!([{"kind": "Pod"}]);
        let Slim(read) = serde_json::from_value::<Slim<AzureAssignedIdentity>>(json).unwrap();
        assert_eq!(read, expected);
        assert_eq!(
            Slim::<AzureAssignedIdentity>::url_path(&(), Some("apps")),
            AzureAssignedIdentity::url_path(&(), Some("apps"))
        );
    }

    #[test]
    fn identities_and_bindings_keep_their_status_and_records_have_none() {
        let status = json!({"pods": 3});
        let json = json!({"metadata": {"name": "x"}, "spec": {}, "status": status});
        let Slim(identity) = serde_json::from_value::<Slim<AzureIdentity>>(json.clone()).unwrap();
        assert_eq!(identity.status.unwrap().pods, 3);
        let Slim(binding) = serde_json::from_value::<Slim<AzureIdentityBinding>>(json).unwrap();
        assert_eq!(binding.status.unwrap().pods, 3);
        let json = json!({"metadata": {"name": "x"}, "spec": {"host": "h", "identities": []}});
        let Slim(record) = serde_json::from_value::<Slim<AzureIdentityAttachment>>(json).unwrap();
        assert_eq!(record.spec.host, "h");
    }
}
