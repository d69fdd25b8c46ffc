//! The kernel's side of a node: namespaces, cgroups, mounts, processes. Knows nothing of Kubernetes.

pub mod cgroup;
pub mod mounts;
pub mod net;
pub mod preflight;
pub mod procfs;
pub mod sysctl;
