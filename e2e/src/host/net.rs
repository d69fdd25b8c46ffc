//! The network of the cluster: a namespace per node, one that stands for Azure, cables between them.
//! Nothing of it touches the root namespace.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::exec;
use crate::files::{self, Access};
use crate::paths::State;
use crate::topology::{AZURE_IP, AZURE_NETNS, MAX_NODES, METADATA_IP, Node};

/// Forwarding on; no reverse path filter, because answers of the metadata address may come
/// another way than the kernel expects; and no limit on refusals, or a client that is refused
/// several times waits for an answer instead.
const SYSCTLS: &str = "echo 1 >/proc/sys/net/ipv4/ip_forward \
    && echo 0 >/proc/sys/net/ipv4/icmp_ratelimit \
    && echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter \
    && echo 0 >/proc/sys/net/ipv4/conf/default/rp_filter";

/// The file that holds a namespace.
#[must_use]
pub fn netns_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Every namespace that a cluster of any size can have.
#[must_use]
pub fn all_netns() -> Vec<String> {
    let nodes = (1..=MAX_NODES).map(|index| Node::standard(index).netns());
    nodes.chain([AZURE_NETNS.to_owned()]).collect()
}

/// Whether the namespace was set up to the end and is still there.
#[must_use]
pub fn is_set_up(state: &State, netns: &str) -> bool {
    state.netns_marker(netns).is_file() && netns_path(netns).exists()
}

/// Makes what is missing of the namespaces and the routes between them.
pub async fn ensure(state: &State, nodes: &[Node]) -> Result<()> {
    if !is_set_up(state, AZURE_NETNS) {
        create(state, AZURE_NETNS, &azure_batch()).await?;
    }
    for node in nodes {
        if !is_set_up(state, &node.netns()) {
            create(state, &node.netns(), &node_batch(node)).await?;
        }
    }
    for node in nodes {
        batch(state, &node.netns(), &node_routes(node, nodes)).await?;
    }
    batch(state, AZURE_NETNS, &azure_routes(nodes)).await
}

/// Deletes the namespace with all that is in it, if it is there.
pub async fn delete(netns: &str) -> Result<bool> {
    if !netns_path(netns).exists() {
        return Ok(false);
    }
    exec::run(exec::command("ip").args(["netns", "delete", netns])).await?;
    Ok(true)
}

async fn create(state: &State, netns: &str, setup: &str) -> Result<()> {
    delete(netns).await?;
    exec::run(exec::command("ip").args(["netns", "add", netns])).await?;
    // Not `ip netns exec`: it mounts another /sys.
    let mut enter = exec::command("nsenter");
    enter.arg(format!("--net={}", netns_path(netns).display()));
    exec::run(enter.args(["sh", "-c", SYSCTLS])).await?;
    batch(state, netns, setup).await?;
    files::write(&state.netns_marker(netns), "", Access::Public)
}

async fn batch(state: &State, netns: &str, lines: &str) -> Result<()> {
    let file = state.config(&format!("{netns}.ip"));
    files::write(&file, lines, Access::Public)?;
    exec::run(exec::command("ip").args(["-n", netns, "-batch"]).arg(&file))
        .await
        .with_context(|| format!("cannot set up the network of {netns}"))
}

fn azure_batch() -> String {
    format!(
        "link set lo up\n\
         address add {METADATA_IP}/32 dev lo\n\
         link add nodes type bridge\n\
         address add {AZURE_IP}/24 dev nodes\n\
         link set nodes up\n"
    )
}

fn azure_routes(nodes: &[Node]) -> String {
    let mut lines = String::new();
    for node in nodes {
        let name = node.name();
        let _ = writeln!(lines, "link set {name} master nodes up");
        let _ = writeln!(lines, "route replace {} via {}", node.pod_cidr(), node.ip());
    }
    lines
}

fn node_batch(node: &Node) -> String {
    format!(
        "link set lo up\n\
         link add eth0 type veth peer name {} netns {AZURE_NETNS}\n\
         address add {}/24 dev eth0\n\
         link set eth0 up\n\
         route add default via {AZURE_IP}\n",
        node.name(),
        node.ip()
    )
}

fn node_routes(node: &Node, nodes: &[Node]) -> String {
    let mut lines = String::new();
    for other in nodes.iter().filter(|other| *other != node) {
        let _ = writeln!(lines, "route replace {} via {}", other.pod_cidr(), other.ip());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::standard_nodes;

    #[test]
    fn a_node_reaches_everything_through_azure_and_other_pods_directly() {
        let nodes = standard_nodes(3).unwrap();
        let setup = node_batch(&nodes[1]);
        assert!(setup.contains("veth peer name node2 netns pis-azure"), "{setup}");
        assert!(setup.contains("address add 10.77.0.2/24 dev eth0"), "{setup}");
        assert!(setup.contains("route add default via 10.77.0.254"), "{setup}");
        assert_eq!(
            node_routes(&nodes[1], &nodes),
            "route replace 10.88.1.0/24 via 10.77.0.1\nroute replace 10.88.3.0/24 via 10.77.0.3\n"
        );
    }

    #[test]
    fn azure_has_the_metadata_address_and_no_way_out() {
        let setup = azure_batch();
        assert!(setup.contains("address add 169.254.169.254/32 dev lo"), "{setup}");
        let routes = azure_routes(&standard_nodes(2).unwrap());
        assert!(!setup.contains("default") && !routes.contains("default"), "{routes}");
        assert!(routes.contains("route replace 10.88.2.0/24 via 10.77.0.2"), "{routes}");
    }

    #[test]
    fn all_namespaces_are_known_by_name() {
        let all = all_netns();
        assert_eq!(all.len(), 10);
        assert!(all.iter().all(|name| name.starts_with("pis-")));
    }
}
