//! Where things lie: the state of a running cluster, and the cache that outlives clusters and
//! checkouts.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::topology::Node;

const STATE_ENV: &str = "POD_IDENTITY_STATE";
const DEFAULT_STATE: &str = "/var/tmp/pod-identity-sidecar/cluster";
/// The socket paths below it must fit into the 107 bytes that a Unix socket address has.
const MAX_STATE_PATH: usize = 60;

/// The folder of one cluster; removed with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    root: PathBuf,
}

/// Things that take long to make and are the same for every cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

impl State {
    /// The folder asked for, else that of `POD_IDENTITY_STATE`, else the default.
    pub fn locate(asked: Option<&Path>) -> Result<Self> {
        let from_env = env::var_os(STATE_ENV).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = asked.map(Path::to_path_buf).or(from_env).unwrap_or(DEFAULT_STATE.into());
        Self::new(&root)
    }

    /// This folder, made absolute.
    pub fn new(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).context("cannot tell the current folder")?;
        if root.as_os_str().len() > MAX_STATE_PATH {
            bail!(
                "the state folder {} has too long a path for the sockets in it: choose one of at most {MAX_STATE_PATH} bytes",
                root.display()
            );
        }
        Ok(Self { root })
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Says that the folder is a cluster's, and of how many nodes.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// For people and tests: cluster admin, from outside the namespaces.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// To be sourced by a shell.
    #[must_use]
    pub fn env_file(&self) -> PathBuf {
        self.root.join("env")
    }

    /// Keys, certificates and tokens of the control plane.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// Configuration files and kubeconfigs of the components.
    #[must_use]
    pub fn config(&self, name: &str) -> PathBuf {
        self.root.join("config").join(name)
    }

    /// What a process wrote to standard output and error.
    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.root.join("log").join(format!("{process}.log"))
    }

    /// The record of a running process.
    #[must_use]
    pub fn pid_file(&self, process: &str) -> PathBuf {
        self.root.join("run").join(format!("{process}.json"))
    }

    /// etcd's data.
    #[must_use]
    pub fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    /// Fake Azure's folder; its CA is `ca.crt` in there.
    #[must_use]
    pub fn fake_azure(&self) -> PathBuf {
        self.root.join("fake-azure")
    }

    /// A node's own folder.
    #[must_use]
    pub fn node(&self, node: &Node) -> PathBuf {
        self.root.join(node.name())
    }

    /// A node's container runtime.
    #[must_use]
    pub fn containerd_socket(&self, node: &Node) -> PathBuf {
        self.node(node).join("containerd.sock")
    }

    /// Says that a network namespace was set up to the end.
    #[must_use]
    pub fn netns_marker(&self, netns: &str) -> PathBuf {
        self.root.join("net").join(netns)
    }

    /// Says which build of an image a node has.
    #[must_use]
    pub fn image_marker(&self, node: &Node, image: &str) -> PathBuf {
        self.node(node).join("images").join(image)
    }

    /// Kernel settings as they were before kubelet changed them.
    #[must_use]
    pub fn saved_sysctls(&self) -> PathBuf {
        self.root.join("sysctls.json")
    }
}

impl Cache {
    /// `POD_IDENTITY_CACHE`, else a folder in the user's cache.
    pub fn locate() -> Result<Self> {
        let variable =
            |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = variable("POD_IDENTITY_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("pod-identity-sidecar")))
            .or_else(|| variable("HOME").map(|dir| dir.join(".cache/pod-identity-sidecar")))
            .context("no place for the cache: set POD_IDENTITY_CACHE or HOME")?;
        Ok(Self { root: std::path::absolute(root).context("cannot tell the current folder")? })
    }

    /// A cache in this folder.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Programs built from Go modules, one folder per module and version.
    #[must_use]
    pub fn control_plane(&self) -> PathBuf {
        self.root.join("control-plane")
    }

    /// Image archives.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// buildah's own storage, apart from that of the machine's user.
    #[must_use]
    pub fn buildah(&self) -> PathBuf {
        self.root.join("buildah")
    }
}

/// The checkout that this program was built from.
#[must_use]
pub fn workspace() -> PathBuf {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR"));
    e2e.parent().unwrap_or(e2e).to_path_buf()
}

/// A program of this workspace, expected beside the running one.
///
/// Tests run one folder deeper, in `deps`.
pub fn sibling_binary(name: &str) -> Result<PathBuf> {
    let exe = env::current_exe().context("cannot tell which program this is")?;
    let dir = exe.parent().context("this program is in no folder")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_path_too_long_for_sockets_is_refused() {
        let error = State::new(Path::new(&format!("/{}", "x".repeat(70)))).unwrap_err();
        assert!(error.to_string().contains("at most 60"), "{error}");
    }

    #[test]
    fn the_longest_socket_path_fits() {
        let state = State::new(Path::new(&format!("/{}", "x".repeat(MAX_STATE_PATH - 1)))).unwrap();
        let socket = state.containerd_socket(&Node::standard(9));
        assert!(socket.as_os_str().len() + ".ttrpc".len() < 107, "{}", socket.display());
        let pods = state.node(&Node::standard(9)).join("kubelet/pod-resources/kubelet.sock");
        assert!(pods.as_os_str().len() < 107, "{}", pods.display());
    }

    #[test]
    fn a_program_is_looked_for_beside_the_tests_parent_folder() {
        let path = sibling_binary("fake-azure").unwrap();
        assert!(path.ends_with("debug/fake-azure") || path.ends_with("release/fake-azure"));
    }
}
