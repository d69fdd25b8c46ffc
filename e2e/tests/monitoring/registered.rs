//! What the programs' sources say of the metrics that they register: names, labels, and the values
//! that labels can have.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::PREFIX;

/// The programs, and what they share.
const PROGRAMS: [&str; 4] = ["controller", "webhook", "nmi-host", "nmi-sidecar"];
const SHARED: [&str; 4] = ["api", "runtime", "token-cache", "azure-http"];

/// What Prometheus' text form adds to the names of counters and histograms.
const SUFFIXES: [&str; 4] = ["_total", "_bucket", "_sum", "_count"];

/// The sources of all programs.
pub(crate) struct Sources {
    files: Vec<File>,
    shared: String,
}

struct File {
    program: &'static str,
    text: String,
}

impl Sources {
    pub(crate) fn read() -> Self {
        let mut files = Vec::new();
        for program in PROGRAMS {
            let texts = texts(&root().join(program).join("src"));
            files.extend(texts.into_iter().map(|text| File { program, text }));
        }
        let shared = SHARED.map(|part| texts(&root().join(part).join("src")).concat());
        Self { files, shared: shared.concat() }
    }

    /// Whether a metric is registered: by its name, by the prefix of a registry and the rest, or
    /// with its unit apart.
    pub(crate) fn registers(&self, metric: &str) -> bool {
        let literal = |name: &str| {
            let name = format!("\"{name}\"");
            self.shared.contains(&name) || self.files.iter().any(|file| file.text.contains(&name))
        };
        let name = short(metric);
        let apart = |(at, _): (usize, &str)| literal(&name[..at]) && literal(&name[at + 1..]);
        literal(name)
            || name.match_indices('_').any(apart)
            || name.strip_suffix("_seconds").is_some_and(literal)
    }

    /// The labels that a metric has; of several programs that register it, those of each.
    pub(crate) fn labels(&self, metric: &str) -> BTreeSet<String> {
        self.at_home(metric).flat_map(|(file, at)| labels_at(&file.text, at)).collect()
    }

    /// Whether a program that registers the metric, or what it is built of, knows the word.
    pub(crate) fn can_say(&self, metric: &str, value: &str) -> bool {
        let literal = format!("\"{value}\"");
        let programs: BTreeSet<_> = self.at_home(metric).map(|(file, _)| file.program).collect();
        let own = |file: &&File| programs.contains(file.program);
        self.shared.contains(&literal)
            || self.files.iter().filter(own).any(|file| file.text.contains(&literal))
    }

    /// Where a metric is registered by its whole name.
    fn at_home<'a>(&'a self, metric: &str) -> impl Iterator<Item = (&'a File, usize)> + use<'a> {
        let literal = format!("\"{}\"", short(metric));
        self.files.iter().filter_map(move |file| Some((file, file.text.find(&literal)?)))
    }
}

/// A metric's name as it is registered.
fn short(metric: &str) -> &str {
    let name = metric.strip_prefix(PREFIX).unwrap_or(metric);
    SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

/// The labels of the metric that is registered there: those of the set that its family is over, or
/// if that cannot be told, of all sets of the file.
fn labels_at(text: &str, at: usize) -> Vec<String> {
    let registration = &text[at..text[at..].find(';').map_or(text.len(), |end| at + end)];
    let field = registration.rsplit_once(".clone()").map(|(head, _)| {
        let begin = head.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
        &head[begin..]
    });
    let family = field.and_then(|field| {
        let (_, of) = text.split_once(&format!("{field}: Family<"))?;
        of.split_once(',').map(|(set, _)| set)
    });
    let declared = field.is_some_and(|field| {
        ["Counter", "Gauge", "Histogram"]
            .iter()
            .any(|kind| text.contains(&format!("{field}: {kind}")))
    });
    match family.and_then(|set| fields(text, set)) {
        Some(labels) => labels,
        None if declared => Vec::new(),
        None => all_labels(text),
    }
}

/// The fields of a struct.
fn fields(text: &str, name: &str) -> Option<Vec<String>> {
    let (_, rest) = text.split_once(&format!("struct {name} {{"))?;
    let (body, _) = rest.split_once('}')?;
    let names = body.lines().filter_map(|line| line.trim().split_once(": "));
    Some(names.map(|(name, _)| name.trim_start_matches("pub(super) ").to_owned()).collect())
}

/// The fields of all label sets, and the names in sets that are pairs.
fn all_labels(text: &str) -> Vec<String> {
    let sets = text.split("EncodeLabelSet)]").skip(1).filter_map(|rest| {
        let name = rest.split_once("struct ")?.1.split_once(' ')?.0;
        fields(text, name)
    });
    let pairs = text.match_indices("(\"").filter_map(|(at, _)| {
        let before = text[..at].chars().next_back();
        let (name, rest) = text[at + 2..].split_once('"')?;
        let pair = rest.starts_with(", ") && before.is_some_and(|c| "[, ".contains(c));
        pair.then(|| name.to_owned())
    });
    sets.flatten().chain(pairs).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn texts(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(texts(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(std::fs::read_to_string(path).unwrap());
        }
    }
    all
}
