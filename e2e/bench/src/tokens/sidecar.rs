//! The sidecar: how soon it is there, what it needs, how fast it is.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Stage, rotated};
use crate::fakes::NodeAgent;
use crate::fakes::authority::SERVER_NAME;
use crate::load::{self, Caller, Connections, Plan, Server, Times};
use crate::report::{Figure, LoadRow, LoadSample, Report};
use crate::subject::{Launch, Subject};
use crate::summary::{mebibytes, milliseconds};

/// As in a pod.
const LISTEN: &str = "127.0.0.1:2579";
const ADMIN: &str = "127.0.0.1:2580";
const FLOOR: &str = "127.0.0.1:2581";

/// What a token call takes beyond the node, in one of the measurements.
const AZURE: Duration = Duration::from_millis(50);

/// Tokens that a busy pod holds.
const KEYS: usize = 64;

/// Connections that ask at once; the sidecar takes 256.
const HERD: usize = 200;

/// Nothing has happened for so long when memory is read.
const IDLE: Duration = Duration::from_secs(1);

/// A load of warm tokens.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    callers: usize,
    connections: Connections,
    peer: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        name: "1 connection",
        callers: 1,
        connections: Connections::Kept,
        peer: "proxy 61; 0.05 / 0.24",
    },
    Case {
        name: "8 connections",
        callers: 8,
        connections: Connections::Kept,
        peer: "proxy 40 (29 without log); 0.14 / 2.5",
    },
    Case {
        name: "32 connections",
        callers: 32,
        connections: Connections::Kept,
        peer: "proxy 44; 0.35 / 8.9",
    },
    Case {
        name: "8 at a time, each a new connection",
        callers: 8,
        connections: Connections::New,
        peer: "proxy 82; 0.55 / 2.5",
    },
];

/// Index of the cases that promises are about.
const ONE: usize = 0;
const EIGHT: usize = 1;

/// Everything about the sidecar.
pub(super) fn measure(stage: &Stage, report: &mut Report) -> Result<()> {
    std::fs::write(stage.file("ca.crt"), stage.authority.pem())?;
    std::fs::write(stage.file("token"), crate::fakes::token::jwt(&serde_json::json!({}), 1100))?;
    listening(stage, report)?;
    first_token(stage, Duration::ZERO, 30.0, report)?;
    first_token(stage, AZURE, 80.0, report)?;
    herd(stage, report)?;
    warm(stage, report)
}

fn launch(stage: &Stage, agent: &NodeAgent) -> Launch {
    let path = |name| stage.file(name).display().to_string();
    Launch::new(&stage.programs.join("nmi-sidecar"), &stage.file("sidecar.log"))
        .arg(format!("--listen={LISTEN}"))
        .arg(format!("--admin={ADMIN}"))
        .arg(format!("--node={}", agent.address()))
        .arg(format!("--server-name={SERVER_NAME}"))
        .arg(format!("--token-file={}", path("token")))
        .arg(format!("--ca-file={}", path("ca.crt")))
        .env("POD_NAMESPACE", "team")
        .env("POD_NAME", "web-0")
}

fn listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 2579))
}

/// A token call for one of [`KEYS`] resources.
fn request(key: usize) -> String {
    let suffix = if key == 0 { String::new() } else { format!("%2F{key}") };
    format!(
        "GET /metadata/identity/oauth2/token?api-version=2018-02-01\
         &resource=https%3A%2F%2Fvault.azure.net{suffix} HTTP/1.1\r\n\
         Host: 169.254.169.254\r\nMetadata: true\r\nUser-Agent: bench\r\n\
         Accept: application/json\r\n\r\n"
    )
}

fn listening(stage: &Stage, report: &mut Report) -> Result<()> {
    let agent = NodeAgent::start(&stage.fakes, &stage.authority, Duration::ZERO)?;
    let mut samples = Vec::new();
    for _ in 0..stage.starts {
        let mut sidecar = launch(stage, &agent).start()?;
        let _connection = sidecar.connect(listen())?;
        samples.push(milliseconds(sidecar.started().elapsed()));
    }
    let figure = Figure::new("sidecar: exec to listening", "ms", samples).peer("proxy 24, NMI 119");
    report.promised(figure, 5.0);
    Ok(())
}

fn first_token(stage: &Stage, delay: Duration, at_most: f64, report: &mut Report) -> Result<()> {
    let agent = NodeAgent::start(&stage.fakes, &stage.authority, delay)?;
    let (mut samples, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..stage.starts {
        let before = agent.token_calls();
        let mut sidecar = launch(stage, &agent).start()?;
        let mut connection = sidecar.connect(listen())?;
        load::ask(&mut connection, request(0).as_bytes()).context("no first token")?;
        samples.push(milliseconds(sidecar.started().elapsed()));
        calls.push(f64::from(u32::try_from(agent.token_calls() - before)?));
    }
    let (name, peer) = match delay {
        Duration::ZERO => ("sidecar: exec to first token, upstream at once", "proxy 39"),
        _ => ("sidecar: exec to first token, upstream in 50 ms", "proxy 190"),
    };
    report.promised(Figure::new(name, "ms", samples).peer(peer), at_most);
    // Not the median: a second call must not happen even once.
    let most = calls.iter().copied().fold(0.0, f64::max);
    let name = format!("{name}: token calls, the most");
    report.promised(Figure::new(name, "", vec![most]).peer("proxy 3, in series"), 1.0);
    Ok(())
}

/// Everybody asks for the same token before there is one.
fn herd(stage: &Stage, report: &mut Report) -> Result<()> {
    let agent = NodeAgent::start(&stage.fakes, &stage.authority, AZURE)?;
    let mut sidecar = launch(stage, &agent).start()?;
    drop(sidecar.connect(listen())?);
    let case = Case { callers: HERD, ..CASES[ONE] };
    let moment = Times { settle: Duration::ZERO, measure: Duration::from_millis(1) };
    load::run(&case.plan(listen()), moment, || Ok(()))?;
    let calls = f64::from(u32::try_from(agent.token_calls())?);
    let name = format!("sidecar: token calls for {HERD} cold requests at once");
    report.promised(Figure::new(name, "", vec![calls]).peer("proxy 1"), 1.0);
    Ok(())
}

/// What the rounds bring together.
#[derive(Default)]
struct Warm {
    idle: Memories,
    loaded: Memories,
    sidecar: [Vec<LoadSample>; CASES.len()],
    floor: [Vec<LoadSample>; CASES.len()],
}

#[derive(Default)]
struct Memories {
    resident: Vec<f64>,
    anonymous: Vec<f64>,
}

fn warm(stage: &Stage, report: &mut Report) -> Result<()> {
    let agent = NodeAgent::start(&stage.fakes, &stage.authority, Duration::ZERO)?;
    let mut warm = Warm::default();
    for _ in 0..stage.rounds {
        round(stage, &agent, &mut warm)?;
    }
    warm.report(report);
    Ok(())
}

/// Sidecar and floor in turn, so that what disturbs one disturbs the other.
fn round(stage: &Stage, agent: &NodeAgent, warm: &mut Warm) -> Result<()> {
    let mut sidecar = launch(stage, agent).start()?;
    drop(sidecar.connect(listen())?);
    std::thread::sleep(IDLE.saturating_sub(sidecar.started().elapsed()));
    warm.idle.take(&sidecar)?;

    let own = stage.programs.join("bench");
    let mut floor = Launch::new(&own, &stage.file("floor.log"))
        .arg("floor")
        .arg(format!("--listen={FLOOR}"))
        .start()?;
    let floor_address: SocketAddr = FLOOR.parse()?;
    drop(floor.connect(floor_address)?);
    for (index, case) in CASES.iter().enumerate() {
        warm.floor[index].push(stage.sample(&case.plan(floor_address), &floor)?);
        warm.sidecar[index].push(stage.sample(&case.plan(listen()), &sidecar)?);
    }
    drop(floor);
    drop(sidecar);
    many_keys(stage, agent, warm)
}

/// A fresh sidecar: what the other loads left in its memory is not counted here.
fn many_keys(stage: &Stage, agent: &NodeAgent, warm: &mut Warm) -> Result<()> {
    let mut sidecar = launch(stage, agent).start()?;
    drop(sidecar.connect(listen())?);
    let script: Vec<Rc<[u8]>> = (0..KEYS).map(|key| Rc::from(request(key).as_bytes())).collect();
    let callers =
        (0..8).map(|caller| Caller { source: None, script: rotated(&script, caller * 8) });
    let plan = Plan {
        server: Server { address: listen(), tls: None },
        callers: callers.collect(),
        in_flight: 8,
        connections: Connections::Kept,
    };
    let load = load::run(&plan, stage.times, || sidecar.usage())?;
    warm.loaded.resident.push(mebibytes(load.after.memory.peak));
    warm.loaded.anonymous.push(mebibytes(load.after.memory.anonymous));
    Ok(())
}

// === impl Case ===

impl Case {
    fn plan(&self, address: SocketAddr) -> Plan {
        Plan {
            server: Server { address, tls: None },
            callers: vec![Caller::of(&request(0)); self.callers],
            in_flight: self.callers,
            connections: self.connections,
        }
    }
}

// === impl Memories ===

impl Memories {
    fn take(&mut self, subject: &Subject) -> Result<()> {
        let memory = subject.usage()?.memory;
        self.resident.push(mebibytes(memory.resident));
        self.anonymous.push(mebibytes(memory.anonymous));
        Ok(())
    }

    fn report(self, when: &str, peer: &'static str, at_most: f64, report: &mut Report) {
        let resident = Figure::new(format!("sidecar: resident {when}"), "MiB", self.resident);
        report.promised(resident.peer(peer), at_most);
        let name = format!("sidecar: of that not backed by a file, {when}");
        report.figure(Figure::new(name, "MiB", self.anonymous));
    }
}

// === impl Warm ===

impl Warm {
    fn report(self, report: &mut Report) {
        self.idle.report("idle", "proxy 28, NMI 32", 6.0, report);
        self.loaded.report("with 64 keys under load", "proxy 35–37", 8.0, report);
        let ratios = self.sidecar[EIGHT]
            .iter()
            .zip(&self.floor[EIGHT])
            .map(|(sidecar, floor)| sidecar.processor_us / floor.processor_us);
        let name = "sidecar: CPU of a warm token, in those of the floor, 8 connections";
        report.figure(Figure::new(name, "×", ratios.collect()).peer("proxy 6.3 (4.6)"));
        for (index, (case, (sidecar, floor))) in
            CASES.iter().zip(self.sidecar.into_iter().zip(self.floor)).enumerate()
        {
            let row = |server: &str, samples, peer| LoadRow {
                server: server.to_owned(),
                load: case.name.to_owned(),
                samples,
                peer,
            };
            report.load(row("floor: bare axum", floor, ""));
            let row = row("sidecar, warm", sidecar, case.peer);
            let middle = row.middle();
            if index == ONE {
                report.promise(
                    "sidecar: warm token, p99 at 1 connection",
                    middle.p99_ms,
                    0.3,
                    "ms",
                );
            } else if index == EIGHT {
                let what = "sidecar: CPU of a warm token, 8 connections";
                report.promise(what, middle.processor_us, 12.0, "µs");
            }
            report.load(row);
        }
    }
}
