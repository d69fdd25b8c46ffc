//! Whether MIC is at work, by the record of its leader election. Pure.
//!
//! The record is an annotation of an `Endpoints` object. MIC never gives it back, so that a record
//! says nothing; one that is being renewed does. No other clock is trusted, except that a record
//! from long ago is not waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use tokio::time::Instant;

use crate::clock::since;
use crate::snapshot::ObjectKey;
use crate::watch::{name, namespace};

/// Where leader elections by `Endpoints` keep their record.
pub(super) const RECORD: &str = "control-plane.alpha.kubernetes.io/leader";

/// A second replica of MIC takes over a duration and a quarter after the last renewal.
const PATIENCE: u32 = 2;
const SHORTEST_PATIENCE: Duration = Duration::from_secs(30);
/// No clock that a service account's token survives differs by more.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

/// What is known of MIC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mic {
    /// Its record was not read yet.
    #[default]
    Unknown,
    /// No record, or one that nobody renews.
    Absent,
    /// It leads, or may.
    Running {
        /// The object with its record.
        record: ObjectKey,
        /// Which replica.
        holder: String,
    },
}

/// The records that were seen.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<ObjectKey, Sighting>);

#[derive(Debug)]
struct Sighting {
    record: Record,
    until: Instant,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Record {
    holder_identity: String,
    lease_duration_seconds: u32,
    renew_time: String,
}

// === impl Mic ===

impl Mic {
    /// Whether assignments are ours to make.
    pub(super) fn is_absent(&self) -> bool {
        *self == Self::Absent
    }
}

// === impl Records ===

impl Records {
    /// Takes an object as it is now.
    pub(super) fn see(&mut self, meta: &ObjectMeta, now: Instant, wall: Timestamp) {
        let key = ObjectKey::new(namespace(meta), name(meta));
        let annotations = meta.annotations.as_ref();
        let text = annotations.and_then(|all| all.get(RECORD)).map_or("", String::as_str);
        // One that cannot be read is no election of MIC's.
        let record: Record = serde_json::from_str(text).unwrap_or_default();
        if self.0.get(&key).is_some_and(|seen| seen.record == record) {
            return;
        }
        let first = !self.0.contains_key(&key);
        let until = if first && record.is_ancient(wall) { now } else { now + record.patience() };
        self.0.insert(key, Sighting { record, until });
    }

    /// The object is gone.
    pub(super) fn forget(&mut self, meta: &ObjectMeta) {
        self.0.remove(&ObjectKey::new(namespace(meta), name(meta)));
    }

    /// Forgets all objects but these.
    pub(super) fn keep(&mut self, listed: &[ObjectKey]) {
        self.0.retain(|key, _| listed.contains(key));
    }

    /// What they mean, and until when if nothing is seen.
    pub(super) fn judge(&self, now: Instant) -> (Mic, Option<Instant>) {
        let alive = |seen: &Sighting| !seen.record.holder_identity.is_empty() && seen.until > now;
        let found =
            self.0.iter().filter(|(_, seen)| alive(seen)).max_by_key(|(_, seen)| seen.until);
        let Some((key, seen)) = found else { return (Mic::Absent, None) };
        let holder = seen.record.holder_identity.clone();
        (Mic::Running { record: key.clone(), holder }, Some(seen.until))
    }
}

// === impl Record ===

impl Record {
    fn patience(&self) -> Duration {
        let duration = Duration::from_secs(self.lease_duration_seconds.into());
        (duration * PATIENCE).max(SHORTEST_PATIENCE)
    }

    fn is_ancient(&self, wall: Timestamp) -> bool {
        let renewed = self.renew_time.parse::<Timestamp>();
        renewed.is_ok_and(|renewed| since(wall, renewed) > self.patience() + CLOCK_SKEW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall() -> Timestamp {
        "2026-01-01T12:00:00Z".parse().unwrap()
    }

    fn meta(holder: &str, renewed: &str) -> ObjectMeta {
        let record = serde_json::json!({"holderIdentity": holder, "leaseDurationSeconds": 15,
            "acquireTime": "2025-01-01T00:00:00Z", "renewTime": renewed, "leaderTransitions": 3});
        ObjectMeta {
            name: Some("aad-pod-identity-mic".to_owned()),
            namespace: Some("default".to_owned()),
            annotations: Some([(RECORD.to_owned(), record.to_string())].into()),
            ..ObjectMeta::default()
        }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[tokio::test(start_paused = true)]
    async fn mic_runs_as_long_as_its_record_is_renewed() {
        let start = Instant::now();
        let mut records = Records::default();
        assert_eq!(records.judge(start), (Mic::Absent, None), "no record at all");
        records.see(&meta("mic-a", "2026-01-01T11:59:59Z"), start, wall());
        let (mic, until) = records.judge(start);
        let Mic::Running { record, holder } = mic else { panic!("{mic:?}") };
        assert_eq!(
            (record.to_string().as_str(), holder.as_str()),
            ("default/aad-pod-identity-mic", "mic-a")
        );
        assert_eq!(until, Some(start + seconds(30)));

        records.see(&meta("mic-a", "2026-01-01T11:59:59Z"), start + seconds(20), wall());
        assert_eq!(records.judge(start + seconds(30)).0, Mic::Absent, "seen again is not renewed");
        records.see(&meta("mic-b", "2026-01-01T12:00:30Z"), start + seconds(60), wall());
        assert!(!records.judge(start + seconds(89)).0.is_absent(), "it came back");
        assert!(records.judge(start + seconds(90)).0.is_absent());
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_from_long_ago_is_not_waited_for_but_a_renewal_of_it_counts() {
        let start = Instant::now();
        let mut records = Records::default();
        records.see(&meta("mic", "2025-06-01T00:00:00Z"), start, wall());
        assert!(records.judge(start).0.is_absent());
        // Its clock is wrong, but it runs.
        records.see(&meta("mic", "2025-06-01T00:00:04Z"), start + seconds(4), wall());
        assert!(!records.judge(start + seconds(5)).0.is_absent());
        for skewed in ["2026-01-01T11:55:00Z", "2026-01-01T12:30:00Z", "soon"] {
            let mut records = Records::default();
            records.see(&meta("mic", skewed), start, wall());
            assert!(!records.judge(start).0.is_absent(), "{skewed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_without_a_holder_are_no_mic() {
        let start = Instant::now();
        let mut records = Records::default();
        let mut bare = meta("mic", "2026-01-01T12:00:00Z");
        bare.annotations = None;
        records.see(&bare, start, wall());
        records.see(&meta("", "2026-01-01T12:00:00Z"), start, wall());
        assert!(records.judge(start).0.is_absent());
        records.see(&meta("mic", "2026-01-01T12:00:00Z"), start, wall());
        assert!(!records.judge(start).0.is_absent());
        records.forget(&meta("", ""));
        assert!(records.judge(start).0.is_absent(), "deleted by hand");
        records.see(&meta("mic", "2026-01-01T12:00:00Z"), start, wall());
        records.keep(&[]);
        assert!(records.judge(start).0.is_absent(), "not listed any more");
    }
}
