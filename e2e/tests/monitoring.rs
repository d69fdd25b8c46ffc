//! The dashboard and the alerts speak of metrics that exist, and render to what Prometheus and
//! Grafana read.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::paths::Cache;
use e2e::progress::Progress;
use e2e::release;
use e2e::tools::control_plane::ControlPlane;
use serde_json::Value;
use serde_yaml_ng::Deserializer;

const PREFIX: &str = "podidentity_";

/// What Prometheus' text form adds to the names of counters and histograms.
const SUFFIXES: [&str; 4] = ["_total", "_bucket", "_sum", "_count"];

/// The rendered objects of `kind`.
async fn rendered(kind: &str) -> Vec<Value> {
    let cache = Cache::locate().unwrap();
    let programs = ControlPlane::ensure(&cache, &Progress::to_stderr()).await.unwrap();
    let output = Command::new(programs.program("helm"))
        .args(["template", "pis", release::chart().to_str().unwrap(), "--kube-version=1.34.0"])
        .args(["--set=image.registry=registry.example", "--set=monitoring.labels.team=platform"])
        .arg("--set=monitoring.podMonitors=true,monitoring.sidecarPodMonitor=true")
        .arg("--set=monitoring.alerts=true,monitoring.dashboard=true")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Deserializer::from_str(&text)
        .map(|document| {
            serde_yaml_ng::with::singleton_map_recursive::deserialize(document).unwrap()
        })
        .filter(|object: &Value| object["kind"] == kind)
        .collect()
}

/// The names of our metrics in a text, without what the text form adds.
fn names(text: &str) -> BTreeSet<String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(PREFIX)
        .map(|(at, _)| {
            let name = &text[at..];
            let name = &name[..name.find(|c| !inner(c)).unwrap_or(name.len())];
            let short = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
            short.unwrap_or(name).to_owned()
        })
        .collect()
}

/// All sources of the programs that register metrics.
fn sources() -> String {
    fn read(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut text = String::new();
    for part in ["controller", "webhook", "nmi-host", "nmi-sidecar", "runtime"] {
        read(&root.join(part).join("src"), &mut text);
    }
    text
}

/// Whether a metric is registered: by its name, by the prefix of a registry and the rest, or with
/// its unit apart.
fn is_registered(name: &str, sources: &str) -> bool {
    let literal = |name: &str| sources.contains(&format!("\"{name}\""));
    let name = name.strip_prefix(PREFIX).unwrap();
    let apart = |(at, _): (usize, &str)| literal(&name[..at]) && literal(&name[at + 1..]);
    literal(name)
        || name.match_indices('_').any(apart)
        || name.strip_suffix("_seconds").is_some_and(literal)
}

#[tokio::test]
async fn every_metric_of_dashboard_and_alerts_is_registered_by_a_program() {
    let sources = sources();
    assert!(!is_registered("podidentity_no_such_metric", &sources), "the test would see nothing");
    for kind in ["ConfigMap", "PrometheusRule"] {
        let objects = rendered(kind).await;
        let names = names(&serde_json::to_string(&objects).unwrap());
        assert!(names.len() > 5, "{kind}: {names:?}");
        for name in names {
            assert!(is_registered(&name, &sources), "{kind} asks for {name}");
        }
    }
}

#[tokio::test]
async fn the_dashboard_is_found_by_grafana_and_every_panel_asks_for_something() {
    let [map] = &rendered("ConfigMap").await[..] else { panic!("one dashboard") };
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = map["data"]["pod-identity-sidecar.json"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are different");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        for target in panel["targets"].as_array().unwrap() {
            assert!(target["expr"].as_str().unwrap().contains(PREFIX), "{}", panel["title"]);
        }
    }
}

#[tokio::test]
async fn every_alert_says_what_it_means_and_what_to_do() {
    let [rules] = &rendered("PrometheusRule").await[..] else { panic!("one set of rules") };
    assert_eq!(rules["metadata"]["labels"]["team"], "platform");
    let rules = rules["spec"]["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 5);
    for rule in rules {
        let alert = rule["alert"].as_str().unwrap();
        assert!(rule["expr"].as_str().unwrap().contains(PREFIX), "{alert}");
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()));
        for text in ["summary", "description"] {
            assert!(!rule["annotations"][text].as_str().unwrap().is_empty(), "{alert}: {text}");
        }
        // Prometheus' own templates, not Helm's.
        assert!(!rule.to_string().contains("no value"), "{alert}");
    }
}

#[tokio::test]
async fn every_part_is_scraped() {
    let monitors = rendered("PodMonitor").await;
    let parts: Vec<&str> = monitors
        .iter()
        .map(|one| {
            let labels = &one["spec"]["selector"]["matchLabels"];
            labels["app.kubernetes.io/component"].as_str().unwrap_or("sidecars")
        })
        .collect();
    assert_eq!(parts, ["webhook", "controller", "nmi-host", "sidecars"]);
}
