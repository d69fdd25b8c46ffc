//! Which pod addresses the node guard lets through: those of pods that an
//! `AzurePodIdentityException` of their own namespace matches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use api::AzurePodIdentityExceptionSpec;

use crate::pods::PodView;
use crate::watched::ObjectKey;

/// The addresses to let through.
///
/// An address is let through for a pod only while that pod holds it alone: an address that a
/// second live pod claims too, as happens when one is reused before its old holder is gone, is
/// not, for whose packets these are cannot be told.
pub(crate) fn excepted_ips(
    pods: &BTreeMap<ObjectKey, Arc<PodView>>,
    exceptions: &BTreeMap<ObjectKey, Arc<AzurePodIdentityExceptionSpec>>,
) -> BTreeSet<Ipv4Addr> {
    let mut holders: BTreeMap<Ipv4Addr, bool> = BTreeMap::new();
    for (key, pod) in pods.iter().filter(|(_, pod)| pod.live) {
        // The node's address is not a pod's: excepting it would except every such pod.
        let excepted = !pod.host_network && is_excepted(key, pod, exceptions);
        for address in &pod.addresses {
            holders.entry(*address).and_modify(|all| *all &= excepted).or_insert(excepted);
        }
    }
    holders
        .into_iter()
        .filter(|(address, excepted)| *excepted && is_pod_address(*address))
        .map(|(address, _)| address)
        .collect()
}

fn is_excepted(
    key: &ObjectKey,
    pod: &PodView,
    exceptions: &BTreeMap<ObjectKey, Arc<AzurePodIdentityExceptionSpec>>,
) -> bool {
    exceptions
        .iter()
        .any(|(exception, spec)| exception.namespace == key.namespace && spec.excepts(&pod.labels))
}

fn is_pod_address(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pods<'a> = &'a [(&'a str, &'a str, PodView)];

    fn pod(label: &str, address: &str) -> PodView {
        PodView {
            uid: "u".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), label.to_owned())]),
            addresses: vec![address.parse().unwrap()],
            host_network: false,
            live: true,
        }
    }

    /// The outcome with one exception, in `system`, for `app: agent`.
    fn excepted(pods: Pods<'_>) -> Vec<String> {
        let pods = pods
            .iter()
            .map(|(ns, name, pod)| (ObjectKey::new(*ns, *name), Arc::new(pod.clone())))
            .collect();
        let labels = BTreeMap::from([("app".to_owned(), "agent".to_owned())]);
        let spec = AzurePodIdentityExceptionSpec { pod_labels: Some(labels) };
        let exceptions = BTreeMap::from([(ObjectKey::new("system", "e"), Arc::new(spec))]);
        excepted_ips(&pods, &exceptions).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_live_matching_pods_of_the_exceptions_namespace_pass() {
        let host = PodView { host_network: true, ..pod("agent", "10.0.0.4") };
        let ended = PodView { live: false, ..pod("agent", "10.0.0.5") };
        let without_address = PodView { addresses: Vec::new(), ..pod("agent", "10.0.0.6") };
        let cases: [(&str, Pods<'_>, &[&str]); 8] = [
            ("matching", &[("system", "a", pod("agent", "10.0.0.1"))], &["10.0.0.1"]),
            ("other label", &[("system", "a", pod("web", "10.0.0.1"))], &[]),
            ("other namespace", &[("team", "a", pod("agent", "10.0.0.1"))], &[]),
            ("host network", &[("system", "a", host)], &[]),
            ("ended", &[("system", "a", ended)], &[]),
            ("no address yet", &[("system", "a", without_address)], &[]),
            ("link-local", &[("system", "a", pod("agent", "169.254.1.2"))], &[]),
            ("loopback", &[("system", "a", pod("agent", "127.0.0.1"))], &[]),
        ];
        for (case, pods, expected) in cases {
            assert_eq!(excepted(pods), expected, "{case}");
        }
    }

    #[test]
    fn an_address_with_two_holders_passes_only_if_both_may() {
        let agent = ("system", "a", pod("agent", "10.0.0.1"));
        let web = ("team", "b", pod("web", "10.0.0.1"));
        let other_agent = ("system", "c", pod("agent", "10.0.0.1"));
        let ended = ("team", "b", PodView { live: false, ..pod("web", "10.0.0.1") });
        assert!(excepted(&[agent.clone(), web]).is_empty());
        assert_eq!(excepted(&[agent.clone(), other_agent]), ["10.0.0.1"]);
        assert_eq!(excepted(&[agent, ended]), ["10.0.0.1"]);
    }

    #[test]
    fn the_nodes_own_address_is_never_excepted() {
        let host = PodView { host_network: true, ..pod("web", "10.0.0.1") };
        let odd = pod("agent", "10.0.0.1");
        assert!(excepted(&[("system", "a", odd), ("team", "b", host)]).is_empty());
    }
}
