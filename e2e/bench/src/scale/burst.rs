//! Many pods at once: until all have their identity, and until all assignments are gone again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::follower::Follower;
use super::world::{self, NewPod};
use super::{Stage, seconds};
use crate::report::{Figure, Report};
use crate::summary::mebibytes;

/// How large a burst is, and what it may cost.
pub(super) struct Size {
    pub(super) pods: usize,
    pub(super) nodes: usize,
    pub(super) sets: usize,
    pub(super) identities: usize,
    pub(super) assigned_s: f64,
    pub(super) gone_s: f64,
    /// Nothing was promised of larger bursts.
    pub(super) processor_s: Option<f64>,
    pub(super) memory_mib: f64,
    pub(super) peers: Peers,
}

/// What aad-pod-identity needs, without its rate limiter; empty where it was not measured.
#[derive(Default)]
pub(super) struct Peers {
    pub(super) assigned: &'static str,
    pub(super) gone: &'static str,
    pub(super) processor: &'static str,
    pub(super) memory: &'static str,
}

/// What one burst came to.
#[derive(Default)]
struct Samples {
    assigned_s: Vec<f64>,
    gone_s: Vec<f64>,
    processor_s: Vec<f64>,
    assigning_s: Vec<f64>,
    memory_mib: Vec<f64>,
    get: Vec<f64>,
    patch: Vec<f64>,
    writes: Vec<f64>,
}

/// Short, so that the detachment is counted too.
const LINGER: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures bursts of one size.
pub(super) async fn measure(
    stage: &Stage,
    size: &Size,
    rounds: usize,
    report: &mut Report,
) -> Result<()> {
    let mut samples = Samples::default();
    for _ in 0..rounds {
        round(stage, size, &mut samples).await?;
        world::clear(&stage.client).await?;
    }
    samples.report(size, report);
    Ok(())
}

async fn round(stage: &Stage, size: &Size, samples: &mut Samples) -> Result<()> {
    let identities: Vec<String> = (0..size.identities).map(|n| format!("identity-{n}")).collect();
    stage.begin((size.nodes, size.sets), &identities).await?;
    let controller = stage.controller(LINGER)?;
    let pods: Vec<NewPod> = (0..size.pods)
        .map(|number| NewPod {
            name: format!("pod-{number}"),
            identity: format!("identity-{}", number % size.identities),
            node: world::node(number / size.identities % size.nodes),
        })
        .collect();
    let mut follower = Follower::start(&stage.client).await?;
    let before = controller.usage()?.processor;

    let begin = Instant::now();
    let (created, assigned) = tokio::join!(
        world::add_pods(&stage.client, &pods),
        follower.assigned(size.pods, PATIENCE),
    );
    created?;
    let assigned = assigned.context("the pods did not get their identities")?;
    let half = controller.usage()?;
    samples.assigned_s.push(seconds(assigned - begin));
    samples.assigning_s.push(seconds(half.processor - before));

    let begin = Instant::now();
    let (deleted, gone) =
        tokio::join!(world::delete_pods(&stage.client, &pods), follower.gone(size.pods, PATIENCE),);
    deleted?;
    samples.gone_s.push(seconds(gone.context("assignments stayed")? - begin));
    let end = controller.usage()?;
    samples.processor_s.push(seconds(end.processor - before));
    samples.memory_mib.push(mebibytes(end.memory.peak));
    samples.writes.push(controller.writes()?);
    stage.wait_for_detachment(size.sets).await?;
    samples.count_calls(stage, size)
}

// === impl Samples ===

impl Samples {
    /// Counts calls to ARM for the scale set that had most.
    fn count_calls(&mut self, stage: &Stage, size: &Size) -> Result<()> {
        let (mut get, mut patch) = (0, 0);
        for set in 0..size.sets {
            let calls = stage.azure.calls(set)?;
            ensure!(calls.patch > 0, "scale set {set} was never written");
            (get, patch) = (get.max(calls.get), patch.max(calls.patch));
        }
        self.get.push(super::count(get));
        self.patch.push(super::count(patch));
        Ok(())
    }

    fn report(self, size: &Size, report: &mut Report) {
        let of = |what: &str| format!("{} pods: {what}", size.pods);
        let peers = &size.peers;
        let assigned = Figure::new(of("all assigned"), "s", self.assigned_s).peer(peers.assigned);
        report.promised(assigned, size.assigned_s);
        let gone = Figure::new(of("all gone"), "s", self.gone_s).peer(peers.gone);
        report.promised(gone, size.gone_s);
        report.promised(Figure::new(of("ARM GET per scale set"), "", self.get), 2.0);
        report.promised(Figure::new(of("ARM PATCH per scale set"), "", self.patch), 2.0);
        let processor = Figure::new(of("processor time"), "s", self.processor_s);
        let processor = processor.peer(peers.processor);
        match size.processor_s {
            Some(most) => report.promised(processor, most),
            None => report.figure(processor),
        }
        report.figure(Figure::new(of("of it until assigned"), "s", self.assigning_s));
        let memory = Figure::new(of("peak memory"), "MiB", self.memory_mib).peer(peers.memory);
        report.promised(memory, size.memory_mib);
        report.figure(Figure::new(of("writes to the API server"), "", self.writes));
    }
}
