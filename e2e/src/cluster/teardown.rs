//! Takes a cluster down, whatever state it is in: running, half started, or left by a crash.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cluster::render;
use crate::files;
use crate::host::{cgroup, mounts, net, procfs, sysctl};
use crate::paths::State;
use crate::process;
use crate::topology::{MAX_NODES, Node};

const CONTAINER_LOG_LINKS: &str = "/var/log/containers";
const CNI_CACHE: &str = "/var/lib/cni/results";
const PATIENCE: Duration = Duration::from_secs(20);

/// Leaves nothing: no process, mount, namespace, control group or file.
pub(super) async fn run(state: &State) -> Result<()> {
    stop_processes(state)?;
    remove_shim_sockets(state);
    mounts::unmount_below(state.root())?;
    for netns in net::all_netns() {
        net::delete(&netns).await?;
    }
    remove_cgroups()?;
    remove_links_into(Path::new(CONTAINER_LOG_LINKS), state.root());
    remove_network_results(state);
    sysctl::restore(&state.saved_sysctls())?;
    match fs::remove_dir_all(state.root()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", state.root().display()))
        }
        _ => Ok(()),
    }
}

/// kubelet first, or it starts again what is killed after it.
fn stop_processes(state: &State) -> Result<()> {
    let (kubelets, others): (Vec<_>, Vec<_>) =
        process::names(state).into_iter().partition(|name| name.starts_with("kubelet"));
    for name in kubelets.iter().chain(&others) {
        process::stop(state, name)?;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = leftovers(state)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes of the cluster do not die: {left:?}");
        }
        process::kill_all(left)?;
    }
}

/// Containers, their shims, and whatever else runs in the cluster's namespaces.
fn leftovers(state: &State) -> Result<BTreeSet<i32>> {
    let mut pids = cgroup::Hierarchies::of_this_machine()?.processes(cgroup::ROOT);
    for netns in net::all_netns() {
        pids.extend(procfs::pids_in_netns(&net::netns_path(&netns)));
    }
    pids.extend(procfs::pids().into_iter().filter(|pid| is_shim(&procfs::arguments(*pid), state)));
    pids.retain(|pid| procfs::stat(*pid).is_some_and(|stat| stat.is_alive()));
    Ok(pids)
}

fn is_shim(arguments: &[String], state: &State) -> bool {
    arguments.first().is_some_and(|program| program.contains("containerd-shim"))
        && arguments
            .windows(2)
            .any(|pair| pair[0] == "-address" && Path::new(&pair[1]).starts_with(state.root()))
}

/// containerd puts the sockets of its shims into a folder of the whole machine.
fn remove_shim_sockets(state: &State) {
    for index in 1..=MAX_NODES {
        let bundles =
            state.node(&Node::standard(index)).join("run/io.containerd.runtime.v2.task/k8s.io");
        let Ok(entries) = fs::read_dir(bundles) else { continue };
        for entry in entries.flatten() {
            let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
            let socket = address.strip_prefix("unix://").map(Path::new);
            if let Some(socket) = socket.filter(|s| s.starts_with("/run/containerd/s")) {
                // A socket that stays is litter, not a fault.
                let _ = files::remove(socket);
            }
        }
    }
}

/// A group stays busy for a moment after its last process died.
fn remove_cgroups() -> Result<()> {
    let hierarchies = cgroup::Hierarchies::of_this_machine()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match hierarchies.remove(cgroup::ROOT) {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            Ok(()) => return Ok(()),
        }
    }
}

/// kubelet links every container's log there, whatever its own folder is.
fn remove_links_into(links: &Path, target: &Path) {
    let Ok(entries) = fs::read_dir(links) else { return };
    for entry in entries.flatten() {
        if fs::read_link(entry.path()).is_ok_and(|link| link.starts_with(target)) {
            let _ = files::remove(&entry.path());
        }
    }
}

/// The CNI library remembers pods there that can now not be removed in the regular way.
fn remove_network_results(state: &State) {
    let Ok(entries) = fs::read_dir(CNI_CACHE) else { return };
    let networks: Vec<_> =
        (1..=MAX_NODES).map(|index| render::pod_network(&Node::standard(index))).collect();
    let root = state.root().to_string_lossy();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = networks.iter().any(|network| name.starts_with(network.as_str()))
            || (name.starts_with("cni-loopback-")
                && fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&*root)));
        if is_ours {
            let _ = files::remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn only_shims_of_this_clusters_containerd_are_ours() {
        let state = State::new(Path::new("/state")).unwrap();
        let shim = "/usr/bin/containerd-shim-runc-v2";
        let cases = [
            (vec![shim, "-namespace", "k8s.io", "-address", "/state/node1/containerd.sock"], true),
            (vec![shim, "-address", "/run/containerd/containerd.sock"], false),
            (vec![shim, "-address", "/state2/node1/containerd.sock"], false),
            (vec!["vi", "-address", "/state/node1/containerd.sock"], false),
            (vec![shim, "-address"], false),
            (vec![], false),
        ];
        for (words, expected) in cases {
            assert_eq!(is_shim(&arguments(&words), &state), expected, "{words:?}");
        }
    }

    #[test]
    fn links_to_other_places_stay() {
        let dir = tempfile::tempdir().unwrap();
        let links = dir.path().join("links");
        fs::create_dir(&links).unwrap();
        std::os::unix::fs::symlink("/state/node1/pod-logs/x", links.join("ours")).unwrap();
        std::os::unix::fs::symlink("/var/log/pods/x", links.join("other")).unwrap();
        remove_links_into(&links, Path::new("/state"));
        let left: Vec<_> = fs::read_dir(&links).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].file_name(), "other");
    }
}
