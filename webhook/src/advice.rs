//! What an injected pod's author should know although nothing speaks against injection.

use api::labels::{ALLOW_UNSAFE_PODS, INJECT, STATUS, WARM_UP};

use crate::namespace_view::NamespaceView;
use crate::ours::{INIT_REDIRECT, MODE_KEY, is_ours};
use crate::overrides::{PREFIX, is_override};
use crate::pod::{ContainerView, PodView};
use crate::warnings::Warnings;

/// Variables by which Azure SDKs ask something else than the metadata address.
const STEERING: [&str; 5] = [
    "IDENTITY_ENDPOINT",
    "IMDS_ENDPOINT",
    "MSI_ENDPOINT",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
];

const PROXIES: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
const NO_PROXIES: [&str; 2] = ["NO_PROXY", "no_proxy"];
const EXEMPTIONS: [&str; 4] = ["169.254.169.254", "169.254.169.254/32", "169.254.0.0/16", "*"];

const WORKLOAD_IDENTITY: &str = "azure.workload.identity/use";
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// Annotations of a pod that mean something, besides the overrides of settings.
const KNOWN: [&str; 4] = [INJECT, STATUS, WARM_UP, MODE_KEY];

/// Containers of other injectors that may come first: they do not run the author's code.
const INFRASTRUCTURE: [&str; 9] = [
    "istio-init",
    "istio-proxy",
    "istio-validation",
    "linkerd-init",
    "linkerd-network-validator",
    "linkerd-proxy",
    "kuma-init",
    "kuma-sidecar",
    "consul-connect-inject-init",
];

/// Adds what there is to say about a pod that is injected.
pub(crate) fn advise(pod: PodView<'_>, namespace: &NamespaceView, warnings: &mut Warnings) {
    order(pod, warnings);
    unknown_annotations(pod, warnings);
    for container in pod.containers().filter(|container| !is_ours(*container)) {
        steering(container, warnings);
        proxy(container, warnings);
    }
    if pod.label(WORKLOAD_IDENTITY).is_some() {
        warnings.push(format!(
            "label {WORKLOAD_IDENTITY}: SDKs may use workload identity instead of pod identity"
        ));
    }
    if let Some(level @ ("baseline" | "restricted")) = namespace.label(POD_SECURITY) {
        warnings.push(format!(
            "the namespace enforces Pod Security {level:?}, which refuses {INIT_REDIRECT}'s NET_ADMIN"
        ));
    }
}

/// Containers that another webhook put before ours; moving is not ours to do.
fn order(pod: PodView<'_>, warnings: &mut Warnings) {
    if !pod.init_containers().any(is_ours) {
        return;
    }
    for container in pod.init_containers().take_while(|container| !is_ours(*container)) {
        let name = container.name();
        if !INFRASTRUCTURE.contains(&name) {
            warnings.push(format!(
                "init container {name:?} runs before {INIT_REDIRECT} and has no pod identity"
            ));
        }
    }
}

fn unknown_annotations(pod: PodView<'_>, warnings: &mut Warnings) {
    for key in pod.annotation_keys() {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        if key == ALLOW_UNSAFE_PODS {
            warnings.push(format!("annotation {key} ignored: it only counts on a namespace"));
        } else if !KNOWN.contains(&key) && !is_override(name) {
            warnings.push(format!("annotation {key} ignored: there is no such setting"));
        }
    }
}

fn steering(container: ContainerView<'_>, warnings: &mut Warnings) {
    for variable in STEERING.into_iter().filter(|variable| container.env(variable).is_some()) {
        let name = container.name();
        warnings
            .push(format!("{variable} in container {name:?} steers Azure SDKs past pod identity"));
    }
}

fn proxy(container: ContainerView<'_>, warnings: &mut Warnings) {
    let Some(variable) = PROXIES.into_iter().find(|variable| container.env(variable).is_some())
    else {
        return;
    };
    let exempted = NO_PROXIES.into_iter().filter_map(|name| container.env(name)).any(|entry| {
        // A value from elsewhere cannot be read here: give it the benefit of the doubt.
        entry["value"].as_str().is_none_or(|list| {
            list.split(',').any(|exemption| EXEMPTIONS.contains(&exemption.trim()))
        })
    });
    if !exempted {
        warnings.push(format!(
            "{variable} in container {:?}: add 169.254.169.254 to NO_PROXY",
            container.name()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn warned(pod: &Value) -> Vec<String> {
        let mut warnings = Warnings::default();
        advise(PodView::new(pod), &NamespaceView::unknown(), &mut warnings);
        warnings.as_slice().to_vec()
    }

    fn with_env(env: &Value) -> Value {
        json!({"spec": {"containers": [{"name": "app", "env": env}]}})
    }

    #[test]
    fn variables_that_steer_away_are_named_with_their_container() {
        for variable in STEERING {
            let warnings = warned(&with_env(&json!([{"name": variable, "value": "x"}])));
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(variable) && warnings[0].contains("\"app\""));
        }
        assert!(warned(&with_env(&json!([{"name": "AZURE_CLIENT_ID"}]))).is_empty());
    }

    #[test]
    fn a_proxy_needs_an_exemption() {
        for (no_proxy, expected) in [
            (json!({"name": "OTHER"}), 1),
            (json!({"name": "NO_PROXY", "value": "localhost,.svc"}), 1),
            (json!({"name": "no_proxy", "value": "a, 169.254.169.254"}), 0),
            (json!({"name": "NO_PROXY", "value": "*"}), 0),
            (json!({"name": "NO_PROXY", "valueFrom": {"configMapKeyRef": {}}}), 0),
        ] {
            let env = json!([{"name": "HTTP_PROXY", "value": "http://p"}, no_proxy]);
            assert_eq!(warned(&with_env(&env)).len(), expected, "{env}");
        }
    }

    #[test]
    fn settings_that_do_not_exist_are_not_silently_accepted() {
        let pod = json!({"metadata": {"annotations": {
            "aadpodidentity.k8s.io/sidecar-cpu-limits": "1",
            "aadpodidentity.k8s.io/allow-unsafe-pods": "true",
            "aadpodidentity.k8s.io/log-level": "debug",
            "aadpodidentity.k8s.io/warm-up": "https://vault.azure.net",
            "aadpodidentity.k8s.io/intercept-mode": "iptables",
            "aadpodidentity.k8s.io/inject": "true",
            "example.org/anything": "x"
        }}});
        let warnings = warned(&pod);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings.iter().any(|w| w.contains("sidecar-cpu-limits")));
        assert!(warnings.iter().any(|w| w.contains("only counts on a namespace")));
    }

    #[test]
    fn workload_identity_and_pod_security_are_pointed_out() {
        let pod = json!({"metadata": {"labels": {WORKLOAD_IDENTITY: "true"}}});
        assert!(warned(&pod)[0].contains("workload identity"));

        let labels = [(POD_SECURITY.to_owned(), "restricted".to_owned())];
        let namespace = NamespaceView::known(labels.into(), [].into());
        let mut warnings = Warnings::default();
        advise(PodView::new(&json!({})), &namespace, &mut warnings);
        assert!(warnings.as_slice()[0].contains("NET_ADMIN"));
    }
}
