//! The CRDs in the chart are the ones that the types generate (`UPDATE_GOLDEN=1` refreshes them),
//! and objects of every age still read.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::PathBuf;

use api::crd::{
    AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding, AzurePodIdentityException,
    IdentityType, manifests,
};
use serde::de::DeserializeOwned;

fn crds() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/pod-identity-sidecar/crds")
}

#[test]
fn the_chart_ships_what_the_types_generate() {
    for (plural, manifest) in manifests() {
        let path = crds().join(format!("{plural}.yaml"));
        let generated = format!(
            "# Generated from the Rust types in api/src/crd; `make golden` writes it anew.\n{}",
            serde_yaml_ng::to_string(&manifest).unwrap()
        );
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &generated).unwrap();
        }
        let shipped = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(shipped == generated, "{} is stale: run `make golden`", path.display());
    }
    let files = std::fs::read_dir(crds()).unwrap().count();
    assert_eq!(files, manifests().len(), "a file in crds/ belongs to no kind");
}

fn fixture<T: DeserializeOwned>(name: &str) -> T {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn identities_of_every_age_read() {
    let oldest: AzureIdentity = fixture("oldest-identity.yaml");
    assert_eq!(oldest.spec.kind, IdentityType::UserAssigned);
    assert_eq!(oldest.validate(), Ok(()));

    let stored: AzureIdentity = fixture("upstream-1.8-identity.yaml");
    assert_eq!(stored.spec.kind, IdentityType::ServicePrincipal);
    assert_eq!(stored.validate(), Ok(()));
    assert_eq!(stored.spec.auxiliary_tenant_ids, None);
}

#[test]
fn bindings_and_exceptions_of_every_age_read() {
    let oldest: AzureIdentityBinding = fixture("oldest-binding.yaml");
    assert_eq!(oldest.spec.identity_name(), "demo-identity");
    assert_eq!(oldest.spec.selector(), "select_it");

    let exception: AzurePodIdentityException = fixture("upstream-1.8-exception.yaml");
    assert_eq!(exception.spec.pod_labels.unwrap().len(), 3);
}

#[test]
fn assigned_identities_that_upstream_left_behind_read() {
    let assigned: AzureAssignedIdentity = fixture("upstream-1.8-assigned.yaml");
    assert_eq!(assigned.spec.pod, "demo");
    assert_eq!(assigned.spec.pod_uid, "");
    let identity = assigned.spec.identity.unwrap();
    assert_eq!(identity.metadata.name.as_deref(), Some("demo-identity"));
    assert_eq!(identity.spec.kind, IdentityType::UserAssigned);
}
