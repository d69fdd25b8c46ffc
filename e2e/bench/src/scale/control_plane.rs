//! An API server of the measurement's own: etcd and kube-apiserver, nothing that schedules, runs or
//! collects, so that what is counted is the controller's.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kube::{Client, Config};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

use crate::subject::{Launch, Subject};

const SERVER: &str = "https://127.0.0.1:6443";
const ETCD: &str = "http://127.0.0.1:2379";
const ISSUER: &str = "https://kubernetes.default.svc";

/// The controller is a service account: requests of admins are not queued, those of pods are.
const CONTROLLER: &str = "system:serviceaccount:pod-identity-system:controller";
pub(super) const CONTROLLERS: &str = "system:serviceaccounts:pod-identity-system";

/// The running processes; they end with it.
pub(super) struct ControlPlane {
    dir: PathBuf,
    _api_server: Subject,
    _etcd: Subject,
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Starts it with the programs below `programs`, keeping its files in `dir`.
    pub(super) fn start(programs: &Path, dir: &Path) -> Result<Self> {
        let mut etcd = Launch::new(&find(programs, "etcd")?, &dir.join("etcd.log"))
            .arg(format!("--data-dir={}", dir.join("etcd").display()))
            .arg(format!("--listen-client-urls={ETCD}"))
            .arg(format!("--advertise-client-urls={ETCD}"))
            .arg("--listen-peer-urls=http://127.0.0.1:2380")
            // What a disk of this machine can do is not what is measured.
            .arg("--unsafe-no-fsync")
            .start()?;
        etcd.connect(SocketAddr::from(([127, 0, 0, 1], 2379)))?;
        write_keys(dir)?;
        let mut api_server = api_server(&find(programs, "kube-apiserver")?, dir).start()?;
        api_server.connect(SocketAddr::from(([127, 0, 0, 1], 6443)))?;
        Ok(Self { dir: dir.to_owned(), _api_server: api_server, _etcd: etcd })
    }

    /// A client with all rights.
    pub(super) async fn admin(&self) -> Result<Client> {
        let file = self.kubeconfig("admin")?;
        let kubeconfig = kube::config::Kubeconfig::read_from(file)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// The kubeconfig of a user.
    pub(super) fn kubeconfig(&self, user: &str) -> Result<PathBuf> {
        let named = |part: &str, content| json!([{"name": "bench", part: content}]);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": named("cluster", json!({
                "server": SERVER, "certificate-authority": self.dir.join("ca.crt"),
            })),
            "users": named("user", json!({"token": user})),
            "contexts": named("context", json!({"cluster": "bench", "user": "bench"})),
        });
        let file = self.dir.join(format!("{user}.kubeconfig"));
        fs::write(&file, config.to_string()).context("cannot write a kubeconfig")?;
        Ok(file)
    }
}

fn api_server(program: &Path, dir: &Path) -> Launch {
    let file = |name: &str| dir.join(name).display().to_string();
    let args = [
        format!("--etcd-servers={ETCD}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        "--secure-port=6443".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
        // The kubernetes Service would wait for an address that is not loopback.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--authorization-mode=RBAC".to_owned(),
        // Nobody makes service accounts here, and pods need none.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        format!("--service-account-issuer={ISSUER}"),
        format!("--service-account-key-file={}", file("accounts.pub")),
        format!("--service-account-signing-key-file={}", file("accounts.key")),
    ];
    args.into_iter().fold(Launch::new(program, &dir.join("apiserver.log")), Launch::arg)
}

fn write_keys(dir: &Path) -> Result<()> {
    let write = |name: &str, content: &str| {
        fs::write(dir.join(name), content).with_context(|| format!("cannot write {name}"))
    };
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    write("ca.crt", &ca.self_signed(&ca_key)?.pem())?;
    let server_key = KeyPair::generate()?;
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
    let server = server.signed_by(&server_key, &Issuer::new(ca, ca_key))?;
    write("server.crt", &server.pem())?;
    write("server.key", &server_key.serialize_pem())?;
    let accounts = KeyPair::generate()?;
    write("accounts.key", &accounts.serialize_pem())?;
    write("accounts.pub", &accounts.public_key_pem())?;
    // The tokens are the users' short names: nobody else reaches this network.
    let tokens = format!(
        "admin,admin,admin,system:masters\ncontroller,{CONTROLLER},controller,\"system:serviceaccounts,{CONTROLLERS}\"\n"
    );
    write("tokens.csv", &tokens)
}

/// A program in one of the folders of `programs`.
fn find(programs: &Path, name: &str) -> Result<PathBuf> {
    let folders = fs::read_dir(programs).with_context(|| {
        format!("{} is missing: run target/debug/e2e tools first", programs.display())
    })?;
    let mut found: Vec<PathBuf> = folders
        .flatten()
        .map(|folder| folder.path().join(name))
        .filter(|file| file.is_file())
        .collect();
    found.sort_by_key(|file| fs::metadata(file).and_then(|meta| meta.modified()).ok());
    match found.pop() {
        Some(newest) => Ok(newest),
        None => bail!("{name} is not in {}: run target/debug/e2e tools", programs.display()),
    }
}
