//! A real sidecar on loopback, a fake agent of the node behind TLS, and a client that sends bytes.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nmi_sidecar::args::{Args, Config};
use nmi_sidecar::run;
use nmi_sidecar::server::Limits;
use runtime::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) mod node;

pub(crate) use node::FakeNode;

pub(crate) const PATH: &str = "/metadata/identity/oauth2/token";
pub(crate) const GOOD: &str = "api-version=2018-02-01&resource=https://vault.azure.net";
pub(crate) const HEADERS: &str = "Host: 169.254.169.254\r\nMetadata: true\r\n";
pub(crate) const SERVER_NAME: &str = "nmi-host.test.svc";

/// A sidecar; ends with the value.
pub(crate) struct Sidecar {
    pub(crate) imds: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
    shutdown: Shutdown,
}

/// How a sidecar is started.
pub(crate) struct Setup {
    pub(crate) gate: &'static str,
    pub(crate) verify_after: &'static str,
    pub(crate) limits: Limits,
    pub(crate) warm_up: &'static [&'static str],
}

impl Default for Setup {
    fn default() -> Self {
        Self { gate: "0", verify_after: "1h", limits: Limits::default(), warm_up: &[] }
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap().to_owned()
    }

    pub(crate) fn description(&self) -> String {
        self.field("error_description")
    }
}

impl Sidecar {
    pub(crate) async fn start(node: &FakeNode, setup: Setup) -> Self {
        runtime::crypto::install_provider();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "pod-token-1\n").unwrap();
        std::fs::write(folder.path().join("ca.crt"), node.ca_pem()).unwrap();
        let (imds, admin) = (free_address(), free_address());
        let config = config(&folder, node.address, imds, admin, &setup);
        let shutdown = Shutdown::manual();
        let tasks = run::start(config, setup.limits, shutdown.clone());
        tokio::spawn(async move { tasks.supervise(Duration::from_secs(5)).await.unwrap() });
        let sidecar = Self { imds, admin, folder, shutdown };
        drop(sidecar.connect().await);
        sidecar
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        connect(self.imds).await
    }

    /// Sends bytes, says that no more will come, and returns all that is answered.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // A server that has seen enough may close while the rest is being sent.
        drop(stream.write_all(bytes).await);
        drop(stream.shutdown().await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        String::from_utf8(answer).unwrap()
    }

    pub(crate) async fn ask(&self, request: &str) -> Answer {
        answer(&self.raw(request.as_bytes()).await)
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask(&format!("GET {target} HTTP/1.1\r\n{HEADERS}\r\n")).await
    }

    /// The same with a header more.
    pub(crate) async fn get_with(&self, target: &str, header: &str) -> Answer {
        self.ask(&format!("GET {target} HTTP/1.1\r\n{HEADERS}{header}\r\n\r\n")).await
    }

    /// A token request of one resource.
    pub(crate) async fn token(&self, resource: &str) -> Answer {
        self.get(&format!("{PATH}?api-version=2018-02-01&resource={resource}")).await
    }

    pub(crate) async fn admin(&self, path: &str) -> Answer {
        let mut stream = connect(self.admin).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        answer(&text)
    }

    pub(crate) fn stop(&self) {
        self.shutdown.begin();
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

pub(crate) fn answer(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Reads one answer of a connection that stays open.
pub(crate) async fn read_answer(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.unwrap().parse::<usize>().unwrap() {
                return answer(&text);
            }
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "closed early: {text:?}");
    }
}

async fn connect(address: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// An address that nobody uses; whoever listens there tries again if somebody was faster.
pub(crate) fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

pub(crate) async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn config(
    folder: &tempfile::TempDir,
    node: SocketAddr,
    imds: SocketAddr,
    admin: SocketAddr,
    setup: &Setup,
) -> Config {
    let file = |name: &str| folder.path().join(name).display().to_string();
    let flags = [
        ("--listen", imds.to_string()),
        ("--admin", admin.to_string()),
        ("--node", node.to_string()),
        ("--server-name", SERVER_NAME.to_owned()),
        ("--token-file", file("token")),
        ("--ca-file", file("ca.crt")),
        ("--federated-token-file", file("federated-token")),
        ("--gate-timeout", setup.gate.to_owned()),
        ("--verify-after", setup.verify_after.to_owned()),
    ];
    let warm_up = setup.warm_up.iter().map(|resource| ("--warm-up", (*resource).to_owned()));
    let line = flags.into_iter().chain(warm_up).flat_map(|(flag, value)| [flag.to_owned(), value]);
    let args = std::iter::once("nmi-sidecar".to_owned()).chain(line);
    Config::try_from(<Args as clap::Parser>::try_parse_from(args).unwrap()).unwrap()
}
