//! The dashboard and the alerts speak of metrics that exist, and render to what Prometheus and
//! Grafana read.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod expression;
mod registered;

use std::collections::BTreeSet;
use std::process::Command;

use e2e::paths::Cache;
use e2e::progress::Progress;
use e2e::release;
use e2e::tools::control_plane::ControlPlane;
use serde_json::Value;
use serde_yaml_ng::Deserializer;

use crate::expression::{grouped, uses};
use crate::registered::Sources;

const PREFIX: &str = "podidentity_";

/// Labels that Prometheus adds: where it was scraped, and the bounds of histograms.
const ADDED: [&str; 4] = ["instance", "namespace", "pod", "le"];

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

/// An expression of the dashboard or of an alert, with the labels that its texts name.
struct Asked {
    title: String,
    expression: String,
    named: BTreeSet<String>,
}

/// All expressions.
async fn asked() -> Vec<Asked> {
    let mut all = Vec::new();
    let dashboard = dashboard().await;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            all.push(Asked {
                title: panel["title"].as_str().unwrap().to_owned(),
                expression: target["expr"].as_str().unwrap().to_owned(),
                named: placeholders(legend, "{{"),
            });
        }
    }
    for rule in alerts().await {
        all.push(Asked {
            title: rule["alert"].as_str().unwrap().to_owned(),
            expression: rule["expr"].as_str().unwrap().to_owned(),
            named: placeholders(&rule["annotations"].to_string(), "$labels."),
        });
    }
    all
}

/// The labels that a template names after a mark.
fn placeholders(template: &str, mark: &str) -> BTreeSet<String> {
    let name = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        rest[..end.unwrap_or(rest.len())].to_owned()
    };
    template.split(mark).skip(1).map(|rest| name(rest.trim_start())).collect()
}

async fn dashboard() -> Value {
    let [map] = &rendered("ConfigMap").await[..] else { panic!("one dashboard") };
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    serde_json::from_str(map["data"]["pod-identity-sidecar.json"].as_str().unwrap()).unwrap()
}

async fn alerts() -> Vec<Value> {
    let [rules] = &rendered("PrometheusRule").await[..] else { panic!("one set of rules") };
    assert_eq!(rules["metadata"]["labels"]["team"], "platform");
    rules["spec"]["groups"][0]["rules"].as_array().unwrap().clone()
}

/// What an expression asks for and no program says.
fn wrong(sources: &Sources, asked: &Asked) -> Vec<String> {
    let mut wrong = Vec::new();
    let grouped = grouped(&asked.expression);
    let used = uses(&asked.expression);
    for one in &used {
        if !sources.registers(&one.metric) {
            wrong.push(format!("no metric {}", one.metric));
            continue;
        }
        let labels = sources.labels(&one.metric);
        let of_others = |label: &&String| !ADDED.contains(&label.as_str());
        let selected = one.asked.iter().map(|(label, _)| label);
        for label in selected.chain(&grouped).filter(of_others) {
            if !labels.contains(label) {
                wrong.push(format!("{} has no label {label}, only {labels:?}", one.metric));
            }
        }
        for value in one.asked.iter().flat_map(|(_, values)| values) {
            if !sources.can_say(&one.metric, value) {
                wrong.push(format!("no label of {} is ever {value:?}", one.metric));
            }
        }
    }
    let aggregates = asked.expression.contains("sum") || asked.expression.contains("max");
    for label in asked.named.iter().filter(|label| aggregates && !grouped.contains(*label)) {
        wrong.push(format!("a text names {label}, which the expression sums up"));
    }
    wrong
}

#[tokio::test]
async fn dashboard_and_alerts_ask_for_metrics_labels_and_values_that_programs_have() {
    let sources = Sources::read();
    let asked = asked().await;
    assert!(asked.len() > 30, "{}", asked.len());
    for one in asked {
        let wrong = wrong(&sources, &one);
        assert!(wrong.is_empty(), "{}: {}: {wrong:?}", one.title, one.expression);
    }
}

#[test]
fn what_no_program_says_is_found() {
    let sources = Sources::read();
    for (expression, named, expected) in [
        ("podidentity_no_such_metric", "", "no metric"),
        ("podidentity_arm_calls_total{result=\"forbidden\"}", "", "no label result"),
        ("podidentity_arm_calls_total{outcome=~\"forbidden|forbiden\"}", "", "ever \"forbiden\""),
        ("sum by (outcome) (podidentity_assignments)", "", "no label outcome"),
        ("sum by (call) (podidentity_hosts)", "", "no label call"),
        ("podidentity_sidecar_requests_total{operation=\"token\"}", "", "no label operation"),
        ("sum by (life) (podidentity_token_cache_tokens{lief=\"fresh\"})", "", "no label lief"),
        ("sum by (state) (podidentity_assignments)", "reason", "names reason"),
    ] {
        let named = Some(named.to_owned()).filter(|named| !named.is_empty()).into_iter().collect();
        let asked = Asked { title: String::new(), expression: expression.to_owned(), named };
        let wrong = wrong(&sources, &asked);
        let [found] = &wrong[..] else { panic!("{expression}: {wrong:?}") };
        assert!(found.contains(expected), "{expression}: {found}");
    }
}

#[tokio::test]
async fn the_dashboard_is_found_by_grafana_and_every_panel_asks_for_something() {
    let dashboard = dashboard().await;
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
    let rules = alerts().await;
    assert!(rules.len() > 5);
    for rule in &rules {
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
