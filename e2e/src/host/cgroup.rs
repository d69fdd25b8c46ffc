//! The control groups that hold a node's containers, in every hierarchy that this machine has,
//! version 1, 2 or both.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::host::mounts;

/// All our groups are below this one.
pub const ROOT: &str = "pod-identity-sidecar";
/// What kubelet cannot do without, on a machine with version 1.
const NEEDED: [&str; 5] = ["cpu", "cpuacct", "cpuset", "memory", "pids"];

/// The places where groups can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies(Vec<Hierarchy>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    point: PathBuf,
    version: Version,
    controllers: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Hierarchies {
    /// Those of this machine.
    pub fn of_this_machine() -> Result<Self> {
        Ok(Self::from_mounts(&mounts::read()?))
    }

    fn from_mounts(mounts: &[mounts::Mount]) -> Self {
        let hierarchies = mounts.iter().filter_map(|mount| {
            let (version, controllers) = match mount.kind.as_str() {
                "cgroup" => (Version::One, mount.options.split(',').map(str::to_owned).collect()),
                "cgroup2" => {
                    let list = fs::read_to_string(mount.point.join("cgroup.controllers"));
                    let list = list.unwrap_or_default();
                    (Version::Two, list.split_whitespace().map(str::to_owned).collect())
                }
                _ => return None,
            };
            Some(Hierarchy { point: mount.point.clone(), version, controllers })
        });
        Self(hierarchies.collect())
    }

    /// Controllers that kubelet needs and no hierarchy has.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let has = |name: &str| {
            self.0.iter().any(|hierarchy| {
                // Version 2 counts CPU time without a controller of its own.
                let cpuacct = name == "cpuacct" && hierarchy.controllers.iter().any(|c| c == "cpu");
                hierarchy.controllers.iter().any(|controller| controller == name)
                    || (cpuacct && hierarchy.version == Version::Two)
            })
        };
        NEEDED.into_iter().filter(|name| !has(name)).collect()
    }

    /// Makes the group in every hierarchy, ready for kubelet to make its own below it.
    pub fn create(&self, group: &str) -> Result<()> {
        for hierarchy in &self.0 {
            let mut dir = hierarchy.point.clone();
            for part in Path::new(group) {
                hierarchy.delegate(&dir)?;
                let parent = dir.clone();
                dir.push(part);
                make_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
                hierarchy.inherit_cpuset(&parent, &dir)?;
            }
            hierarchy.delegate(&dir)?;
        }
        Ok(())
    }

    /// Every process in the group and below it.
    #[must_use]
    pub fn processes(&self, group: &str) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for hierarchy in &self.0 {
            for dir in tree(&hierarchy.point.join(group)) {
                let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                found.extend(list.lines().filter_map(|line| line.parse::<i32>().ok()));
            }
        }
        found
    }

    /// Removes the group and all below it; they must be empty of processes.
    pub fn remove(&self, group: &str) -> Result<()> {
        for hierarchy in &self.0 {
            for dir in tree(&hierarchy.point.join(group)).iter().rev() {
                match fs::remove_dir(dir) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error)
                            .with_context(|| format!("cannot remove cgroup {}", dir.display()));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Hierarchy {
    /// In version 2 a group's children have only the controllers that it hands down.
    fn delegate(&self, dir: &Path) -> Result<()> {
        if self.version == Version::One {
            return Ok(());
        }
        for controller in &self.controllers {
            let file = dir.join("cgroup.subtree_control");
            fs::write(&file, format!("+{controller}"))
                .with_context(|| format!("cannot hand down {controller} in {}", file.display()))?;
        }
        Ok(())
    }

    /// A new group of version 1 has no CPUs, and no process can enter it until it does.
    fn inherit_cpuset(&self, parent: &Path, dir: &Path) -> Result<()> {
        if self.version == Version::Two || !self.controllers.iter().any(|name| name == "cpuset") {
            return Ok(());
        }
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let value = fs::read_to_string(parent.join(name))
                .with_context(|| format!("cannot read {name} of {}", parent.display()))?;
            fs::write(dir.join(name), value.trim())
                .with_context(|| format!("cannot write {name} of {}", dir.display()))?;
        }
        Ok(())
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The folder and those below it, parents first.
fn tree(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        waiting.extend(entries.flatten().filter(is_dir).map(|entry| entry.path()));
        found.push(dir);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, point: &Path, options: &str) -> mounts::Mount {
        mounts::Mount { point: point.into(), kind: kind.into(), options: options.into() }
    }

    #[test]
    fn what_kubelet_needs_is_found_in_several_hierarchies() {
        let at = Path::new("/nowhere");
        let all = ["rw,cpu,cpuacct", "rw,cpuset", "rw,memory", "rw,pids"];
        let mounts: Vec<_> = all.iter().map(|options| mount("cgroup", at, options)).collect();
        assert!(Hierarchies::from_mounts(&mounts).missing().is_empty());
        assert_eq!(Hierarchies::from_mounts(&mounts[..3]).missing(), ["pids"]);
        assert_eq!(Hierarchies::from_mounts(&[]).missing().len(), NEEDED.len());
    }

    #[test]
    fn version_2_counts_cpu_time_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        let hierarchies = Hierarchies::from_mounts(&[mount("cgroup2", dir.path(), "rw")]);
        assert!(hierarchies.missing().is_empty());
    }

    #[test]
    fn a_group_of_version_1_gets_its_parents_cpus_and_goes_away_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cpuset.cpus"), "0-1\n").unwrap();
        fs::write(dir.path().join("cpuset.mems"), "0\n").unwrap();
        let hierarchies = Hierarchies::from_mounts(&[mount("cgroup", dir.path(), "rw,cpuset")]);
        hierarchies.create("a/b").unwrap();
        hierarchies.create("a/b").unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("a/b/cpuset.cpus"), "0-1");
        fs::write(dir.path().join("a/b/cgroup.procs"), "12\n7\n").unwrap();
        assert_eq!(hierarchies.processes("a").into_iter().collect::<Vec<_>>(), [7, 12]);
        // The kernel's files in a group vanish with it, those of a plain folder do not.
        for name in [
            "a/b/cpuset.cpus",
            "a/b/cpuset.mems",
            "a/b/cgroup.procs",
            "a/cpuset.cpus",
            "a/cpuset.mems",
        ] {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        hierarchies.remove("a").unwrap();
        assert!(!dir.path().join("a").exists());
        hierarchies.remove("a").unwrap();
    }
}
