//! Watches the record of MIC's leader election, and says who has to wait for whom.

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Endpoints;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use runtime::{Latch, Shutdown};
use tokio::sync::watch;
use tokio::time::Instant;

use super::election::{Mic, Records};
use super::metrics::AdoptionMetrics;
use crate::metrics::{ControllerMetrics, Term};
use crate::report::{EventSender, Happening, Severity, Subject};
use crate::snapshot::ObjectKey;

/// What is known of MIC; clones see the same.
#[derive(Clone, Debug)]
pub(crate) struct MicPresence(watch::Receiver<Mic>);

/// The task that watches.
pub(crate) struct MicWatch {
    client: Client,
    record: String,
    metrics: AdoptionMetrics,
    latch: Latch,
    known: watch::Sender<Mic>,
}

// === impl MicPresence ===

impl MicPresence {
    /// Begins a term of leadership, once it is known whether MIC runs: before that this replica does
    /// nothing of what a leader does, and is none to those who watch.
    pub(crate) async fn term(&mut self, metrics: &ControllerMetrics) -> Term {
        self.until(|mic| *mic != Mic::Unknown).await;
        metrics.term()
    }

    /// Waits until MIC is known not to run, and says that it is waited for.
    pub(crate) async fn gone(&mut self, events: &EventSender) {
        let mic = self.until(|mic| *mic != Mic::Unknown).await;
        let Mic::Running { record, holder } = mic else { return };
        tracing::warn!(%record, holder, "Assigning nothing: MIC of aad-pod-identity runs");
        events.send(notice(&record, &holder));
        self.until(Mic::is_absent).await;
        tracing::info!("MIC of aad-pod-identity does not run any more");
    }

    /// Waits until MIC runs, or may.
    pub(crate) async fn back(&mut self) {
        self.until(|mic| !mic.is_absent()).await;
    }

    async fn until(&mut self, is: impl Fn(&Mic) -> bool) -> Mic {
        let found = self.0.wait_for(is).await.map(|mic| mic.clone());
        match found {
            Ok(mic) => mic,
            // The watch ended with the process.
            Err(_) => std::future::pending().await,
        }
    }
}

// === impl MicWatch ===

impl MicWatch {
    /// Watches the record named `record`, in whatever namespace it is; an empty name watches
    /// nothing and takes MIC for absent.
    pub(crate) fn new(
        client: Client,
        record: String,
        metrics: AdoptionMetrics,
        latch: Latch,
    ) -> (Self, MicPresence) {
        let known = watch::Sender::new(Mic::Unknown);
        let presence = MicPresence(known.subscribe());
        (Self { client, record, metrics, latch, known }, presence)
    }

    /// Watches until shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        tokio::select! {
            () = shutdown.begun() => {}
            () = self.watch() => {}
        }
        Ok(())
    }

    async fn watch(self) {
        if self.record.is_empty() {
            self.publish(Mic::Absent);
            return std::future::pending().await;
        }
        let api: Api<PartialObjectMeta<Endpoints>> = Api::all(self.client.clone());
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.record));
        let events = watcher(api, config).default_backoff();
        let mut events = std::pin::pin!(events);
        let (mut records, mut listing) = (Records::default(), Vec::new());
        let (mut complete, mut failing) = (false, false);
        loop {
            let (mic, until) = records.judge(Instant::now());
            if complete {
                self.publish(mic);
            }
            let expiry = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                () = expiry => continue,
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    failing = false;
                    complete |= matches!(event, Event::InitDone);
                    take(&mut records, &mut listing, event);
                }
                Some(Err(error)) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "Cannot see whether MIC runs");
                }
                Some(Err(error)) => tracing::debug!(%error, "Still cannot see whether MIC runs"),
                None => return,
            }
        }
    }

    fn publish(&self, mic: Mic) {
        self.latch.set(true);
        self.metrics.mic_runs(!mic.is_absent());
        self.known.send_if_modified(|known| {
            let changed = *known != mic;
            if changed {
                *known = mic;
            }
            changed
        });
    }
}

fn notice(record: &ObjectKey, holder: &str) -> Happening {
    Happening {
        severity: Severity::Warning,
        subject: Subject {
            api_version: "v1".to_owned(),
            kind: "Endpoints".to_owned(),
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            uid: String::new(),
        },
        reason: "MicRunning",
        action: "Assigning",
        note: format!(
            "pod-identity-sidecar assigns nothing while MIC of aad-pod-identity runs ({holder}): scale its Deployment to 0, see docs/migrate.md"
        ),
    }
}

fn take(
    records: &mut Records,
    listing: &mut Vec<ObjectKey>,
    event: Event<PartialObjectMeta<Endpoints>>,
) {
    let (now, wall) = (Instant::now(), Timestamp::now());
    match event {
        Event::Init => listing.clear(),
        Event::InitApply(object) => {
            let (namespace, name) = crate::snapshot::key(&object);
            listing.push(ObjectKey::new(namespace, name));
            records.see(&object.metadata, now, wall);
        }
        Event::InitDone => records.keep(listing),
        Event::Apply(object) => records.see(&object.metadata, now, wall),
        Event::Delete(object) => records.forget(&object.metadata),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use runtime::Metrics;

    use super::*;

    #[tokio::test]
    async fn nobody_leads_while_it_is_unknown_whether_mic_runs() {
        let metrics = Metrics::new("test", "0");
        let counters = ControllerMetrics::new(&metrics);
        let leads = || metrics.text().lines().any(|line| line == "podidentity_leader 1");
        let known = watch::Sender::new(Mic::Unknown);
        let mut mic = MicPresence(known.subscribe());
        assert!(mic.term(&counters).now_or_never().is_none() && !leads());
        let (record, holder) = (ObjectKey::new("default", "mic"), "mic-0".to_owned());
        for mic_is in [Mic::Running { record, holder }, Mic::Absent] {
            known.send_replace(mic_is.clone());
            let term = mic.term(&counters).now_or_never();
            assert!(term.is_some() && leads(), "{mic_is:?}: that has a metric of its own");
            drop(term);
            assert!(!leads());
        }
    }
}
