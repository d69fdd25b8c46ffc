//! Whether this is the host's network namespace, where our rules would take the node's traffic.
//!
//! The webhook refuses such pods; this is the check behind it, for manifests that were not made by
//! the webhook and for a kubelet that did not make the namespace.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, UdpSocket};

use netfilter::{Error, Iptables, Table};

/// What kube-proxy and kubelet call their chains on a node.
const NODE_CHAIN_PREFIX: &str = "KUBE-";

/// What gave the host's namespace away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostNamespace {
    /// The node's address can be bound here.
    NodeAddressIsLocal(IpAddr),
    /// The pod has the node's address.
    PodAddressIsNodes(IpAddr),
    /// Chains that only a node has.
    NodeChains(BTreeSet<String>),
}

/// What is known about this namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chains(BTreeSet<String>);

// === impl HostNamespace ===

impl HostNamespace {
    /// By addresses alone, before any command is run.
    pub(crate) fn by_address(node: IpAddr, pod: Option<IpAddr>) -> io::Result<Option<Self>> {
        if pod == Some(node) {
            return Ok(Some(Self::PodAddressIsNodes(node)));
        }
        Ok(is_local(node)?.then_some(Self::NodeAddressIsLocal(node)))
    }

    /// By the chains that are there, whoever made them.
    pub(crate) fn by_chains(Chains(chains): Chains) -> Option<Self> {
        let of_node = |chain: &String| chain.starts_with(NODE_CHAIN_PREFIX);
        let found: BTreeSet<_> = chains.into_iter().filter(of_node).collect();
        (!found.is_empty()).then_some(Self::NodeChains(found))
    }
}

impl fmt::Display for HostNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is the host's network namespace, ")?;
        match self {
            Self::NodeAddressIsLocal(ip) => write!(f, "the node's address {ip} is local here"),
            Self::PodAddressIsNodes(ip) => write!(f, "pod and node have the same address {ip}"),
            Self::NodeChains(chains) => {
                let chains: Vec<_> = chains.iter().take(3).map(String::as_str).collect();
                write!(f, "there are chains of a node in it ({})", chains.join(", "))
            }
        }
    }
}

// === impl Chains ===

impl Chains {
    /// Adds the chains that `iptables` sees.
    ///
    /// A backend that cannot be read for good has none: nobody could have written them either, or
    /// we could not write beside them. One that is merely busy must be asked again.
    pub(crate) fn read(mut self, iptables: &Iptables) -> Result<Self, Error> {
        for table in [Table::Nat, Table::Filter] {
            match iptables.chains(table) {
                Ok(chains) => self.0.extend(chains),
                Err(error @ (Error::Locked { .. } | Error::TimedOut { .. })) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(self)
    }
}

/// An address can be bound exactly where it is local; nothing is sent.
fn is_local(address: IpAddr) -> io::Result<bool> {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_of_this_machine_is_the_hosts() {
        // 192.0.2.0/24 is documentation's, and nobody's
        let cases = [
            ("127.0.0.1", None, true),
            ("192.0.2.1", None, false),
            ("192.0.2.1", Some("192.0.2.2"), false),
            ("192.0.2.1", Some("192.0.2.1"), true),
        ];
        for (node, pod, expected) in cases {
            let found = HostNamespace::by_address(ip(node), pod.map(ip)).unwrap();
            assert_eq!(found.is_some(), expected, "node {node}, pod {pod:?}: {found:?}");
        }
    }

    #[test]
    fn a_chain_of_a_node_is_the_hosts() {
        let chains = |names: &[&str]| Chains(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(HostNamespace::by_chains(chains(&["OUTPUT", "ISTIO_OUTPUT", "MY-KUBE-"])), None);
        let found = HostNamespace::by_chains(chains(&["OUTPUT", "KUBE-SERVICES"])).unwrap();
        assert!(found.to_string().contains("KUBE-SERVICES"), "{found}");
    }
}
