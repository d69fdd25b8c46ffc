//! The controller that is measured.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::azure::{self, Azure};
use super::control_plane::ControlPlane;
use super::world::SYSTEM;
use crate::subject::{Launch, Subject, Usage};

const ADMIN: ([u8; 4], u16) = ([127, 0, 0, 1], 8080);

/// The running process; it ends with it.
pub(super) struct Controller(Subject);

// === impl Controller ===

impl Controller {
    /// Starts it and waits until it leads.
    pub(super) fn start(
        program: &Path,
        (control_plane, azure): (&ControlPlane, &Azure),
        linger: Duration,
        log: &Path,
    ) -> Result<Self> {
        let kubeconfig = control_plane.kubeconfig("controller")?;
        let mut subject = Launch::new(program, log)
            .env("KUBECONFIG", kubeconfig.display().to_string())
            .env("CLIENT_SECRET", azure::SECRET)
            .env("POD_NAME", "bench")
            .arg(format!("--namespace={SYSTEM}"))
            .arg("--admin-address=127.0.0.1:8080")
            .arg("--cloud=Custom")
            .arg(format!("--authority-host={}", azure::ENTRA))
            .arg(format!("--resource-manager={}", azure::ARM))
            .arg(format!("--ca-bundle={}", azure.ca().display()))
            .arg("--azure-credential=service-principal")
            .arg(format!("--tenant-id={}", azure::TENANT))
            .arg(format!("--client-id={}", azure::CLIENT))
            .arg(format!("--detach-linger={}s", linger.as_secs()))
            .start()?;
        subject.connect(SocketAddr::from(ADMIN))?;
        subject.wait_for("ready and leading", || {
            let leads = metrics().is_ok_and(|text| value(&text, "podidentity_leader") > 0.5);
            leads && get("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        })?;
        Ok(Self(subject))
    }

    /// What it has used so far.
    pub(super) fn usage(&self) -> Result<Usage> {
        self.0.usage()
    }

    /// Writes to the API server so far.
    pub(super) fn writes(&self) -> Result<f64> {
        Ok(value(&metrics()?, "podidentity_writes_total"))
    }
}

/// The page of metrics.
fn metrics() -> Result<String> {
    let answer = get("/metrics")?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no metrics")?;
    Ok(body.to_owned())
}

fn get(path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(SocketAddr::from(ADMIN))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of a metric over its labels.
fn value(text: &str, name: &str) -> f64 {
    let lines = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text =
            "# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_total_more 7\nb 1\n";
        assert!((value(text, "a_total") - 5.0).abs() < 1e-9);
        assert!((value(text, "b") - 1.0).abs() < 1e-9);
    }
}
