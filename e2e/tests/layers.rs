//! Who may depend on whom, as docs/architecture.md says: a crate that reaches further fails here.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Every crate of the workspace and those of ours that it may use.
const ALLOWED: [(&str, &[&str]); 15] = [
    ("api", &[]),
    ("runtime", &[]),
    ("azure-http", &["runtime"]),
    ("netfilter", &[]),
    ("token-cache", &[]),
    ("client-certificate", &[]),
    ("init-redirect", &["netfilter"]),
    ("nmi-sidecar", &["api", "runtime", "token-cache"]),
    (
        "nmi-host",
        &["api", "azure-http", "client-certificate", "netfilter", "runtime", "token-cache"],
    ),
    ("webhook", &["api", "runtime"]),
    ("controller", &["api", "azure-http", "client-certificate", "runtime"]),
    ("fake-azure", &[]),
    ("e2e", &["api"]),
    ("bench", &["api"]),
    ("client-rust", &[]),
];

/// Libraries that the pure half must not know.
const IMPURE: [&str; 6] = ["tokio", "axum", "reqwest", "hyper", "kube-client", "azure_core"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Every crate of the workspace with its dependencies outside of tests.
fn crates() -> BTreeMap<String, Vec<Value>> {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let normal = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap();
        all.iter().filter(|dependency| dependency["kind"].is_null()).cloned().collect()
    };
    packages
        .iter()
        .map(|package| (package["name"].as_str().unwrap().to_owned(), normal(package)))
        .collect()
}

fn name(dependency: &Value) -> &str {
    dependency["name"].as_str().unwrap()
}

#[test]
fn no_crate_reaches_further_than_the_table() {
    let crates = crates();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    for (krate, dependencies) in &crates {
        let may = allowed.get(krate.as_str());
        let may = may.unwrap_or_else(|| panic!("{krate} is not in the table of layers"));
        let uses: BTreeSet<&str> =
            dependencies.iter().map(name).filter(|other| crates.contains_key(*other)).collect();
        for other in uses {
            assert!(may.contains(&other), "{krate} must not depend on {other}");
        }
    }
}

#[test]
fn the_vocabulary_is_pure() {
    let crates = crates();
    for dependency in &crates["api"] {
        assert!(!IMPURE.contains(&name(dependency)), "api must not depend on {}", name(dependency));
    }
    let kube = crates["api"].iter().find(|dependency| name(dependency) == "kube").unwrap();
    let features = kube["features"].as_array().unwrap();
    assert_eq!(features, &[Value::from("derive")], "api must not bring a client along");
}
