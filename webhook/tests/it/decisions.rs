//! Which pods are injected, left alone, refused.

use serde_json::{Value, json};
use webhook::{Decision, DenyReason, InjectorConfig, NamespaceView, Settings, SkipReason, decide};

use crate::fixtures::{INJECT, config, decided, injected, namespace, pod, pod_with};

const ALLOW: &str = "aadpodidentity.k8s.io/allow-unsafe-pods";
const WARM_UP: &str = "aadpodidentity.k8s.io/warm-up";
const MODE: &str = "aadpodidentity.k8s.io/intercept-mode";

fn outcome(decision: &Decision) -> String {
    match decision {
        Decision::Inject(_) => "inject".to_owned(),
        Decision::Skip(reasons) => {
            reasons.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(",")
        }
        Decision::Deny(reasons) => {
            let kinds: Vec<_> = reasons.iter().map(DenyReason::kind).collect();
            format!("deny {}", kinds.join(","))
        }
    }
}

#[test]
fn label_and_annotation_decide_strictly() {
    for (label, annotation, expected) in [
        (Some("shop"), None, "inject"),
        (Some("shop"), Some("true"), "inject"),
        (Some("shop"), Some("false"), "opted_out"),
        (None, Some("true"), "inject"),
        (Some(""), Some("true"), "inject"),
        (None, Some("false"), "opted_out"),
        (None, None, "not_requested"),
        (Some(""), None, "empty_selector"),
        (Some("shop"), Some("True"), "deny invalid_inject_annotation"),
        (Some("shop"), Some("False"), "deny invalid_inject_annotation"),
        (Some("shop"), Some(""), "deny invalid_inject_annotation"),
        (None, Some("yes"), "deny invalid_inject_annotation"),
        (None, Some("enabled"), "deny invalid_inject_annotation"),
    ] {
        let pod = pod_with(|pod| {
            pod["metadata"]["labels"] =
                label.map_or(json!({}), |label| json!({"aadpodidbinding": label}));
            if let Some(value) = annotation {
                pod["metadata"]["annotations"] = json!({INJECT: value});
            }
        });
        assert_eq!(outcome(&decided(&pod).decision), expected, "{label:?} {annotation:?}");
    }
}

#[test]
fn the_namespace_must_be_opted_in_and_an_unknown_one_was_matched_by_the_api_server() {
    let bare = NamespaceView::known([].into(), [].into());
    for (namespace, expected, warnings) in [
        (namespace(&[], &[]), "inject", 0),
        (NamespaceView::unknown(), "inject", 0),
        (bare, "namespace_not_enabled", 1),
        (namespace(&[(INJECT, "true")], &[]), "namespace_not_enabled", 2),
        (namespace(&[(INJECT, "Enabled")], &[]), "namespace_not_enabled", 2),
        (namespace(&[(INJECT, "")], &[]), "namespace_not_enabled", 2),
    ] {
        let verdict = decide(&pod(), &namespace, &config());
        assert_eq!(outcome(&verdict.decision), expected, "{namespace:?}");
        assert_eq!(verdict.warnings.as_slice().len(), warnings, "{verdict:?}");
        let silent = pod_with(|pod| pod["metadata"]["labels"] = json!({}));
        let verdict = decide(&silent, &namespace, &config());
        assert_eq!(verdict.warnings.as_slice(), [""; 0], "it did not ask");
    }
}

#[test]
fn where_no_redirect_is_possible_the_author_is_told_every_reason() {
    let cases: [(Value, &[SkipReason]); 6] = [
        (json!({"hostNetwork": true}), &[SkipReason::HostNetwork]),
        (json!({"hostPID": true}), &[SkipReason::HostPid]),
        (json!({"os": {"name": "windows"}}), &[SkipReason::Windows]),
        (json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), &[SkipReason::Windows]),
        (
            json!({"hostNetwork": true, "hostPID": true}),
            &[SkipReason::HostNetwork, SkipReason::HostPid],
        ),
        // What could be refused is not refused where nothing would be injected.
        (
            json!({"hostNetwork": true, "containers": [{"securityContext": {"privileged": true}}]}),
            &[SkipReason::HostNetwork],
        ),
    ];
    for (spec, expected) in cases {
        let verdict = decided(&pod_with(|pod| pod["spec"] = spec.clone()));
        assert_eq!(verdict.decision, Decision::Skip(expected.to_vec()), "{spec}");
        let warnings = verdict.warnings.as_slice();
        assert_eq!(warnings.len(), expected.len(), "{spec}");
        assert!(warnings.iter().all(|w| w.contains("NO identity")), "{warnings:?}");
    }
}

#[test]
fn linux_named_explicitly_is_injected() {
    for spec in [
        json!({"os": {"name": "linux"}, "containers": []}),
        json!({"nodeSelector": {"kubernetes.io/os": "linux"}}),
        json!({"hostNetwork": false, "hostPID": false, "hostIPC": true}),
    ] {
        let pod = pod_with(|pod| pod["spec"] = spec.clone());
        assert_eq!(outcome(&decided(&pod).decision), "inject", "{spec}");
    }
}

#[test]
fn a_mirror_pod_is_never_refused() {
    let pod = pod_with(|pod| {
        pod["metadata"]["annotations"] =
            json!({"kubernetes.io/config.mirror": "x", INJECT: "nonsense"});
        pod["spec"]["shareProcessNamespace"] = json!(true);
    });
    assert_eq!(outcome(&decided(&pod).decision), "mirror_pod");
}

fn unsafe_pods() -> Vec<Value> {
    let containers = |list: &str, context: Value| {
        pod_with(|pod| pod["spec"][list] = json!([{"name": "x", "securityContext": context}]))
    };
    let add = |name: &str| json!({"capabilities": {"add": ["CHOWN", name]}});
    vec![
        containers("containers", json!({"privileged": true})),
        containers("initContainers", json!({"privileged": true})),
        containers("ephemeralContainers", json!({"privileged": true})),
        containers("containers", add("NET_ADMIN")),
        containers("containers", add("CAP_NET_ADMIN")),
        containers("initContainers", add("net_admin")),
        containers("containers", add("ALL")),
        containers("containers", add("all")),
        containers("containers", add("SYS_ADMIN")),
        containers("ephemeralContainers", add("CAP_SYS_ADMIN")),
        pod_with(|pod| pod["spec"]["shareProcessNamespace"] = json!(true)),
    ]
}

#[test]
fn a_pod_that_could_undo_the_redirect_is_refused_with_the_way_out() {
    for pod in unsafe_pods() {
        let Decision::Deny(reasons) = decided(&pod).decision else { panic!("let in: {pod}") };
        assert_eq!(reasons.len(), 1, "{pod}");
        assert_eq!(reasons[0].kind(), "unsafe_pod", "{pod}");
    }
}

#[test]
fn an_admin_lets_unsafe_pods_in_by_chart_or_namespace_and_the_namespace_wins() {
    let lenient = InjectorConfig { allow_unsafe_pods: true, ..config() };
    for pod in unsafe_pods() {
        for (annotation, config, allowed) in [
            (None, config(), false),
            (None, lenient.clone(), true),
            (Some("true"), config(), true),
            (Some("false"), lenient.clone(), false),
            (Some("True"), config(), false),
            (Some("yes"), config(), false),
        ] {
            let annotations: Vec<_> = annotation.map(|value| (ALLOW, value)).into_iter().collect();
            let verdict = decide(&pod, &namespace(&[], &annotations), &config);
            assert_eq!(outcome(&verdict.decision) == "inject", allowed, "{annotation:?} {pod}");
            let mentioned = verdict.warnings.as_slice().iter().any(|w| w.contains("allowed"));
            assert_eq!(mentioned, allowed, "{verdict:?}");
        }
    }
}

#[test]
fn a_pod_cannot_allow_itself() {
    let pod = pod_with(|pod| {
        pod["metadata"]["annotations"] = json!({ALLOW: "true"});
        pod["spec"]["shareProcessNamespace"] = json!(true);
    });
    assert_eq!(outcome(&decided(&pod).decision), "deny unsafe_pod");
}

#[test]
fn harmless_capabilities_and_flags_are_none_of_our_business() {
    let pod = pod_with(|pod| {
        pod["spec"]["containers"][0]["securityContext"] = json!({
            "privileged": false, "runAsUser": 0,
            "capabilities": {"add": ["NET_BIND_SERVICE", "NET_RAW"], "drop": ["ALL", "NET_ADMIN"]}
        });
        pod["spec"]["shareProcessNamespace"] = json!(false);
        pod["spec"]["containers"][0]["ports"] =
            json!([{"containerPort": 8080}, {"containerPort": 2579, "protocol": "UDP"}]);
    });
    let verdict = decided(&pod);
    assert_eq!(outcome(&verdict.decision), "inject");
    assert!(verdict.warnings.as_slice().is_empty(), "{verdict:?}");
}

#[test]
fn what_the_injected_containers_need_must_not_be_taken() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 9] = [
        ("port_taken", |pod| {
            pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 2579}]);
        }),
        ("port_taken", |pod| {
            pod["spec"]["containers"][0]["ports"] =
                json!([{"containerPort": 2580, "protocol": "TCP"}]);
        }),
        ("name_taken", |pod| pod["spec"]["containers"][0]["name"] = json!("nmi-sidecar")),
        ("name_taken", |pod| {
            pod["spec"]["initContainers"] = json!([{"name": "init-redirect", "image": "x"}]);
        }),
        ("name_taken", |pod| {
            pod["spec"]["volumes"] = json!([{"name": "aadpodidentity-nmi", "emptyDir": {}}]);
        }),
        ("name_taken", |pod| {
            pod["spec"]["volumes"] =
                json!([{"name": "aadpodidentity-empty", "hostPath": {"path": "/"}}]);
        }),
        ("volume_mounted", |pod| {
            pod["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "aadpodidentity-nmi", "mountPath": "/x"}]);
        }),
        ("volume_mounted", |pod| {
            pod["spec"]["initContainers"] = json!([{"name": "i", "volumeMounts":
                [{"name": "aadpodidentity-empty", "mountPath": "/x"}]}]);
        }),
        ("unknown_intercept_mode", |pod| {
            pod["metadata"]["annotations"] = json!({MODE: "lo-alias"});
        }),
    ];
    for (expected, change) in cases {
        let pod = pod_with(change);
        assert_eq!(outcome(&decided(&pod).decision), format!("deny {expected}"), "{pod}");
        let lenient = InjectorConfig { allow_unsafe_pods: true, ..config() };
        let verdict = decide(&pod, &namespace(&[], &[]), &lenient);
        assert_eq!(outcome(&verdict.decision), format!("deny {expected}"), "not for an admin");
    }
}

#[test]
fn the_mode_that_exists_may_be_named() {
    let pod = pod_with(|pod| pod["metadata"]["annotations"] = json!({MODE: "iptables"}));
    assert_eq!(outcome(&decided(&pod).decision), "inject");
    let namespace = namespace(&[], &[(MODE, "nft")]);
    let verdict = decide(&pod, &namespace, &config());
    assert_eq!(outcome(&verdict.decision), "deny unknown_intercept_mode");
}

#[test]
fn the_warm_up_is_the_pod_s_or_else_the_namespace_s_or_else_the_chart_s() {
    let chart = InjectorConfig {
        settings: Settings { warm_up: "chart".parse().unwrap(), ..config().settings },
        ..config()
    };
    for (of_pod, of_namespace, expected) in [
        (None, None, "chart"),
        (None, Some("ns1,ns2"), "ns1,ns2"),
        (Some("pod"), Some("ns1,ns2"), "pod"),
        (Some("pod"), Some("not read"), "pod"),
        (Some(""), Some("ns1"), ""),
        (None, Some(""), ""),
    ] {
        let annotations: Vec<_> = of_namespace.map(|text| (WARM_UP, text)).into_iter().collect();
        let pod = pod_with(|pod| {
            if let Some(text) = of_pod {
                pod["metadata"]["annotations"] = json!({WARM_UP: text});
            }
        });
        let verdict = decide(&pod, &namespace(&[], &annotations), &chart);
        let Decision::Inject(plan) = &verdict.decision else { panic!("{verdict:?}") };
        assert_eq!(plan.settings.warm_up.to_string(), expected, "{of_pod:?} {of_namespace:?}");
        assert!(verdict.warnings.as_slice().is_empty(), "{verdict:?}");
    }
}

#[test]
fn a_warm_up_that_cannot_be_is_refused_and_not_skipped() {
    for text in ["https://a b", "a,", "1,2,3,4,5,6,7,8,9"] {
        let pod = pod_with(|pod| pod["metadata"]["annotations"] = json!({WARM_UP: text}));
        assert_eq!(outcome(&decided(&pod).decision), "deny invalid_warm_up", "{text}");
        let verdict = decide(&self::pod(), &namespace(&[], &[(WARM_UP, text)]), &config());
        let Decision::Deny(reasons) = &verdict.decision else { panic!("{verdict:?}") };
        assert!(reasons[0].to_string().contains("of the namespace"), "{reasons:?}");
    }
}

#[test]
fn all_reasons_are_given_at_once() {
    let pod = pod_with(|pod| {
        pod["spec"]["shareProcessNamespace"] = json!(true);
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 2579}]);
        pod["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    });
    assert_eq!(outcome(&decided(&pod).decision), "deny unsafe_pod,port_taken,unsafe_pod");
}

#[test]
fn an_impostor_in_the_shape_of_an_injected_container_is_refused() {
    let good = injected(&pod());
    let changes: [(&str, Value); 8] = [
        ("/spec/initContainers/0/securityContext/privileged", json!(true)),
        ("/spec/initContainers/0/securityContext/capabilities/add/0", json!("SYS_ADMIN")),
        ("/spec/initContainers/0/args", json!([])),
        ("/spec/initContainers/1/args", json!(["--listen=0.0.0.0:2579"])),
        ("/spec/initContainers/1/restartPolicy", json!("Never")),
        ("/spec/initContainers/1/volumeMounts", json!([])),
        ("/spec/initContainers/1/securityContext/privileged", json!(true)),
        ("/spec/volumes/0/projected/sources/0/serviceAccountToken/audience", json!("other")),
    ];
    assert_eq!(outcome(&decided(&good).decision), "inject");
    for (pointer, value) in changes {
        let mut pod = good.clone();
        *pod.pointer_mut(pointer).unwrap() = value;
        assert!(outcome(&decided(&pod).decision).contains("name_taken"), "{pointer}");
    }
    let mut pod = good;
    pod["spec"]["initContainers"][0]["command"] = json!(["/bin/true"]);
    assert!(outcome(&decided(&pod).decision).contains("name_taken"));
}

#[test]
fn other_images_and_defaulted_fields_do_not_make_an_injected_container_foreign() {
    let mut pod = injected(&pod());
    pod["spec"]["initContainers"][0]["image"] = json!("mirror.example/init-redirect:0.9");
    pod["spec"]["initContainers"][1]["image"] = json!("mirror.example/nmi-sidecar:0.9");
    pod["spec"]["initContainers"][1]["startupProbe"]["successThreshold"] = json!(1);
    pod["spec"]["initContainers"][1]["args"].as_array_mut().unwrap().push(json!("--newer=1"));
    pod["spec"]["volumes"][0]["projected"]["defaultMode"] = json!(420);
    assert_eq!(outcome(&decided(&pod).decision), "inject");
}

#[test]
fn a_container_before_ours_is_pointed_out_unless_it_is_infrastructure() {
    for (name, warnings) in [("prepare-data", 1), ("istio-init", 0), ("linkerd-proxy", 0)] {
        let mut pod = injected(&pod());
        let list = pod["spec"]["initContainers"].as_array_mut().unwrap();
        list.insert(0, json!({"name": name, "image": "x"}));
        let verdict = decided(&pod);
        assert_eq!(outcome(&verdict.decision), "inject");
        assert_eq!(verdict.warnings.as_slice().len(), warnings, "{name}: {verdict:?}");
    }
}

#[test]
fn annotations_override_in_layers() {
    let pod = pod_with(|pod| {
        pod["metadata"]["annotations"] = json!({
            "aadpodidentity.k8s.io/log-level": "debug",
            "aadpodidentity.k8s.io/gate-timeout": "forever"
        });
    });
    let namespace = namespace(
        &[],
        &[
            ("aadpodidentity.k8s.io/log-level", "error"),
            ("aadpodidentity.k8s.io/gate-timeout", "10s"),
            ("aadpodidentity.k8s.io/sidecar-cpu-limit", "lots"),
        ],
    );
    let verdict = decide(&pod, &namespace, &config());
    let Decision::Inject(plan) = &verdict.decision else { panic!("{verdict:?}") };
    assert_eq!(plan.settings.log_level.to_string(), "debug", "the pod goes before its namespace");
    assert_eq!(plan.settings.gate_timeout.seconds(), 10, "the namespace before the chart");
    assert_eq!(plan.settings.resources.cpu_limit.as_str(), "500m");
    let warnings = verdict.warnings.as_slice();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings.iter().all(|warning| warning.chars().count() <= 120), "{warnings:?}");
}
