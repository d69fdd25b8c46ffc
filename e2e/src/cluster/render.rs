//! The configuration files of the components, as text. Pure.

use std::path::Path;

use serde_json::json;

use crate::host::cgroup;
use crate::images;
use crate::paths::State;
use crate::topology::{DNS_SERVICE_IP, Node, POD_CIDR};

/// Name of the pod network, and of its files in the machine-wide CNI cache.
pub(super) fn pod_network(node: &Node) -> String {
    format!("pod-identity-sidecar-{}", node.name())
}

/// The control group that holds everything of a node.
pub(super) fn node_cgroup(node: &Node) -> String {
    format!("{}/{}", cgroup::ROOT, node.name())
}

/// A kubeconfig that holds its CA, so that it can be copied.
pub(super) fn kubeconfig(server: &str, ca_base64: &str, token: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "pod-identity-sidecar",
            "cluster": { "server": server, "certificate-authority-data": ca_base64 },
        }],
        "users": [{ "name": "user", "user": { "token": token } }],
        "contexts": [{
            "name": "pod-identity-sidecar",
            "context": { "cluster": "pod-identity-sidecar", "user": "user" },
        }],
        "current-context": "pod-identity-sidecar",
    })
}

/// containerd with nothing outside the node's folder, as far as it can be told so.
pub(super) fn containerd(state: &State, node: &Node) -> String {
    let dir = state.node(node);
    let path = |name: &str| toml_string(&dir.join(name));
    format!(
        r#"version = 2
root = {root}
state = {run}
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = {socket}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_tcp_service = true
  netns_mounts_under_state_dir = true
  # Without CAP_SYS_RESOURCE runc dies when it lowers a score.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = {cni}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"#,
        root = path("containerd"),
        run = path("run"),
        socket = toml_string(&state.containerd_socket(node)),
        pause = images::reference("pause"),
        cni = path("cni"),
    )
}

/// The pod network: point-to-point cables and not a bridge, so that traffic between two pods of a
/// node is routed and passes FORWARD like any other.
pub(super) fn cni(state: &State, node: &Node) -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": pod_network(node),
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": state.node(node).join("ipam"),
                    "ranges": [[{ "subnet": node.pod_cidr() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// kubelet, with authentication and authorization as on a real node: pods can reach its port.
pub(super) fn kubelet(state: &State, node: &Node, client_ca: &str) -> serde_json::Value {
    let dir = state.node(node);
    let pki = state.pki();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "providerID": node.machine.provider_id(),
        "containerRuntimeEndpoint": format!("unix://{}", state.containerd_socket(node).display()),
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": client_ca },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": pki.join(format!("kubelet-{}.crt", node.name())),
        "tlsPrivateKeyFile": pki.join(format!("kubelet-{}.key", node.name())),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", node_cgroup(node)),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_SERVICE_IP],
        "resolvConf": state.config("resolv.conf"),
        // The machine's disk is not the cluster's to judge or to tidy.
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "imageMaximumGCAge": "0s",
        "volumePluginDir": dir.join("volume-plugins"),
        "podLogsDir": dir.join("pod-logs"),
        "syncFrequency": "5s",
        "registryPullQPS": 0,
        "maxPods": 200,
    })
}

/// kube-proxy.
pub(super) fn kube_proxy(node: &Node, kubeconfig: &Path) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": { "kubeconfig": kubeconfig },
        "hostnameOverride": node.name(),
        "clusterCIDR": POD_CIDR,
        // At once and not after a second: tests wait for it.
        "iptables": { "minSyncPeriod": "0s", "syncPeriod": "30s" },
        // These settings belong to the whole machine.
        "conntrack": { "maxPerCore": 0, "min": 0 },
    })
}

/// The DNS that there is not, for pods on their node's network.
pub(super) fn resolv_conf() -> String {
    format!("nameserver {DNS_SERVICE_IP}\noptions timeout:1 attempts:1\n")
}

/// A path as a TOML string.
fn toml_string(path: &Path) -> String {
    let escaped = path.to_string_lossy().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State::new(Path::new("/state")).unwrap()
    }

    #[test]
    fn containerd_keeps_to_the_nodes_folder() {
        let text = containerd(&state(), &Node::standard(2));
        assert!(text.contains("root = \"/state/node2/containerd\""), "{text}");
        assert!(text.contains("address = \"/state/node2/containerd.sock\""), "{text}");
        assert!(text.contains("localhost/pod-identity-sidecar/pause:dev"), "{text}");
        assert!(!text.contains("{"), "a placeholder is left: {text}");
        assert_eq!(toml_string(Path::new("/a\"b\\c")), "\"/a\\\"b\\\\c\"");
    }

    #[test]
    fn two_nodes_share_no_path_group_or_address() {
        let render = |index| {
            let node = Node::standard(index);
            [
                kubelet(&state(), &node, "/state/pki/ca.crt"),
                cni(&state(), &node),
                kube_proxy(&node, &state().config("kube-proxy.kubeconfig")),
            ]
        };
        let [kubelet_1, cni_1, proxy_1] = render(1);
        let [kubelet_2, cni_2, proxy_2] = render(2);
        for key in ["providerID", "containerRuntimeEndpoint", "cgroupRoot", "podLogsDir"] {
            assert_ne!(kubelet_1[key], kubelet_2[key], "{key}");
        }
        for key in ["/name", "/plugins/0/ipam/dataDir", "/plugins/0/ipam/ranges"] {
            assert!(cni_1.pointer(key).is_some(), "{key}");
            assert_ne!(cni_1.pointer(key), cni_2.pointer(key), "{key}");
        }
        assert_ne!(proxy_1["hostnameOverride"], proxy_2["hostnameOverride"]);
    }

    #[test]
    fn kubelet_lets_nobody_in_without_a_name() {
        let config = kubelet(&state(), &Node::standard(1), "/state/pki/ca.crt");
        assert_eq!(config.pointer("/authentication/anonymous/enabled"), Some(&json!(false)));
        assert_eq!(config.pointer("/authorization/mode"), Some(&json!("Webhook")));
        assert_eq!(config["evictionHard"], json!({}), "empty, not absent: absent means defaults");
    }
}
