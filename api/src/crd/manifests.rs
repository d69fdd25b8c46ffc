//! The CustomResourceDefinitions as the chart ships them: generated from the Rust types, then
//! completed with what a type cannot say.

use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::validation::{
    BINDING, EXCEPTION, IDENTITY, Spelling, add_binding_rules, add_identity_rules, add_spellings,
};
use super::{
    AzureAssignedIdentity, AzureIdentity, AzureIdentityAttachment, AzureIdentityBinding,
    AzurePodIdentityException,
};

/// A nested object with a name and a kind of its own; its fields are not checked again.
pub(super) fn embedded_resource(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-embedded-resource": true,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// Every CustomResourceDefinition as `(plural, manifest)`.
pub fn manifests() -> Vec<(String, Value)> {
    let mut identity = manifest(&AzureIdentity::crd(), IDENTITY);
    add_identity_rules(spec_of(&mut identity));
    let mut binding = manifest(&AzureIdentityBinding::crd(), BINDING);
    add_binding_rules(spec_of(&mut binding));

    let mut assigned = manifest(&AzureAssignedIdentity::crd(), &[]);
    // `kube` gives every status a subresource. Upstream's assigned identities have none: one write
    // less for every pod, and only the controller may write any part of them.
    assigned["spec"]["versions"][0]["subresources"] = json!({});

    let mut attachment = manifest(&AzureIdentityAttachment::crd(), &[]);
    // A record of which nothing was said yet reads as pending, without a write.
    schema_of(&mut attachment)["properties"]["status"]["default"] = json!({});

    [
        identity,
        binding,
        assigned,
        manifest(&AzurePodIdentityException::crd(), EXCEPTION),
        attachment,
    ]
    .into_iter()
    .map(|crd| (crd["spec"]["names"]["plural"].as_str().unwrap_or_default().to_owned(), crd))
    .collect()
}

fn manifest(crd: &impl serde::Serialize, spellings: &[Spelling]) -> Value {
    // A CustomResourceDefinition is plain data; it cannot fail to become JSON.
    let mut crd = serde_json::to_value(crd).unwrap_or_default();
    // The API server asks for this of every group below k8s.io.
    crd["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved"});
    add_spellings(spec_of(&mut crd), spellings);
    crd
}

fn schema_of(crd: &mut Value) -> &mut Value {
    &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

fn spec_of(crd: &mut Value) -> &mut Value {
    &mut schema_of(crd)["properties"]["spec"]
}
