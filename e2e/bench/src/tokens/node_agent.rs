//! The node agent with a hundred sidecars, alone on its node and among 110 pods.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Stage, rotated};
use crate::fakes::authority::SERVER_NAME;
use crate::fakes::{Cluster, Imds, KubeApi};
use crate::load::{self, Caller, Connections, Plan, Server};
use crate::report::{Figure, LoadRow, LoadSample, Report};
use crate::subject::Launch;
use crate::summary::mebibytes;

const SIDECARS: usize = 100;

/// One pod, and as many as the kubelet allows. Both agents run at the same time and are loaded in
/// turn, so that what disturbs one disturbs the other.
const NODES: [Node; 2] = [Node { pods: 1, number: 2 }, Node { pods: 110, number: 3 }];

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

/// A node of its own on loopback: its addresses end in its number.
#[derive(Clone, Copy)]
struct Node {
    pods: usize,
    number: u8,
}

/// What the rounds bring together for one node.
#[derive(Default)]
struct Samples {
    idle: Vec<f64>,
    anonymous: Vec<f64>,
    peak: Vec<f64>,
    doors: [Vec<LoadSample>; Door::ALL.len()],
}

/// Everything about the node agent.
pub(super) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    let imds = Imds::start(&stage.fakes)?;
    let mut samples: [Samples; NODES.len()] = Default::default();
    for node in NODES {
        let api = KubeApi::start(&stage.fakes, &stage.authority, node.cluster())?;
        api.write_kubeconfig(&node.kubeconfig(stage))?;
    }
    for _ in 0..stage.rounds {
        round(stage, &imds, &mut samples)?;
    }
    publish(samples, report);
    Ok(())
}

fn round(stage: &Stage, imds: &Imds, samples: &mut [Samples; NODES.len()]) -> Result<()> {
    let agents = NODES.map(|node| node.launch(stage, imds).start());
    let [one, many] = agents;
    let mut agents = [one?, many?];
    for (node, agent) in NODES.iter().zip(&mut agents) {
        agent.wait_for("ready", || node.is_ready().unwrap_or(false))?;
    }
    std::thread::sleep(IDLE);
    for (agent, samples) in agents.iter().zip(&mut *samples) {
        let memory = agent.usage()?.memory;
        samples.idle.push(mebibytes(memory.resident));
        samples.anonymous.push(mebibytes(memory.anonymous));
    }
    for door in Door::ALL {
        for ((node, agent), samples) in NODES.iter().zip(&agents).zip(&mut *samples) {
            let sample = stage
                .sample(&door.plan(stage, node)?, agent)
                .with_context(|| format!("{}, {} pods", door.name(), node.pods))?;
            samples.doors[door as usize].push(sample);
        }
    }
    for (agent, samples) in agents.iter().zip(&mut *samples) {
        samples.peak.push(mebibytes(agent.usage()?.memory.peak));
    }
    Ok(())
}

/// Each from its own address, as pods have.
fn sidecars(stage: &Stage, node: &Node) -> Result<Plan> {
    let cluster = node.cluster();
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
        server: Server { address: node.address(2579), tls: Some(stage.authority.client()?) },
        callers: (0..SIDECARS).map(caller).collect::<Result<_>>()?,
        in_flight: 8,
        connections: Connections::Kept,
    })
}

/// For all pods of the node in turn.
fn processes(node: &Node, count: usize) -> Plan {
    let (cluster, address) = (node.cluster(), node.host_endpoint());
    let request = |pod: usize| -> Rc<[u8]> {
        let (namespace, name) = cluster.pod(pod);
        let text = format!(
            "GET /host/token/?resource=https%3A%2F%2Fvault.azure.net HTTP/1.1\r\n\
             host: {address}\r\npodns: {namespace}\r\npodname: {name}\r\n\r\n"
        );
        Rc::from(text.as_bytes())
    };
    let script: Vec<Rc<[u8]>> = (0..cluster.pods).map(request).collect();
    let caller = |number| Caller { source: None, script: rotated(&script, number * 13) };
    Plan {
        server: Server { address, tls: None },
        callers: (0..count).map(caller).collect(),
        in_flight: count,
        connections: Connections::Kept,
    }
}

fn publish(samples: [Samples; NODES.len()], report: &mut Report) {
    let [one, many] = &samples;
    let mut ratios = Vec::new();
    // With one connection the processor sleeps between requests, and waking up is most of the cost.
    for door in [Door::Sidecars, Door::HostEight] {
        let (one, many) = (&one.doors[door as usize], &many.doors[door as usize]);
        let ratio = |(one, many): (&LoadSample, &LoadSample)| many.processor_us / one.processor_us;
        let name = format!("nmi-host: CPU with 110 pods by that with 1, {}", door.short());
        ratios.push(Figure::new(name, "×", one.iter().zip(many).map(ratio).collect()));
    }
    let resident = many.doors.iter().flatten().map(|sample| sample.resident_mib);
    let resident = resident.fold(0.0, f64::max);
    for (node, samples) in NODES.iter().zip(samples) {
        samples.report(node, report);
    }
    for ratio in ratios {
        report.promised(ratio.peer("NMI 2.7"), SAME);
    }
    report.promise("nmi-host: resident under load, 110 pods", resident, 20.0, "MiB");
}

// === impl Samples ===

impl Samples {
    fn report(self, node: &Node, report: &mut Report) {
        let many = node.name();
        let name = format!("nmi-host: resident idle, {many}");
        report.figure(Figure::new(name, "MiB", self.idle).peer("NMI 32"));
        let name = format!("nmi-host: of that not backed by a file, {many}");
        report.figure(Figure::new(name, "MiB", self.anonymous));
        let name = format!("nmi-host: the most that was ever resident, {many}");
        report.figure(Figure::new(name, "MiB", self.peak).peer("NMI 47"));
        for (door, samples) in Door::ALL.into_iter().zip(self.doors) {
            let row = LoadRow {
                server: format!("nmi-host, {many}"),
                load: door.name().to_owned(),
                samples,
                peer: door.peer(node.pods),
            };
            let what = format!("nmi-host: CPU of a cached token, {}, {many}", door.short());
            report.promise(&what, row.middle().processor_us, 60.0, "µs");
            report.load(row);
        }
    }
}

// === impl Node ===

impl Node {
    fn name(&self) -> String {
        if self.pods == 1 { "1 pod".to_owned() } else { format!("{} pods", self.pods) }
    }

    fn cluster(&self) -> Cluster {
        Cluster { pods: self.pods }
    }

    /// What the other nodes of a cluster see.
    fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, self.number], port))
    }

    /// What processes of the node see.
    fn host_endpoint(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 1, self.number], 2579))
    }

    fn kubeconfig(&self, stage: &Stage) -> PathBuf {
        stage.file(&format!("kubeconfig-{}", self.number))
    }

    fn launch(&self, stage: &Stage, imds: &Imds) -> Launch {
        let log = stage.file(&format!("nmi-host-{}.log", self.number));
        Launch::new(&stage.programs.join("nmi-host"), &log)
            .arg(format!("--node-name={}", Cluster::NODE))
            .arg(format!("--node-ip={}", self.address(0).ip()))
            .arg(format!("--host-listen={}", self.host_endpoint()))
            .arg("--namespace=pod-identity-system")
            .arg("--tls-secret=nmi-host-tls")
            .arg("--daemonset=nmi-host")
            .arg(format!("--admin-address={}", self.address(8085)))
            .arg(format!("--imds-endpoint={}", imds.url()))
            .env("KUBECONFIG", self.kubeconfig(stage).display().to_string())
    }

    fn is_ready(&self) -> Result<bool> {
        let mut stream = TcpStream::connect(self.address(8085))?;
        Ok(load::ask(&mut stream, b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n").is_ok())
    }
}

// === impl Door ===

impl Door {
    const ALL: [Self; 3] = [Self::Sidecars, Self::Host, Self::HostEight];

    fn plan(self, stage: &Stage, node: &Node) -> Result<Plan> {
        Ok(match self {
            Self::Sidecars => sidecars(stage, node)?,
            Self::Host => processes(node, 1),
            Self::HostEight => processes(node, 8),
        })
    }

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
            (Self::Sidecars, 1) => "NMI 279; 1.8 / 6.4",
            (Self::Sidecars, _) => "NMI 744; 4.1 / 11",
            (Self::Host, 1) => "NMI 360; 0.39 / 1.6",
            (Self::HostEight, 1) => "NMI 266; 1.7 / 6.2",
            _ => "",
        }
    }
}
