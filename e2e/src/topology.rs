//! The shape of the local cluster: which nodes there are, their addresses, and which machines of
//! (fake) Azure they claim to be. Values only.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};

/// Subscription of all fake Azure resources.
pub const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
/// Resource group of the node machines.
pub const RESOURCE_GROUP: &str = "MC_demo";
/// Scale set that the first two nodes belong to.
pub const SCALE_SET: &str = "nodes";

/// Namespace that stands for everything outside the cluster.
pub const AZURE_NETNS: &str = "pis-azure";
/// Address of (fake) Azure, and the nodes' gateway.
pub const AZURE_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
/// Address of the instance metadata service.
pub const METADATA_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Addresses of pods, all nodes together.
pub const POD_CIDR: &str = "10.88.0.0/16";
/// Addresses of Services.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The API server's own Service.
pub const API_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Where pods look for DNS. Nothing answers there: the cluster has no DNS.
pub const DNS_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The API server's issuer of service account tokens: what a federated credential names.
pub const SERVICE_ACCOUNT_ISSUER: &str = "https://kubernetes.default.svc";
/// The API server's port on the first node.
pub const API_PORT: u16 = 6443;

/// Where the API server is reached from outside the namespaces.
pub const API_FORWARD: &str = "127.0.0.1:16443";
/// Where fake Azure's control API is reached from outside the namespaces.
pub const FAKE_AZURE_FORWARD: &str = "127.0.0.1:18000";
/// Port of fake Azure's control API at [`AZURE_IP`].
pub const FAKE_AZURE_CONTROL_PORT: u16 = 8000;
/// Port of fake Azure's key vaults at [`AZURE_IP`].
pub const FAKE_AZURE_VAULT_PORT: u16 = 10443;

/// As many nodes as one digit of an address can tell apart.
pub const MAX_NODES: u8 = 9;

/// The machine of Azure that a node claims to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Machine {
    /// An instance of a uniform scale set.
    ScaleSetInstance {
        /// Name of the scale set.
        scale_set: String,
        /// Instance id.
        instance: u32,
    },
    /// A virtual machine of its own.
    Single {
        /// Name of the machine.
        name: String,
    },
}

impl Machine {
    /// What `spec.providerID` of the node says.
    #[must_use]
    pub fn provider_id(&self) -> String {
        let group = format!(
            "azure:///subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}/providers/Microsoft.Compute"
        );
        match self {
            Self::ScaleSetInstance { scale_set, instance } => {
                format!("{group}/virtualMachineScaleSets/{scale_set}/virtualMachines/{instance}")
            }
            Self::Single { name } => format!("{group}/virtualMachines/{name}"),
        }
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// 1 for the first, which also runs the control plane.
    pub index: u8,
    /// What it claims to be.
    pub machine: Machine,
}

impl Node {
    /// The node with the machine that it has by default: the first two are instances 0 and 1 of one
    /// scale set, the others machines of their own, so that both kinds of host are there.
    #[must_use]
    pub fn standard(index: u8) -> Self {
        let machine = match index {
            1 | 2 => Machine::ScaleSetInstance {
                scale_set: SCALE_SET.to_owned(),
                instance: u32::from(index) - 1,
            },
            _ => Machine::Single { name: format!("vm{index}") },
        };
        Self { index, machine }
    }

    /// Name in Kubernetes, in file names and of its cable.
    #[must_use]
    pub fn name(&self) -> String {
        format!("node{}", self.index)
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> String {
        format!("pis-node{}", self.index)
    }

    /// Its address.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.index)
    }

    /// The addresses of its pods.
    #[must_use]
    pub fn pod_cidr(&self) -> String {
        format!("10.88.{}.0/24", self.index)
    }
}

/// The nodes `1..=count` as they are by default.
pub fn standard_nodes(count: u8) -> Result<Vec<Node>> {
    if count == 0 || count > MAX_NODES {
        bail!("the local cluster has 1 to {MAX_NODES} nodes, not {count}");
    }
    Ok((1..=count).map(Node::standard).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_ids_are_those_of_scale_set_instances_and_single_machines() {
        let ids: Vec<String> =
            standard_nodes(3).unwrap().iter().map(|node| node.machine.provider_id()).collect();
        let group = "azure:///subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/MC_demo/providers/Microsoft.Compute";
        assert_eq!(ids[0], format!("{group}/virtualMachineScaleSets/nodes/virtualMachines/0"));
        assert_eq!(ids[1], format!("{group}/virtualMachineScaleSets/nodes/virtualMachines/1"));
        assert_eq!(ids[2], format!("{group}/virtualMachines/vm3"));
    }

    #[test]
    fn addresses_follow_the_index() {
        let node = Node::standard(2);
        assert_eq!(node.name(), "node2");
        assert_eq!(node.netns(), "pis-node2");
        assert_eq!(node.ip().to_string(), "10.77.0.2");
        assert_eq!(node.pod_cidr(), "10.88.2.0/24");
    }

    #[test]
    fn a_count_without_addresses_is_refused() {
        assert!(standard_nodes(0).is_err());
        assert!(standard_nodes(10).is_err());
        assert_eq!(standard_nodes(9).unwrap().len(), 9);
    }
}
