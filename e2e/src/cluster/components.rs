//! The processes of a cluster: which program, where, with which arguments and files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::cluster::Config;
use crate::cluster::pki::{Pki, User};
use crate::cluster::render;
use crate::exec;
use crate::files::{self, Access};
use crate::forward;
use crate::paths::State;
use crate::process::{self, Daemon};
use crate::tools::control_plane::ControlPlane;
use crate::topology::{
    API_FORWARD, API_PORT, AZURE_IP, AZURE_NETNS, FAKE_AZURE_CONTROL_PORT, FAKE_AZURE_FORWARD,
    Node, SERVICE_ACCOUNT_ISSUER, SERVICE_CIDR,
};

const FORWARD: &str = "forward";

/// What the processes are made from.
pub(super) struct Components<'a> {
    pub(super) state: &'a State,
    pub(super) pki: &'a Pki,
    pub(super) programs: &'a ControlPlane,
    /// The `e2e` program itself.
    pub(super) helper: &'a Path,
    pub(super) fake_azure: &'a Path,
}

/// Fails if a program of this workspace was not built.
pub(super) fn check_programs(config: &Config) -> Result<()> {
    for (program, package) in [(&config.helper, "e2e"), (&config.fake_azure, "fake-azure")] {
        if !program.is_file() {
            bail!(
                "{} is missing: build it with `cargo build --package {package}`, in the profile that this program was built in",
                program.display()
            );
        }
    }
    Ok(())
}

/// Fails if another program has a port that the forwarder needs.
pub(super) fn check_ports(state: &State) -> Result<()> {
    if process::is_running(state, FORWARD) {
        return Ok(());
    }
    for address in [API_FORWARD, FAKE_AZURE_FORWARD] {
        forward::bind(address.parse()?)?;
    }
    Ok(())
}

impl Components<'_> {
    pub(super) fn etcd(&self) -> Daemon {
        let url = "http://127.0.0.1:2379";
        self.control_plane("etcd", "etcd").with([
            format!("--data-dir={}", self.state.etcd().display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
            // Half of the start-up time, and nobody needs this data after a power cut.
            "--unsafe-no-fsync".to_owned(),
        ])
    }

    pub(super) fn api_server(&self) -> Daemon {
        let pki = |name: &str| self.pki.path(name);
        self.control_plane("kube-apiserver", "kube-apiserver").with([
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--advertise-address={}", Node::standard(1).ip()),
            format!("--secure-port={API_PORT}"),
            format!("--service-cluster-ip-range={SERVICE_CIDR}"),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!("--token-auth-file={}", pki("tokens.csv")),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            format!("--service-account-issuer={SERVICE_ACCOUNT_ISSUER}"),
            format!("--service-account-key-file={}", pki("sa.pub")),
            format!("--service-account-signing-key-file={}", pki("sa.key")),
            format!("--api-audiences={SERVICE_ACCOUNT_ISSUER}"),
            // Names of nodes resolve nowhere.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--kubelet-certificate-authority={}", pki("ca.crt")),
            format!("--kubelet-client-certificate={}", pki("apiserver-kubelet-client.crt")),
            format!("--kubelet-client-key={}", pki("apiserver-kubelet-client.key")),
        ])
    }

    pub(super) fn controller_manager(&self) -> Result<Daemon> {
        let name = "kube-controller-manager";
        let kubeconfig = self.write_kubeconfig(name, User::ControllerManager)?;
        Ok(self.control_plane(name, name).with([
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--service-account-private-key-file={}", self.pki.path("sa.key")),
            format!("--root-ca-file={}", self.pki.path("ca.crt")),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            // Its own limit of 20 requests a second is most of a cluster's start-up time.
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ]))
    }

    pub(super) fn scheduler(&self) -> Result<Daemon> {
        let name = "kube-scheduler";
        let kubeconfig = self.write_kubeconfig(name, User::Scheduler)?;
        Ok(self.control_plane(name, name).with([
            format!("--kubeconfig={}", kubeconfig.display()),
            "--leader-elect=false".to_owned(),
        ]))
    }

    pub(super) fn containerd(&self, node: &Node) -> Result<Daemon> {
        let name = format!("containerd-{}", node.name());
        let cni = serde_json::to_string_pretty(&render::cni(self.state, node))?;
        let cni_file = self.state.node(node).join("cni/10-pods.conflist");
        files::write(&cni_file, &cni, Access::Public)?;
        let config = render::containerd(self.state, node);
        let file = self.state.config(&format!("{name}.toml"));
        files::write(&file, &config, Access::Public)?;
        let Some(program) = exec::which("containerd") else { bail!("containerd is missing") };
        let args = vec![format!("--config={}", file.display())];
        Ok(Daemon { name, netns: Some(node.netns()), program, args, inputs: config + &cni })
    }

    pub(super) fn kubelet(&self, node: &Node) -> Result<Daemon> {
        let name = format!("kubelet-{}", node.name());
        let kubeconfig = self.write_kubeconfig(&name, User::Kubelet(node.index))?;
        let resolv_conf = self.state.config("resolv.conf");
        files::write(&resolv_conf, render::resolv_conf(), Access::Public)?;
        let config = render::kubelet(self.state, node, &self.pki.path("ca.crt"));
        let (file, config) = self.write_config(&name, &config)?;
        let root = self.state.node(node).join("kubelet");
        let args = vec![
            format!("--config={}", file.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--hostname-override={}", node.name()),
            format!("--node-ip={}", node.ip()),
            format!("--root-dir={}", root.display()),
            format!("--cert-dir={}", root.join("pki").display()),
            "--v=2".to_owned(),
        ];
        let program = self.programs.program("kubelet").to_path_buf();
        Ok(Daemon { name, netns: Some(node.netns()), program, args, inputs: config })
    }

    pub(super) fn kube_proxy(&self, node: &Node) -> Result<Daemon> {
        let name = format!("kube-proxy-{}", node.name());
        let kubeconfig = self.write_kubeconfig("kube-proxy", User::Proxy)?;
        let (file, config) = self.write_config(&name, &render::kube_proxy(node, &kubeconfig))?;
        let program = self.programs.program("kube-proxy").to_path_buf();
        let args = vec![format!("--config={}", file.display())];
        Ok(Daemon { name, netns: Some(node.netns()), program, args, inputs: config })
    }

    /// Another build of it is another program, although it has the same path.
    pub(super) fn fake_azure(&self) -> Result<Daemon> {
        let dir = self.state.fake_azure();
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let build = fs::metadata(self.fake_azure).context("fake Azure's program has gone")?;
        Ok(Daemon {
            name: "fake-azure".to_owned(),
            netns: Some(AZURE_NETNS.to_owned()),
            program: self.fake_azure.to_path_buf(),
            args: vec!["serve".to_owned(), "--state-dir".to_owned(), dir.display().to_string()],
            inputs: format!("{} {} {}", build.len(), build.mtime(), build.mtime_nsec()),
        })
    }

    /// Enters the first node's namespace by itself, after it has bound its ports in this one.
    pub(super) fn forward(&self) -> Daemon {
        let netns = crate::host::net::netns_path(&Node::standard(1).netns());
        Daemon {
            name: FORWARD.to_owned(),
            netns: None,
            program: self.helper.to_path_buf(),
            args: vec![
                "forward".to_owned(),
                format!("--netns={}", netns.display()),
                format!("{API_FORWARD}=127.0.0.1:{API_PORT}"),
                format!("{FAKE_AZURE_FORWARD}={AZURE_IP}:{FAKE_AZURE_CONTROL_PORT}"),
            ],
            inputs: String::new(),
        }
    }

    /// The kubeconfig for people and tests.
    pub(super) fn write_admin_kubeconfig(&self) -> Result<()> {
        let content = self.kubeconfig(&format!("https://{API_FORWARD}"), User::Admin)?;
        files::write(&self.state.kubeconfig(), content, Access::Private)
    }

    fn write_kubeconfig(&self, name: &str, user: User) -> Result<PathBuf> {
        let server = format!("https://{}:{API_PORT}", Node::standard(1).ip());
        let file = self.state.config(&format!("{name}.kubeconfig"));
        files::write(&file, self.kubeconfig(&server, user)?, Access::Private)?;
        Ok(file)
    }

    fn kubeconfig(&self, server: &str, user: User) -> Result<String> {
        let ca = BASE64_STANDARD.encode(self.pki.ca()?);
        let config = render::kubeconfig(server, &ca, &self.pki.token(user)?);
        Ok(serde_yaml_ng::to_string(&config)?)
    }

    fn write_config(&self, name: &str, config: &serde_json::Value) -> Result<(PathBuf, String)> {
        let file = self.state.config(&format!("{name}.yaml"));
        let content = serde_yaml_ng::to_string(config)?;
        files::write(&file, &content, Access::Public)?;
        Ok((file, content))
    }

    fn control_plane(&self, name: &str, program: &str) -> Daemon {
        Daemon {
            name: name.to_owned(),
            netns: Some(Node::standard(1).netns()),
            program: self.programs.program(program).to_path_buf(),
            args: Vec::new(),
            inputs: String::new(),
        }
    }
}

impl Daemon {
    fn with(mut self, args: impl IntoIterator<Item = String>) -> Self {
        self.args.extend(args);
        self
    }
}
