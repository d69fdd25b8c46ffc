//! The machine of a run, and how much of it others used meanwhile: what rates and latencies can be
//! believed by.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::procfs;

/// The machine during a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Machine {
    processors: usize,
    kernel: String,
    /// Processors that neither this process nor its children kept busy, on average.
    busy_with_others: f64,
}

/// A run that has begun.
#[derive(Debug)]
pub(crate) struct Watch {
    begun: Instant,
    all: Duration,
    own: Duration,
}

/// More than this, and latencies are those of waiting for a processor.
const QUIET: f64 = 0.15;

// === impl Watch ===

impl Watch {
    /// Begins now.
    pub(crate) fn begin() -> Result<Self> {
        let (all, own) = times()?;
        Ok(Self { begun: Instant::now(), all, own })
    }

    /// Ends now. What is counted of children are those that have ended.
    pub(crate) fn end(self) -> Result<Machine> {
        let (all, own) = times()?;
        let others = (all - self.all).saturating_sub(own - self.own);
        Ok(Machine {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            busy_with_others: others.as_secs_f64() / self.begun.elapsed().as_secs_f64(),
        })
    }
}

// === impl Machine ===

impl Machine {
    /// In one line, for people.
    pub(crate) fn text(&self) -> String {
        let Self { processors, kernel, busy_with_others } = self;
        let remark = if *busy_with_others > QUIET {
            ": too much for latencies, and some for everything else"
        } else {
            ""
        };
        format!(
            "{processors} processors, Linux {kernel}; {busy_with_others:.2} of them busy with \
             something else{remark}.\n"
        )
    }
}

fn times() -> Result<(Duration, Duration)> {
    let all = procfs::busy_time(&read("/proc/stat")?).context("/proc/stat is not as usual")?;
    let own = procfs::family_time(&read("/proc/self/stat")?);
    Ok((all, own.context("/proc/self/stat is not as usual")?))
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {file}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_described_by_what_others_did() {
        let machine = Watch::begin().unwrap().end().unwrap();
        assert!(machine.processors > 0 && !machine.kernel.is_empty());
        let text = |others| Machine { busy_with_others: others, ..machine.clone() }.text();
        assert!(text(0.05).ends_with("0.05 of them busy with something else.\n"));
        assert!(text(0.7).contains("too much for latencies"));
    }
}
