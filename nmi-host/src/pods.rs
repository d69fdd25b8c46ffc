//! The pods of this node, as far as the agent needs them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodView {
    /// Tells it from earlier pods of the same name.
    pub(crate) uid: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its IPv4 addresses.
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// Whether its addresses are those of the node.
    pub(crate) host_network: bool,
    /// Whether it is pending or running: its addresses are its own only as long.
    pub(crate) live: bool,
}

/// A pod by all that tells it from every other: what an authenticated caller is, and what the
/// host endpoint looks up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodRef {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its uid.
    pub(crate) uid: String,
}

// === impl PodView ===

impl PodView {
    /// What is kept of a pod.
    pub(crate) fn read(pod: &Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        let all = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
        let first = status.and_then(|status| status.pod_ip.as_deref());
        let mut addresses: Vec<Ipv4Addr> = all
            .iter()
            .map(|address| address.ip.as_str())
            .chain(first)
            .filter_map(|text| text.parse().ok())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        Some(Self {
            uid: pod.metadata.uid.clone()?,
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses,
            host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
            live: matches!(phase, "Pending" | "Running"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: serde_json::Value) -> Option<PodView> {
        PodView::read(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn addresses_are_ipv4_and_counted_once() {
        let pod = read(serde_json::json!({
            "metadata": {"uid": "u", "labels": {"a": "b"}},
            "spec": {"containers": []},
            "status": {"phase": "Running", "podIP": "10.0.0.9",
                "podIPs": [{"ip": "fd00::9"}, {"ip": "10.0.0.9"}]}
        }))
        .unwrap();
        assert_eq!(pod.addresses, [Ipv4Addr::new(10, 0, 0, 9)]);
        assert!(pod.live && !pod.host_network);
    }

    #[test]
    fn ended_pods_are_not_live() {
        for (phase, live) in
            [("Pending", true), ("Running", true), ("Succeeded", false), ("Failed", false)]
        {
            let pod = read(serde_json::json!({
                "metadata": {"uid": "u"}, "status": {"phase": phase}
            }));
            assert_eq!(pod.unwrap().live, live, "{phase}");
        }
        assert_eq!(read(serde_json::json!({"metadata": {}})), None, "no uid, no pod");
    }
}
