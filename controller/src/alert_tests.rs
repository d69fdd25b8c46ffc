//! The alert on what ARM refuses, against how often the controller asks again: one lasting refusal
//! rings, a hiccup does not. How long things take is nowhere written down twice.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::{after, since};
use crate::compute::{ArmError, ThrottleScope};
use crate::host::{HostModel, HostSettings, Immutable, Record, Step};
use crate::testing::{attached, id};

const MINUTE: Duration = Duration::from_secs(60);

/// `increase(podidentity_arm_calls_total{outcome=~"…"}[window]) > threshold`, for so long.
struct Rule {
    outcomes: Vec<String>,
    window: Duration,
    threshold: usize,
    lasting: Duration,
}

/// The text between two marks.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("no {begin} in {text}"));
    rest.split_once(end).map_or(rest, |(found, _)| found)
}

fn minutes(text: &str) -> Duration {
    MINUTE * text.strip_suffix('m').unwrap().parse().unwrap()
}

/// The rules of the chart's alert.
fn rules() -> Vec<Rule> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../charts/pod-identity-sidecar/monitoring/alerts.yaml"
    );
    let alerts = std::fs::read_to_string(path).unwrap();
    let alert = between(&alerts, "alert: PodIdentityArmRefuses\n", "- alert:");
    let lasting = minutes(between(alert, "for: ", "\n"));
    let terms = alert.lines().filter(|line| line.contains("podidentity_arm_calls_total"));
    let rule = |term: &str| Rule {
        outcomes: between(term, "outcome=~\"", "\"").split('|').map(str::to_owned).collect(),
        window: minutes(between(term, "[", "]")),
        threshold: between(term, ") > ", "\n").parse().unwrap(),
        lasting,
    };
    terms.map(rule).collect()
}

fn at(time: Duration) -> Timestamp {
    after(Timestamp::UNIX_EPOCH, time)
}

/// When ARM is called in vain, if it fails like this until `end`.
fn failures(error: &ArmError, end: Duration) -> Vec<Timestamp> {
    let settings =
        HostSettings { linger: 5 * MINUTE, recheck: 3 * MINUTE, immutable: Immutable::default() };
    let mut model = HostModel::new(Arc::new(settings));
    model.set_needed([id("db")].into());
    let (mut now, mut failures) = (at(Duration::ZERO), Vec::new());
    while now < at(240 * MINUTE) {
        let fails = now < at(end);
        let of_change = matches!(error, ArmError::IdentityRefused { .. });
        match model.next(now) {
            Step::Load => model.on_loaded(Record::default(), now),
            Step::Save(entries, _) => {
                model.on_saved(Record { entries, version: Some("1".to_owned()), status: None });
            }
            Step::Tell(status, version) => model.on_told((*status).clone(), version),
            Step::Get if fails && !of_change => {
                failures.push(now);
                model.on_get_error(error, now);
            }
            Step::Get => model.on_identities(attached([]), now),
            Step::Patch(_, delta) if fails => {
                failures.push(now);
                model.on_patch_error(error, &delta, now);
            }
            Step::Patch(_, delta) => {
                model.on_patched(attached(["db"]).into(), &delta, now);
            }
            Step::Wait(until) => now = until,
            Step::Done => panic!("there is a need"),
        }
    }
    failures
}

impl Rule {
    /// When it rings, if ARM is called in vain at these times.
    fn rings(&self, failures: &[Timestamp]) -> Option<Timestamp> {
        let mut pending: Option<Timestamp> = None;
        for now in (0..480).map(|half| at(MINUTE / 2 * half)) {
            let seen =
                |failure: &&Timestamp| **failure <= now && since(now, **failure) < self.window;
            // The first of all makes the counter appear, which is no increase yet.
            let increase = failures.iter().skip(1).filter(seen).count();
            pending = (increase > self.threshold).then(|| pending.unwrap_or(now));
            if pending.is_some_and(|begin| since(now, begin) >= self.lasting) {
                return Some(now);
            }
        }
        None
    }
}

#[test]
fn one_lasting_refusal_rings_and_a_hiccup_does_not() {
    let message = String::new;
    let errors = [
        ArmError::Forbidden { message: message(), remedy: None },
        ArmError::IdentityRefused {
            identities: vec![id("db")],
            code: message(),
            message: message(),
            remedy: None,
        },
        ArmError::Blocked { code: message(), message: message(), remedy: message() },
        ArmError::Rejected { code: message(), message: message() },
        ArmError::Throttled { scope: ThrottleScope::Host, retry_after: None },
        ArmError::Unavailable { message: message(), retry_after: None },
        ArmError::TimedOut { after: MINUTE },
    ];
    let rules = rules();
    let named = rules.iter().map(|rule| rule.outcomes.len()).sum::<usize>();
    assert_eq!(named, errors.len(), "each outcome that rings is tried here");
    for error in errors {
        let code = error.code();
        let of_it = |rule: &&Rule| rule.outcomes.iter().any(|outcome| outcome == code);
        let rule = rules.iter().find(of_it).unwrap_or_else(|| panic!("{code} never rings"));
        let rings = rule.rings(&failures(&error, 240 * MINUTE));
        assert!(rings.is_some_and(|rings| rings <= at(60 * MINUTE)), "{code} lasts: {rings:?}");
        let failures = failures(&error, 10 * MINUTE);
        assert!(failures.len() > 1, "{code}: {failures:?}");
        assert_eq!(rule.rings(&failures), None, "{code} for ten minutes");
    }
}
