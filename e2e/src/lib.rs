//! The local cluster: a real Kubernetes in network namespaces of this machine, and the images it runs.
//!
//! [`cluster::Cluster`] is what tests and the demo use. Errors are `anyhow`: every caller is a
//! developer at a terminal, and what helps is a sentence that says what to do.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "the local cluster needs Linux network namespaces: run it on Linux or in a Linux VM"
);

pub mod claims;
pub mod cluster;
pub mod demo;
pub mod exec;
pub mod files;
pub mod forward;
pub mod host;
pub mod images;
pub mod lock;
pub mod paths;
pub mod pods;
pub mod process;
pub mod progress;
pub mod release;
pub mod tools;
pub mod topology;
