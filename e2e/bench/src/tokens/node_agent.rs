//! The node agent with a hundred sidecars, alone on its node and among 110 pods.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Stage, rotated};
use crate::fakes::authority::SERVER_NAME;
use crate::fakes::{Cluster, Imds, KubeApi};
use crate::load::{self, Caller, Connections, Plan, Server};
use crate::report::{Figure, LoadRow, LoadSample, Report};
use crate::subject::{Launch, Subject};
use crate::summary::mebibytes;

/// Anything on loopback but the host endpoint's address stands for the node's.
const NODE_IP: &str = "127.0.0.2";
const ADMIN: &str = "127.0.0.2:8085";
const SIDECARS: usize = 100;

/// Pods on the node: one, and as many as the kubelet allows.
const NODES: [usize; 2] = [1, 110];

/// Nothing has happened for so long when memory is read.
const IDLE: Duration = Duration::from_secs(1);

/// How much more a token may cost among 110 pods: what two runs differ by.
const SAME: f64 = 1.1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    /// 100 sidecars with a connection each, 8 requests at a time.
    Sidecars,
    /// `/host/token/` for one process of the node.
    Host,
    /// And for eight.
    HostEight,
}

/// What the rounds bring together for one number of pods.
#[derive(Default)]
struct Samples {
    idle: Vec<f64>,
    anonymous: Vec<f64>,
    doors: [Vec<LoadSample>; Door::ALL.len()],
}

/// Everything about the node agent.
pub(super) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let imds = Imds::start(&stage.fakes)?;
    let mut samples: [Samples; NODES.len()] = Default::default();
    for _ in 0..stage.rounds {
        for (pods, samples) in NODES.into_iter().zip(&mut samples) {
            let cluster = Cluster { pods };
            let api = KubeApi::start(&stage.fakes, &stage.authority, cluster)?;
            api.write_kubeconfig(&stage.file("kubeconfig"))?;
            round(stage, &imds, cluster, samples)
                .with_context(|| format!("with {pods} pods on the node"))?;
        }
    }
    publish(samples, report);
    Ok(())
}

fn round(stage: &Stage, imds: &Imds, cluster: Cluster, samples: &mut Samples) -> Result<()> {
    let mut agent = launch(stage, imds).start()?;
    agent.wait_for("ready", || is_ready().unwrap_or(false))?;
    std::thread::sleep(IDLE);
    let memory = agent.usage()?.memory;
    samples.idle.push(mebibytes(memory.resident));
    samples.anonymous.push(mebibytes(memory.anonymous));
    for (door, samples) in Door::ALL.into_iter().zip(&mut samples.doors) {
        samples.push(sample(stage, door, cluster, &agent)?);
    }
    Ok(())
}

fn launch(stage: &Stage, imds: &Imds) -> Launch {
    Launch::new(&stage.programs.join("nmi-host"), &stage.file("nmi-host.log"))
        .arg(format!("--node-name={}", Cluster::NODE))
        .arg(format!("--node-ip={NODE_IP}"))
        .arg("--namespace=pod-identity-system")
        .arg("--tls-secret=nmi-host-tls")
        .arg("--daemonset=nmi-host")
        .arg(format!("--admin-address={ADMIN}"))
        .arg(format!("--imds-endpoint={}", imds.url()))
        .env("KUBECONFIG", stage.file("kubeconfig").display().to_string())
}

fn is_ready() -> Result<bool> {
    let address: SocketAddr = ADMIN.parse()?;
    let mut stream = std::net::TcpStream::connect(address)?;
    Ok(load::ask(&mut stream, b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").is_ok())
}

fn sample(stage: &Stage, door: Door, cluster: Cluster, agent: &Subject) -> Result<LoadSample> {
    let plan = match door {
        Door::Sidecars => sidecars(stage, cluster)?,
        Door::Host => processes(cluster, 1),
        Door::HostEight => processes(cluster, 8),
    };
    stage.sample(&plan, agent).with_context(|| door.name().to_owned())
}

/// Each from its own address, as pods have.
fn sidecars(stage: &Stage, cluster: Cluster) -> Result<Plan> {
    let body = r#"{"resource":"https://vault.azure.net"}"#;
    let caller = |serial: usize| -> Result<Caller> {
        let request = format!(
            "POST /v1/token HTTP/1.1\r\nhost: {SERVER_NAME}\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            cluster.sidecar_token(serial),
            body.len()
        );
        let source = Ipv4Addr::new(127, 1, 0, u8::try_from(serial + 1)?);
        Ok(Caller { source: Some(source.into()), ..Caller::of(&request) })
    };
    Ok(Plan {
        server: Server {
            address: format!("{NODE_IP}:2579").parse()?,
            tls: Some(stage.authority.client()?),
        },
        callers: (0..SIDECARS).map(caller).collect::<Result<_>>()?,
        in_flight: 8,
        connections: Connections::Kept,
    })
}

/// For all pods of the node in turn.
fn processes(cluster: Cluster, count: usize) -> Plan {
    let request = |pod: usize| -> Rc<[u8]> {
        let (namespace, name) = cluster.pod(pod);
        let text = format!(
            "GET /host/token/?resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\n\
             host: 127.0.0.1:2579\r\npodns: {namespace}\r\npodname: {name}\r\n\r\n"
        );
        Rc::from(text.as_bytes())
    };
    let script: Vec<Rc<[u8]>> = (0..cluster.pods).map(request).collect();
    let caller = |number| Caller { source: None, script: rotated(&script, number * 13) };
    Plan {
        server: Server { address: SocketAddr::from(([127, 0, 0, 1], 2579)), tls: None },
        callers: (0..count).map(caller).collect(),
        in_flight: count,
        connections: Connections::Kept,
    }
}

fn publish(samples: [Samples; NODES.len()], report: &mut Report) {
    let mut middles = Vec::new();
    for (pods, samples) in NODES.into_iter().zip(samples) {
        let many = if pods == 1 { "1 pod".to_owned() } else { format!("{pods} pods") };
        let name = format!("nmi-host: resident idle, {many} on the node");
        report.figure(Figure::new(name, "MiB", samples.idle).peer("32"));
        let name = format!("nmi-host: of that not backed by a file, {many}");
        report.figure(Figure::new(name, "MiB", samples.anonymous));
        let mut middle = Vec::new();
        for (door, samples) in Door::ALL.into_iter().zip(samples.doors) {
            let row = LoadRow {
                server: format!("nmi-host, {many} on the node"),
                load: door.name().to_owned(),
                samples,
                peer: door.peer(pods),
            };
            middle.push(row.middle());
            let what = format!("nmi-host: CPU of a cached token, {}, {many}", door.short());
            report.promise(&what, row.middle().processor_us, 60.0, "µs");
            report.load(row);
        }
        middles.push(middle);
    }
    let [one, many] = &middles[..] else { return };
    for (door, (one, many)) in Door::ALL.into_iter().zip(one.iter().zip(many)) {
        let what = format!("nmi-host: CPU with 110 pods by that with 1, {}", door.short());
        report.promise(&what, many.processor_us / one.processor_us, SAME, "×");
    }
    let resident = many.iter().map(|sample| sample.resident_mib).fold(0.0, f64::max);
    report.promise("nmi-host: resident under load, 110 pods", resident, 20.0, "MiB");
}

// === impl Door ===

impl Door {
    const ALL: [Self; 3] = [Self::Sidecars, Self::Host, Self::HostEight];

    fn name(self) -> &'static str {
        match self {
            Self::Sidecars => "100 sidecars over TLS, 8 at a time",
            Self::Host => "/host/token/, 1 connection",
            Self::HostEight => "/host/token/, 8 connections",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::Sidecars => "sidecars",
            Self::Host => "host endpoint, 1 connection",
            Self::HostEight => "host endpoint, 8 connections",
        }
    }

    /// The old NMI, without TLS and without a cache.
    fn peer(self, pods: usize) -> &'static str {
        match (self, pods) {
            (Self::Sidecars, 1) => "279",
            (Self::Sidecars, _) => "744",
            (Self::Host, 1) => "360",
            (Self::HostEight, 1) => "266",
            _ => "",
        }
    }
}
