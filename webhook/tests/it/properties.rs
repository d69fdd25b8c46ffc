//! What holds for every body and every pod.

use json_patch::PatchOperation;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::{Value, json};
use webhook::{Decision, InjectorConfig, Review, decide, patch};

use crate::fixtures::{INJECT, config, namespace, review};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        let key = prop_oneof![
            3 => prop::sample::select(&KEYS[..]).prop_map(str::to_owned),
            1 => ".{0,6}",
        ];
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            btree_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Words of the API, so that random documents resemble it.
const KEYS: [&str; 24] = [
    "request",
    "uid",
    "object",
    "namespace",
    "operation",
    "resource",
    "metadata",
    "labels",
    "annotations",
    "spec",
    "containers",
    "initContainers",
    "volumes",
    "name",
    "securityContext",
    "capabilities",
    "add",
    "ports",
    "containerPort",
    "env",
    "args",
    "volumeMounts",
    "aadpodidbinding",
    "kind",
];

fn a_container() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["app", "web", "x", "y", "istio-init", "nmi-sidecar"]);
    let context = prop_oneof![
        4 => Just(Value::Null),
        1 => Just(json!({"privileged": true})),
        1 => Just(json!({"capabilities": {"add": ["NET_ADMIN"]}})),
        1 => Just(json!({"runAsUser": 0, "futureField": [1]})),
    ];
    let port = prop_oneof![4 => Just(8080), 1 => Just(2579)];
    (name, context, port, any_json()).prop_map(|(name, context, port, extra)| {
        json!({"name": name, "image": "x", "securityContext": context,
               "ports": [{"containerPort": port}], "unknownField": extra})
    })
}

fn a_pod() -> impl Strategy<Value = Value> {
    let lists = (
        proptest::option::of(vec(a_container(), 0..3)),
        vec(a_container(), 0..3),
        proptest::option::of(vec(
            prop::sample::select(vec!["data", "aadpodidentity-nmi", "aadpodidentity-empty"])
                .prop_map(|name| json!({"name": name, "emptyDir": {}})),
            0..3,
        )),
    );
    let words = prop::sample::select(vec!["true", "false", "yes", "debug", "5s", "64Mi", "2"]);
    let keys = prop::sample::select(vec![
        INJECT,
        "aadpodidentity.k8s.io/log-level",
        "aadpodidentity.k8s.io/gate-timeout",
        "aadpodidentity.k8s.io/sidecar-memory-request",
        "aadpodidentity.k8s.io/sidecar-cpu-request",
        "aadpodidentity.k8s.io/status",
        "other/annotation",
    ]);
    let annotations = proptest::option::of(btree_map(keys, words, 0..4));
    let flags = proptest::option::weighted(
        0.3,
        prop::sample::select(vec!["hostNetwork", "hostPID", "shareProcessNamespace"]),
    );
    (lists, annotations, flags, any_json()).prop_map(
        |((init, app, volumes), notes, flag, extra)| {
            let mut pod = json!({
                "metadata": {"generateName": "web-", "labels": {"aadpodidbinding": "shop"}},
                "spec": {"containers": app, "futureField": extra}
            });
            if let Some(init) = init {
                pod["spec"]["initContainers"] = json!(init);
            }
            if let Some(volumes) = volumes {
                pod["spec"]["volumes"] = json!(volumes);
            }
            if let Some(notes) = notes {
                pod["metadata"]["annotations"] = json!(notes);
            }
            if let Some(flag) = flag {
                pod["spec"][flag] = json!(true);
            }
            pod
        },
    )
}

/// Pods that are injected, and the configuration under which they are.
fn an_injected_pod() -> impl Strategy<Value = (Value, InjectorConfig)> {
    (a_pod(), any::<bool>())
        .prop_map(|(pod, lenient)| (pod, InjectorConfig { allow_unsafe_pods: lenient, ..config() }))
        .prop_filter("not injected", |(pod, config)| {
            matches!(decide(pod, &namespace(&[], &[]), config).decision, Decision::Inject(_))
        })
}

/// Whatever is understood has a uid, and its patch, if any, can be applied.
fn answers(body: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(review) = Review::parse(body) {
        prop_assert!(!review.uid.is_empty());
        let verdict = decide(&review.object, &namespace(&[], &[]), &config());
        if let Decision::Inject(plan) = verdict.decision
            && let Ok(patch) = patch(&review.object, &plan, &config())
        {
            let mut pod = review.object;
            prop_assert!(json_patch::patch(&mut pod, &patch).is_ok());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_body_panics(bytes in vec(any::<u8>(), 0..200)) {
        answers(&bytes)?;
    }

    #[test]
    fn no_json_panics(body in any_json()) {
        answers(body.to_string().as_bytes())?;
    }

    #[test]
    fn no_object_in_a_review_panics(object in any_json(), label in any::<bool>()) {
        let mut object = object;
        if let (true, Some(fields)) = (label, object.as_object_mut()) {
            fields.insert("metadata".to_owned(), json!({"annotations": {INJECT: "true"}}));
        }
        answers(review("shop", &object).to_string().as_bytes())?;
    }

    #[test]
    fn injection_only_adds_and_a_second_run_changes_nothing((pod, config) in an_injected_pod()) {
        let namespace = namespace(&[], &[]);
        let plan = |pod: &Value| match decide(pod, &namespace, &config).decision {
            Decision::Inject(plan) => Ok(*plan),
            other => Err(TestCaseError::fail(format!("not injected: {other:?}"))),
        };
        let first = patch(&pod, &plan(&pod)?, &config).unwrap();
        prop_assert!(first.iter().all(|operation| matches!(operation, PatchOperation::Add(_))));
        let mut after = pod.clone();
        json_patch::patch(&mut after, &first).unwrap();
        prop_assert_eq!(&after["spec"]["futureField"], &pod["spec"]["futureField"]);
        prop_assert_eq!(&after["spec"]["containers"], &pod["spec"]["containers"]);
        let inits = after["spec"]["initContainers"].as_array().unwrap();
        prop_assert_eq!(&inits[0]["name"], "init-redirect");
        prop_assert_eq!(&inits[1]["name"], "nmi-sidecar");
        let before = pod["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
        prop_assert_eq!(&inits[2..], &before[..]);

        let second = patch(&after, &plan(&after)?, &config).unwrap();
        prop_assert!(second.is_empty(), "{:?}", second);
    }

    #[test]
    fn warnings_fit_what_the_api_server_shows(pod in a_pod()) {
        let verdict = decide(&pod, &namespace(&[], &[]), &config());
        prop_assert!(verdict.warnings.as_slice().iter().all(|w| w.chars().count() <= 120));
    }
}
