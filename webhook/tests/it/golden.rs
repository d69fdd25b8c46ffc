//! Patches as they are on the wire, for pods as they come. `UPDATE_GOLDEN=1` rewrites them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use webhook::{Decision, InjectorConfig, NamespaceView, Plan, decide, patch};

use crate::fixtures::{config, injected, namespace, pod};

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read(case: &str, file: &str) -> Option<Value> {
    let text = std::fs::read_to_string(golden().join(case).join(file)).ok()?;
    Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{case}/{file}: {error}")))
}

/// The annotations of the namespace, if the case has any.
fn namespace_of(case: &str) -> NamespaceView {
    let annotations: BTreeMap<String, String> = read(case, "namespace.json")
        .map(|value| serde_json::from_value(value).unwrap())
        .unwrap_or_default();
    let pairs: Vec<_> = annotations.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    namespace(&[], &pairs)
}

fn plan(pod: &Value, namespace: &NamespaceView) -> Plan {
    match decide(pod, namespace, &config()).decision {
        Decision::Inject(plan) => *plan,
        other => panic!("not injected: {other:?}"),
    }
}

fn names(pod: &Value) -> Vec<&str> {
    let list = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    list.filter_map(|container| container["name"].as_str()).collect()
}

/// Whether everything in `before` is in `after`, in the same order where it is a list. A null may
/// become a list or an object: it says that there is none.
fn survives(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Null, Value::Array(_) | Value::Object(_)) => true,
        (Value::Object(before), Value::Object(after)) => before
            .iter()
            .all(|(key, value)| after.get(key).is_some_and(|found| survives(value, found))),
        (Value::Array(before), Value::Array(after)) => {
            let mut rest = after.iter();
            before.iter().all(|value| rest.any(|found| survives(value, found)))
        }
        _ => before == after,
    }
}

#[test]
fn every_golden_patch_is_what_is_sent_and_only_adds() {
    let mut cases: Vec<String> = std::fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    cases.sort_unstable();
    assert!(cases.len() >= 10, "{cases:?}");
    for case in cases {
        let pod = read(&case, "pod.json").unwrap();
        let namespace = namespace_of(&case);
        let sent = patch(&pod, &plan(&pod, &namespace), &config()).unwrap();
        let wire = serde_json::to_value(&sent).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let text = serde_json::to_string_pretty(&wire).unwrap() + "\n";
            std::fs::write(golden().join(&case).join("patch.json"), text).unwrap();
        }
        assert_eq!(Some(&wire), read(&case, "patch.json").as_ref(), "{case}");

        let operations = wire.as_array().unwrap();
        assert!(operations.iter().all(|operation| operation["op"] == "add"), "{case}");
        let mut after = pod.clone();
        json_patch::patch(&mut after, &sent).unwrap();
        assert!(survives(&pod, &after), "{case}: something was lost");
        let before = names(&pod);
        let expected: Vec<_> = ["init-redirect", "nmi-sidecar"].into_iter().chain(before).collect();
        assert_eq!(names(&after), expected, "{case}");
        let again = patch(&after, &plan(&after, &namespace), &config()).unwrap();
        assert!(again.is_empty(), "{case}: {again:?}");
    }
}

#[test]
fn what_is_missing_is_added_without_moving_what_is_there() {
    let whole = injected(&pod());
    for (lost, expected) in [
        ("init-redirect", ["init-redirect", "first", "nmi-sidecar"]),
        ("nmi-sidecar", ["first", "init-redirect", "nmi-sidecar"]),
    ] {
        let mut pod = whole.clone();
        let list = pod["spec"]["initContainers"].as_array_mut().unwrap();
        list.retain(|container| container["name"] != lost);
        list.insert(0, json!({"name": "first", "image": "x"}));
        let after = injected(&pod);
        assert_eq!(names(&after), expected, "without {lost}");
    }
}

#[test]
fn a_status_that_a_user_wrote_is_replaced_by_the_true_one() {
    let mut pod = pod();
    let key = "aadpodidentity.k8s.io/status";
    pod["metadata"]["annotations"] = json!({key: "forged"});
    let after = injected(&pod);
    let status: Value =
        serde_json::from_str(after["metadata"]["annotations"][key].as_str().unwrap()).unwrap();
    assert_eq!(status["mode"], "iptables");
    assert_eq!(status["initImage"], "registry.example/init-redirect:1.0.0");
}

#[test]
fn the_gate_decides_how_long_start_up_may_take() {
    for (gate, threshold) in [("0s", 30), ("60s", 90), ("300s", 330)] {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({"aadpodidentity.k8s.io/gate-timeout": gate});
        let after = injected(&pod);
        let sidecar = &after["spec"]["initContainers"][1];
        assert_eq!(sidecar["startupProbe"]["failureThreshold"], threshold);
        let argument = json!(format!("--gate-timeout={gate}"));
        assert!(sidecar["args"].as_array().unwrap().contains(&argument));
    }
}

#[test]
fn the_pod_s_token_for_entra_is_there_only_if_the_chart_says_so() {
    let file = "--federated-token-file=/var/run/secrets/aadpodidentity.k8s.io/federated-token";
    for (audience, expected) in [(Some("api://other"), json!("api://other")), (None, Value::Null)] {
        let config =
            InjectorConfig { federation_audience: audience.map(str::to_owned), ..config() };
        let plan = plan(&pod(), &namespace(&[], &[]));
        let mut after = pod();
        json_patch::patch(&mut after, &patch(&pod(), &plan, &config).unwrap()).unwrap();
        let source = &after["spec"]["volumes"][0]["projected"]["sources"][2];
        assert_eq!(source["serviceAccountToken"]["audience"], expected);
        let arguments = after["spec"]["initContainers"][1]["args"].as_array().unwrap();
        assert_eq!(arguments.contains(&json!(file)), audience.is_some(), "{arguments:?}");
        let again = patch(&after, &plan, &config).unwrap();
        assert!(again.is_empty(), "{again:?}");
    }
}

#[test]
fn a_resource_to_warm_up_is_passed_on_as_it_was_written() {
    let mut pod = pod();
    pod["metadata"]["annotations"] =
        json!({"aadpodidentity.k8s.io/warm-up": "https://vault.azure.net, $(POD_NAME)"});
    let after = injected(&pod);
    let arguments = &after["spec"]["initContainers"][1]["args"].as_array().unwrap()[9..];
    assert_eq!(
        arguments,
        [json!("--warm-up=https://vault.azure.net"), json!("--warm-up=$$(POD_NAME)")]
    );
}

#[test]
fn iptables_legacy_gets_what_it_needs_only_if_asked_for() {
    let legacy = InjectorConfig { init_net_raw: true, ..config() };
    let plan = plan(&pod(), &namespace(&[], &[]));
    let mut after = pod();
    json_patch::patch(&mut after, &patch(&pod(), &plan, &legacy).unwrap()).unwrap();
    let init = &after["spec"]["initContainers"][0];
    assert_eq!(init["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN", "NET_RAW"]));
    assert_eq!(init["volumeMounts"][1]["mountPath"], "/run");
    let strict = injected(&pod());
    let init = &strict["spec"]["initContainers"][0];
    assert_eq!(init["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN"]));
}
