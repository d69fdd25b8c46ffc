//! One pod at a time: what the controller adds to what ARM takes.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::json;

use super::follower::Follower;
use super::world::{self, NewPod};
use super::{ARM_GET, ARM_PATCH, Stage};
use crate::report::{Figure, Report};
use crate::summary::milliseconds;

/// Longer than a measurement: nothing is detached meanwhile.
const LINGER: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two pods: nothing of the one before is still going on.
const PAUSE: Duration = Duration::from_millis(300);
/// How long asynchronous operations go on after ARM accepted them. Not the same each time, so that
/// none of them ends just when somebody looks.
const OPERATIONS: [Duration; 5] = [
    Duration::from_millis(400),
    Duration::from_millis(870),
    Duration::from_millis(1330),
    Duration::from_millis(1790),
    Duration::from_millis(2250),
];

const SETS: usize = 2;

/// Pods made one by one.
struct OneByOne<'a> {
    stage: &'a Stage,
    follower: Follower,
    made: usize,
}

/// Measures everything about single pods.
pub(super) async fn measure(stage: &Stage, pods: usize, report: &mut Report) -> Result<()> {
    let cold = OPERATIONS.len();
    let names: Vec<String> = (0..=3 * cold).map(|number| format!("identity-{number}")).collect();
    stage.begin((SETS, SETS), &names).await?;
    let _controller = stage.controller(LINGER)?;
    let follower = Follower::start(&stage.client).await?;
    let mut one = OneByOne { stage, follower, made: 0 };
    let (warm, others) = names.split_first().context("no identity")?;
    let (first, others) = others.split_at(cold);
    let (second, third) = others.split_at(cold);

    // Both hosts become known, and the identity is attached to both.
    one.pod(warm, 0).await?;
    one.pod(warm, 1).await?;
    attached(&mut one, warm, pods, report).await?;
    added(&mut one, first, report).await?;
    apart(&mut one, (warm, second), report).await?;
    seen(&mut one, third, report).await
}

/// An identity that is attached already.
async fn attached(
    one: &mut OneByOne<'_>,
    warm: &str,
    pods: usize,
    report: &mut Report,
) -> Result<()> {
    let mut samples = Vec::new();
    for number in 0..pods {
        samples.push(milliseconds(one.pod(warm, number % SETS).await?));
        tokio::time::sleep(PAUSE).await;
    }
    let figure = Figure::new("one pod, identity attached: scheduled to assigned", "ms", samples);
    report.promised(figure.peer("60"), 30.0);
    Ok(())
}

/// What the controller adds to GET and PATCH.
async fn added(one: &mut OneByOne<'_>, names: &[String], report: &mut Report) -> Result<()> {
    let mut samples = Vec::new();
    for name in names {
        let before = one.stage.azure.calls(0)?;
        let took = one.pod(name, 0).await?;
        let after = one.stage.azure.calls(0)?;
        let arm = ARM_GET * u32::try_from(after.get - before.get)?
            + ARM_PATCH * u32::try_from(after.patch - before.patch)?;
        samples.push(milliseconds(took.saturating_sub(arm)));
    }
    let figure = Figure::new("one pod, identity not attached: on top of ARM", "ms", samples);
    report.promised(figure.peer("15"), 20.0);
    Ok(())
}

/// A pod of one scale set while ARM writes another.
async fn apart(
    one: &mut OneByOne<'_>,
    (warm, names): (&str, &[String]),
    report: &mut Report,
) -> Result<()> {
    let mut samples = Vec::new();
    for name in names {
        let busy = one.new_pod(name, 0);
        world::add_pods(&one.stage.client, &[busy]).await?;
        // By now ARM has the PATCH, and keeps it for a while.
        tokio::time::sleep(ARM_GET + PAUSE).await;
        let pod = one.new_pod(warm, 1);
        world::add_pods(&one.stage.client, &[pod]).await?;
        let begin = Instant::now();
        let assigned = one.follower.assigned(1, PATIENCE).await?;
        samples.push(milliseconds(assigned.saturating_duration_since(begin)));
        one.follower.assigned(2, PATIENCE).await?;
        one.follower.forget();
    }
    let figure = Figure::new("one pod while ARM writes another scale set", "ms", samples);
    report.promised(figure.peer("4050"), 30.0);
    Ok(())
}

/// How soon the end of an asynchronous operation shows.
async fn seen(one: &mut OneByOne<'_>, names: &[String], report: &mut Report) -> Result<()> {
    let mut samples = Vec::new();
    for (name, duration) in names.iter().zip(OPERATIONS) {
        one.stage.azure.behave(&json!({
            "operations": {"async": true, "duration_ms": duration.as_millis() as u64},
        }))?;
        one.pod(name, 0).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let end = Duration::from_millis(one.stage.azure.last_operation_ms()?);
        samples.push(milliseconds(now.saturating_sub(end)));
    }
    let worst = samples.iter().copied().fold(0.0, f64::max);
    report.figure(
        Figure::new("end of an asynchronous PATCH to assigned", "ms", samples).peer("up to 5000"),
    );
    report.promise("end of an asynchronous PATCH to assigned, at worst", worst, 300.0, "ms");
    one.stage.behave()
}

// === impl OneByOne ===

impl OneByOne<'_> {
    fn new_pod(&mut self, identity: &str, node: usize) -> NewPod {
        self.made += 1;
        NewPod {
            name: format!("pod-{}", self.made),
            identity: identity.to_owned(),
            node: world::node(node),
        }
    }

    /// From when the API server has a pod, on its node, to when its identity is assigned.
    async fn pod(&mut self, identity: &str, node: usize) -> Result<Duration> {
        let pod = self.new_pod(identity, node);
        world::add_pods(&self.stage.client, &[pod]).await?;
        let begin = Instant::now();
        let assigned = self.follower.assigned(1, PATIENCE).await?;
        self.follower.forget();
        Ok(assigned.saturating_duration_since(begin))
    }
}
