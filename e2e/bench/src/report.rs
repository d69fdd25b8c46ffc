//! What was measured, as a table for people and as JSON for programs, and whether it keeps what was
//! promised.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::machine::Machine;
use crate::summary::median;

/// Everything of one run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    loads: Vec<LoadRow>,
    figures: Vec<Figure>,
    promises: Vec<Promise>,
}

/// One number, sampled several times.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    median: f64,
    samples: Vec<f64>,
    peer: &'static str,
}

/// A server under one load, several times.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LoadRow {
    /// Who was loaded.
    pub(crate) server: String,
    /// How.
    pub(crate) load: String,
    /// Each time.
    pub(crate) samples: Vec<LoadSample>,
    /// What the peers have here.
    pub(crate) peer: &'static str,
}

/// A server under load, once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct LoadSample {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Half of the requests took at most so many milliseconds.
    pub(crate) p50_ms: f64,
    /// 99 of 100 did.
    pub(crate) p99_ms: f64,
    /// Processor time of the server for a request.
    pub(crate) processor_us: f64,
    /// Its memory at the end.
    pub(crate) resident_mib: f64,
}

/// A figure and how large it may be.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Promise {
    what: String,
    value: f64,
    at_most: f64,
    unit: &'static str,
    kept: bool,
}

// === impl Report ===

impl Report {
    /// Takes a figure in.
    pub(crate) fn figure(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Takes a figure in and holds its median against a promise.
    pub(crate) fn promised(&mut self, figure: Figure, at_most: f64) {
        self.promise(&figure.name, figure.median, at_most, figure.unit);
        self.figure(figure);
    }

    /// Takes a loaded server in.
    pub(crate) fn load(&mut self, row: LoadRow) {
        self.loads.push(row);
    }

    /// Holds a value against a promise.
    pub(crate) fn promise(&mut self, what: &str, value: f64, at_most: f64, unit: &'static str) {
        let kept = value <= at_most;
        self.promises.push(Promise { what: what.to_owned(), value, at_most, unit, kept });
    }

    /// Says where it was measured, prints the tables, and writes everything; an error if promises
    /// are to be checked and one is not kept even with the slack that is given.
    pub(crate) fn publish(
        mut self,
        machine: Machine,
        file: &Path,
        check: Option<f64>,
    ) -> Result<()> {
        self.machine = machine;
        self.print()?;
        self.write(file)?;
        let Some(slack) = check else { return Ok(()) };
        let broken = self.broken(slack);
        ensure!(
            broken.is_empty(),
            "worse than {slack} times what was promised: {}",
            broken.join("; ")
        );
        Ok(())
    }

    /// Prints the tables.
    fn print(&self) -> Result<()> {
        io::stdout().write_all(self.text().as_bytes()).context("cannot print the report")
    }

    /// Writes everything, every sample included.
    fn write(&self, file: &Path) -> Result<()> {
        let name = file.display();
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make a folder for {name}"))?;
        }
        let json = serde_json::to_vec_pretty(self).context("the report is no JSON")?;
        fs::write(file, json).with_context(|| format!("cannot write {name}"))
    }

    /// The promises that are not kept even if `slack` times as much is allowed.
    fn broken(&self, slack: f64) -> Vec<&str> {
        let broken = self.promises.iter().filter(|promise| promise.value > promise.at_most * slack);
        broken.map(|promise| promise.what.as_str()).collect()
    }

    fn text(&self) -> String {
        let mut text = self.machine.text();
        text.push('\n');
        self.write_loads(&mut text);
        self.write_figures(&mut text);
        self.write_promises(&mut text);
        text
    }

    fn write_loads(&self, text: &mut String) {
        if self.loads.is_empty() {
            return;
        }
        text.push_str("| server | load | req/s | p50 / p99 ms | CPU µs per request | resident MiB | peer: CPU µs; p50 / p99 ms |\n|---|---|---|---|---|---|---|\n");
        for row in &self.loads {
            let middle = row.middle();
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} | {} / {} | {} | {} | {} |",
                row.server,
                row.load,
                middle.rate,
                number(middle.p50_ms),
                number(middle.p99_ms),
                number(middle.processor_us),
                number(middle.resident_mib),
                row.peer
            );
        }
        text.push('\n');
    }

    fn write_figures(&self, text: &mut String) {
        text.push_str("| figure | median | lowest–highest | peer |\n|---|---|---|---|\n");
        for Figure { name, unit, median, samples, peer } in &self.figures {
            let lowest = samples.iter().copied().reduce(f64::min).unwrap_or(0.0);
            let highest = samples.iter().copied().reduce(f64::max).unwrap_or(0.0);
            let range = match samples.len() {
                1 => String::new(),
                _ => format!("{}–{}", number(lowest), number(highest)),
            };
            let value = number(*median);
            let _ = writeln!(text, "| {name} | {value} {unit} | {range} | {peer} |");
        }
        text.push('\n');
    }

    fn write_promises(&self, text: &mut String) {
        text.push_str("| promise | at most | measured | |\n|---|---|---|---|\n");
        for Promise { what, value, at_most, unit, kept } in &self.promises {
            let verdict = if *kept { "kept" } else { "**missed**" };
            let (limit, value) = (number(*at_most), number(*value));
            let _ = writeln!(text, "| {what} | {limit} {unit} | {value} {unit} | {verdict} |");
        }
    }
}

// === impl Figure ===

impl Figure {
    /// A figure that was sampled so.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, samples: Vec<f64>) -> Self {
        Self { name: name.into(), unit, median: median(&samples), samples, peer: "" }
    }

    /// With what the peers have.
    pub(crate) fn peer(self, peer: &'static str) -> Self {
        Self { peer, ..self }
    }
}

// === impl LoadRow ===

impl LoadRow {
    /// The median of each number.
    pub(crate) fn middle(&self) -> LoadSample {
        let middle = |number: fn(&LoadSample) -> f64| {
            median(&self.samples.iter().map(number).collect::<Vec<_>>())
        };
        LoadSample {
            rate: middle(|sample| sample.rate),
            p50_ms: middle(|sample| sample.p50_ms),
            p99_ms: middle(|sample| sample.p99_ms),
            processor_us: middle(|sample| sample.processor_us),
            resident_mib: middle(|sample| sample.resident_mib),
        }
    }
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 1.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64) -> LoadSample {
        LoadSample { rate, p50_ms: 0.1, p99_ms: 0.25, processor_us: 12.5, resident_mib: 5.0 }
    }

    #[test]
    fn tables_hold_medians_ranges_and_verdicts() {
        let mut report = Report::default();
        report.load(LoadRow {
            server: "sidecar".to_owned(),
            load: "c = 8".to_owned(),
            samples: vec![sample(300.0), sample(100.0), sample(200.0)],
            peer: "40",
        });
        report.promised(Figure::new("start", "ms", vec![4.0, 9.0, 4.5]).peer("24"), 5.0);
        report.promised(Figure::new("size", "MiB", vec![7.0]), 6.0);
        let text = report.text();
        for row in [
            "| sidecar | c = 8 | 200 | 0.10 / 0.25 | 12.5 | 5.0 | 40 |",
            "| start | 4.5 ms | 4.0–9.0 | 24 |",
            "| size | 7.0 MiB |  |  |",
            "| start | 5.0 ms | 4.5 ms | kept |",
            "| size | 6.0 MiB | 7.0 MiB | **missed** |",
        ] {
            assert!(text.contains(row), "{row} is missing in\n{text}");
        }
    }

    #[test]
    fn slack_decides_what_counts_as_broken() {
        let mut report = Report::default();
        report.promise("a", 7.0, 6.0, "MiB");
        report.promise("b", 6.0, 6.0, "MiB");
        assert_eq!(report.broken(1.0), ["a"]);
        assert!(report.broken(1.5).is_empty());
    }

    #[test]
    fn the_file_holds_every_sample() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/report.json");
        let mut report = Report::default();
        report.figure(Figure::new("start", "ms", vec![1.0, 3.0, 2.0]));
        report.write(&file).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        assert_eq!(written["figures"][0]["samples"], serde_json::json!([1.0, 3.0, 2.0]));
        assert_eq!(written["figures"][0]["median"], 2.0);
    }
}
