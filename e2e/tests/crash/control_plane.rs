//! An API server and its store, alone: no kubelet, no network, gone with the value.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::paths::Cache;
use e2e::progress::Progress;
use e2e::tools::control_plane::ControlPlane as Programs;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::eventually;

/// Who may come: the test, and two replicas of the controller.
pub(crate) const USERS: [&str; 3] = ["admin", "one", "two"];
const START: Duration = Duration::from_secs(60);

pub(crate) struct ControlPlane {
    dir: TempDir,
    processes: Vec<Child>,
    pub(crate) client: Client,
}

/// What a user sent that was no question, also if it was refused.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) at: Timestamp,
    pub(crate) request: String,
}

impl ControlPlane {
    /// Starts it with the definitions of the chart.
    pub(crate) async fn start() -> Self {
        let cache = Cache::locate().unwrap();
        let programs = Programs::ensure(&cache, &Progress::to_stderr()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let [store, peer, api] = free_ports();
        let etcd = etcd(&programs, dir.path(), store, peer);
        let server = api_server(&programs, dir.path(), store, api);
        USERS.iter().for_each(|user| write_kubeconfig(dir.path(), user, api));
        let client = client(dir.path()).await;
        let plane = Self { processes: vec![server, etcd], client, dir };
        eventually("the API server is ready", START, async || {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            plane.client.request_text(request).await.ok()
        })
        .await;
        plane.define().await;
        plane
    }

    /// For the program that is to be this user.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.path().join(user)
    }

    /// All that a user wrote or tried to write, oldest first.
    pub(crate) fn writes(&self, user: &str) -> Vec<Write> {
        let log = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap();
        // The last line may be half written.
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut writes: Vec<_> = events
            .filter(|event| event["user"]["username"] == user)
            .filter(|event| !["get", "list", "watch"].contains(&text(&event["verb"]).as_str()))
            .map(|event| Write {
                at: text(&event["requestReceivedTimestamp"]).parse().unwrap(),
                request: format!("{} {}", text(&event["verb"]), text(&event["requestURI"])),
            })
            .collect();
        writes.sort_by_key(|write| write.at);
        writes
    }

    async fn define(&self) {
        use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition as Definition;
        let api: kube::Api<Definition> = kube::Api::all(self.client.clone());
        for file in std::fs::read_dir(e2e::release::chart().join("crds")).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let definition: Definition = serde_yaml_ng::from_str(&text).unwrap();
            api.create(&kube::api::PostParams::default(), &definition).await.unwrap();
        }
        eventually("the definitions are established", START, async || {
            let all = api.list(&kube::api::ListParams::default()).await.ok()?;
            let established = |definition: &Definition| {
                let conditions = definition.status.as_ref().and_then(|it| it.conditions.as_ref());
                let is = |it: &&_| established(it);
                conditions.is_some_and(|all| all.iter().any(|it| is(&it)))
            };
            all.items.iter().all(established).then_some(())
        })
        .await;
    }
}

fn established(
    condition: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionCondition,
) -> bool {
    condition.type_ == "Established" && condition.status == "True"
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for process in &mut self.processes {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

fn etcd(programs: &Programs, dir: &Path, store: u16, peer: u16) -> Child {
    let url = format!("http://127.0.0.1:{store}");
    spawn(
        Command::new(programs.program("etcd")).args([
            format!("--data-dir={}", dir.join("etcd").display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=error".to_owned(),
        ]),
        &dir.join("etcd.log"),
    )
}

fn api_server(programs: &Programs, dir: &Path, store: u16, port: u16) -> Child {
    let (private, public) = (dir.join("sa.key"), dir.join("sa.pub"));
    let key = KeyPair::generate().unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    std::fs::write(&public, key.public_key_pem()).unwrap();
    let users = USERS.map(|user| format!("{},{user},{user},system:masters\n", token(user)));
    std::fs::write(dir.join("tokens.csv"), users.concat()).unwrap();
    let audit = json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "users": USERS[1..]}, {"level": "None"}],
    });
    std::fs::write(dir.join("audit.json"), audit.to_string()).unwrap();
    spawn(
        Command::new(programs.program("kube-apiserver")).args([
            format!("--etcd-servers=http://127.0.0.1:{store}"),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            // It has to name one, and nobody asks there.
            "--advertise-address=192.0.2.1".to_owned(),
            format!("--cert-dir={}", dir.join("pki").display()),
            format!("--token-auth-file={}", dir.join("tokens.csv").display()),
            "--authorization-mode=AlwaysAllow".to_owned(),
            format!("--audit-policy-file={}", dir.join("audit.json").display()),
            format!("--audit-log-path={}", dir.join("audit.log").display()),
            // An answer is sent when its line is written.
            "--audit-log-mode=blocking".to_owned(),
            // Nobody makes service accounts here.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-cluster-ip-range=10.97.0.0/16".to_owned(),
            "--service-account-issuer=https://crash.example".to_owned(),
            format!("--service-account-key-file={}", public.display()),
            format!("--service-account-signing-key-file={}", private.display()),
        ]),
        &dir.join("api.log"),
    )
}

fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = std::fs::File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn token(user: &str) -> String {
    format!("not-a-secret-{user}")
}

fn write_kubeconfig(dir: &Path, user: &str, port: u16) {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true}}],
        "users": [{"name": "it", "user": {"token": token(user)}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    std::fs::write(dir.join(user), config.to_string()).unwrap();
}

async fn client(dir: &Path) -> Client {
    let config = Kubeconfig::read_from(dir.join(USERS[0])).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(config, &options).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Free at this moment, which is as good as it gets.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
