//! The fake Azure of a measurement: its process, its control API, and what ARM was asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::subject::{Launch, Subject};

const CONTROL: ([u8; 4], u16) = ([127, 0, 0, 1], 8000);
const SUBSCRIPTION: &str = "/subscriptions/00000000-0000-0000-0000-000000000001";

/// As whom the controller signs in: an application of the default world.
pub(super) const TENANT: &str = "10000000-0000-0000-0000-000000000001";
pub(super) const CLIENT: &str = "40000000-0000-0000-0000-000000000002";
pub(super) const SECRET: &str = "not-a-secret-controller";
pub(super) const ENTRA: &str = "https://127.0.0.1:8443";
pub(super) const ARM: &str = "https://127.0.0.1:9443";

/// The running process; it ends with it.
pub(super) struct Azure {
    dir: PathBuf,
    _process: Subject,
}

/// Calls to ARM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    pub(super) get: usize,
    pub(super) patch: usize,
}

// === impl Azure ===

impl Azure {
    /// Starts it; its files are in `dir`.
    pub(super) fn start(program: &Path, dir: &Path) -> Result<Self> {
        let mut process = Launch::new(program, &dir.join("azure.log"))
            .arg("serve")
            .arg(format!("--state-dir={}", dir.display()))
            .arg("--imds=127.0.0.1:8001")
            .arg("--entra=127.0.0.1:8443")
            .arg("--arm=127.0.0.1:9443")
            .arg("--vault=127.0.0.1:10443")
            .arg("--control=127.0.0.1:8000")
            .arg("--tls-ip=127.0.0.1")
            .arg(format!("--arm-audience={ARM}"))
            .arg("--log-level=warn")
            .start()?;
        process.connect(SocketAddr::from(CONTROL))?;
        process.wait_for("ready", || call("GET", "/healthz", None).is_ok())?;
        Ok(Self { dir: dir.to_owned(), _process: process })
    }

    /// The certificate that its callers have to trust.
    pub(super) fn ca(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Starts over with these scale sets and identities.
    pub(super) fn reset(&self, sets: usize, identities: &[String]) -> Result<()> {
        self.post("reset", &json!({}))?;
        for set in 0..sets {
            self.post("hosts", &json!({"id": scale_set(set)}))?;
        }
        for name in identities {
            self.post("identities", &json!({"id": identity(name)}))?;
        }
        Ok(())
    }

    /// How ARM behaves from now on.
    pub(super) fn behave(&self, faults: &Value) -> Result<()> {
        call("PUT", "/_fake/faults", Some(faults)).map(drop)
    }

    /// What ARM was asked about a scale set since the last reset.
    pub(super) fn calls(&self, set: usize) -> Result<Calls> {
        let entries = self.journal("arm")?;
        let path = scale_set(set).to_lowercase();
        let count = |method: &str| {
            let of_set = |entry: &&Value| {
                let asked = entry["path"].as_str().unwrap_or_default().to_lowercase();
                asked == path && entry["method"] == method
            };
            entries.iter().filter(of_set).count()
        };
        Ok(Calls { get: count("GET"), patch: count("PATCH") })
    }

    /// When the last asynchronous operation ended, in milliseconds since the epoch.
    pub(super) fn last_operation_ms(&self) -> Result<u64> {
        let entries = self.journal("operation")?;
        entries.last().and_then(|entry| entry["time_ms"].as_u64()).context("no operation ended")
    }

    fn journal(&self, service: &str) -> Result<Vec<Value>> {
        let path = format!("/_fake/journal?service={service}&limit=100000");
        let answer = call("GET", &path, None)?;
        answer["entries"].as_array().cloned().context("the journal has no entries")
    }

    fn post(&self, what: &str, body: &Value) -> Result<()> {
        call("POST", &format!("/_fake/{what}"), Some(body)).map(drop)
    }
}

/// The ARM id of a scale set.
pub(super) fn scale_set(number: usize) -> String {
    let group = format!("{SUBSCRIPTION}/resourceGroups/MC_bench");
    format!("{group}/providers/Microsoft.Compute/virtualMachineScaleSets/set-{number}")
}

/// The ARM id of a managed identity.
pub(super) fn identity(name: &str) -> String {
    let group = format!("{SUBSCRIPTION}/resourceGroups/identities");
    format!("{group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}")
}

/// One request of HTTP/1.0 style to the control API.
fn call(method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = TcpStream::connect(SocketAddr::from(CONTROL))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: fake\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("fake Azure closed the connection")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status.starts_with('2'), "fake Azure answers {status} to {method} {path}: {body}");
    Ok(serde_json::from_str(body).unwrap_or_default())
}
