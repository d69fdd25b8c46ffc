//! Keeps the node guard as the API server's objects say, and takes it away at uninstall only.
//!
//! A restart, an upgrade or a crash leaves the rules in place: there must be no moment in which
//! pods reach the metadata service. Only when the agent's own DaemonSet is gone does the end of
//! the process mean that nobody will look after the rules any more.

use std::collections::BTreeSet;
use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::AzurePodIdentityExceptionSpec;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::core::PartialObjectMeta;
use runtime::{Latch, Shutdown};
use tokio::time::{Instant, sleep_until, timeout};

use crate::exceptions::excepted_ips;
use crate::guard::Guard;
use crate::metrics::HostMetrics;
use crate::pods::PodView;
use crate::watched::Table;

/// The rules on the node. All calls block.
pub(crate) trait Barrier: Send + Sync + 'static {
    /// Fails unless what was applied last is in place.
    fn verify(&self) -> Result<(), BarrierError>;

    /// Rejects pods' traffic to the metadata service, except from these addresses.
    fn apply(&self, excepted: &BTreeSet<Ipv4Addr>) -> Result<(), BarrierError>;

    /// Takes the rules away.
    fn remove(&self) -> Result<(), BarrierError>;
}

/// Why the rules could not be written or verified.
pub(crate) type BarrierError = Box<dyn Error + Send + Sync>;

/// What decides about the rules.
pub(crate) struct GuardTask<B> {
    /// The rules.
    pub(crate) barrier: Arc<B>,
    /// The pods of this node.
    pub(crate) pods: Table<PodView>,
    /// Who is let through.
    pub(crate) exceptions: Table<AzurePodIdentityExceptionSpec>,
    /// The agent's own DaemonSet: one or none.
    pub(crate) daemonset: Table<OwnDaemonSet>,
    /// Set once the rules have been in place.
    pub(crate) applied: Latch,
    /// Where the state is shown.
    pub(crate) metrics: HostMetrics,
}

/// The agent's DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnDaemonSet {
    /// Whether it is being deleted.
    pub(crate) ending: bool,
}

/// Rules that somebody else changed are repaired within this time.
const INTERVAL: Duration = Duration::from_secs(30);

/// Until the next attempt after a failed one.
const RETRY: Duration = Duration::from_secs(5);

/// How long the first rules wait for the first lists. Then they exclude everybody: a node whose
/// API server is away when it boots is closed rather than open.
const FIRST_LISTS: Duration = Duration::from_secs(10);

// === impl OwnDaemonSet ===

impl OwnDaemonSet {
    /// What is kept of the object.
    pub(crate) fn read(object: &PartialObjectMeta<DaemonSet>) -> Self {
        Self { ending: object.metadata.deletion_timestamp.is_some() }
    }
}

// === impl GuardTask ===

impl<B: Barrier> GuardTask<B> {
    /// Keeps the rules until shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        // Without a place to look it up there is nothing to conclude from its absence.
        let mut seen = false;
        self.first_lists(&shutdown).await;
        let mut due = Instant::now();
        let mut last = None;
        while !shutdown.has_begun() {
            seen |= self.has_daemonset();
            let excepted =
                excepted_ips(&self.pods.latest().objects, &self.exceptions.latest().objects);
            let news = last.as_ref() != Some(&excepted);
            if news || due <= Instant::now() {
                let done = !news && self.verified(excepted.len()).await
                    || self.apply(excepted.clone()).await;
                due = Instant::now() + if done { INTERVAL } else { RETRY };
                // After a failure the next look must write and not just verify.
                last = done.then_some(excepted);
            }
            tokio::select! {
                () = shutdown.begun() => {}
                () = self.pods.changed() => {}
                () = self.exceptions.changed() => {}
                () = self.daemonset.changed() => {}
                () = sleep_until(due) => {}
            }
        }
        if seen && !self.has_daemonset() {
            self.remove().await;
        }
    }

    async fn first_lists(&mut self, shutdown: &Shutdown) {
        let lists = async {
            self.pods.synced().await;
            self.exceptions.synced().await;
        };
        tokio::select! {
            () = shutdown.begun() => {}
            listed = timeout(FIRST_LISTS, lists) => if listed.is_err() {
                tracing::warn!("Pods and exceptions are not known yet, the guard excepts nobody");
            },
        }
    }

    fn has_daemonset(&mut self) -> bool {
        let snapshot = self.daemonset.latest();
        snapshot.objects.values().any(|daemonset| !daemonset.ending)
    }

    async fn verified(&self, excepted: usize) -> bool {
        let barrier = self.barrier.clone();
        match blocking(move || barrier.verify()).await {
            Ok(()) => {
                self.metrics.guard_applied(excepted, SystemTime::now());
                true
            }
            Err(error) => {
                self.metrics.guard_failed();
                let error = chain(&*error);
                tracing::warn!(%error, "Node guard was changed, repairing it");
                false
            }
        }
    }

    async fn apply(&self, excepted: BTreeSet<Ipv4Addr>) -> bool {
        let (barrier, count) = (self.barrier.clone(), excepted.len());
        match blocking(move || barrier.apply(&excepted)).await {
            Ok(()) => {
                self.metrics.guard_applied(count, SystemTime::now());
                self.applied.set(true);
                true
            }
            Err(error) => {
                self.metrics.guard_failed();
                let error = chain(&*error);
                tracing::error!(%error, "Node guard is not in place, trying again");
                false
            }
        }
    }

    async fn remove(&self) {
        let barrier = self.barrier.clone();
        match blocking(move || barrier.remove()).await {
            Ok(()) => tracing::info!("Uninstalled, node guard removed"),
            Err(error) => {
                let error = chain(&*error);
                tracing::error!(%error, "Uninstalled, but the node guard could not be removed");
            }
        }
    }
}

/// Takes away what an earlier release with the guard enabled may have left.
pub(crate) async fn clear(barrier: Arc<impl Barrier>) {
    if let Err(error) = blocking(move || barrier.remove()).await {
        let error = chain(&*error);
        // Expected: without the guard the process has no right to look.
        tracing::debug!(%error, "Cannot look for rules of an earlier node guard");
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<(), BarrierError> + Send + 'static,
) -> Result<(), BarrierError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.into()))
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

// === impl Guard ===

impl Barrier for Guard {
    fn verify(&self) -> Result<(), BarrierError> {
        Ok(Self::verify(self)?)
    }

    fn apply(&self, excepted: &BTreeSet<Ipv4Addr>) -> Result<(), BarrierError> {
        let applied = Self::apply(self, excepted)?;
        if applied.edits > 0 || applied.repositioned {
            tracing::info!(
                backend = %applied.backend,
                edits = applied.edits,
                repositioned = applied.repositioned,
                excepted = excepted.len(),
                "Node guard written"
            );
        }
        Ok(())
    }

    fn remove(&self) -> Result<(), BarrierError> {
        Ok(Self::remove(self)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;
    use runtime::Readiness;
    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::watched::{ObjectKey, TableWriter};

    /// What was done to the rules.
    #[derive(Debug, PartialEq, Eq)]
    enum Done {
        Applied(Vec<String>),
        Verified,
        Removed,
    }

    struct Recorder {
        done: UnboundedSender<Done>,
        failures: Arc<Mutex<usize>>,
    }

    impl Recorder {
        /// Fails as often as the test said before it is told of `done`: it may say more then.
        fn does(&self, done: Done) -> Result<(), BarrierError> {
            let fails = {
                let mut failures = self.failures.lock();
                let fails = *failures > 0;
                *failures -= usize::from(fails);
                fails
            };
            self.done.send(done)?;
            if fails { Err("no iptables".into()) } else { Ok(()) }
        }
    }

    impl Barrier for Recorder {
        fn verify(&self) -> Result<(), BarrierError> {
            self.does(Done::Verified)
        }

        fn apply(&self, excepted: &BTreeSet<Ipv4Addr>) -> Result<(), BarrierError> {
            let excepted = excepted.iter().map(ToString::to_string).collect();
            self.does(Done::Applied(excepted))
        }

        fn remove(&self) -> Result<(), BarrierError> {
            Ok(self.done.send(Done::Removed)?)
        }
    }

    struct Node {
        pods: TableWriter<PodView>,
        exceptions: TableWriter<AzurePodIdentityExceptionSpec>,
        daemonset: TableWriter<OwnDaemonSet>,
        done: UnboundedReceiver<Done>,
        applied: Latch,
        failures: Arc<Mutex<usize>>,
        shutdown: Shutdown,
        task: JoinHandle<()>,
    }

    fn node(failures: usize) -> Node {
        let ((pods, p), (exceptions, e)) = (TableWriter::new(), TableWriter::new());
        let (daemonset, d) = TableWriter::new();
        let (sender, done) = unbounded_channel();
        let (applied, shutdown) = (Readiness::default().latch("guard"), Shutdown::manual());
        let failures = Arc::new(Mutex::new(failures));
        let task = GuardTask {
            barrier: Arc::new(Recorder { done: sender, failures: failures.clone() }),
            pods: p,
            exceptions: e,
            daemonset: d,
            applied: applied.clone(),
            metrics: HostMetrics::detached(),
        };
        let task = tokio::spawn(task.run(shutdown.clone()));
        Node { pods, exceptions, daemonset, done, applied, failures, shutdown, task }
    }

    fn labels() -> BTreeMap<String, String> {
        BTreeMap::from([("app".to_owned(), "agent".to_owned())])
    }

    impl Node {
        fn list_pod(&mut self, address: &str) {
            let pod = PodView {
                uid: "u".to_owned(),
                labels: labels(),
                addresses: vec![address.parse().unwrap()],
                host_network: false,
                live: true,
            };
            self.pods.set([(ObjectKey::new("system", "a"), pod)]);
        }

        fn list_exception(&mut self) {
            let spec = AzurePodIdentityExceptionSpec { pod_labels: Some(labels()) };
            self.exceptions.set([(ObjectKey::new("system", "e"), spec)]);
        }

        fn list_daemonset(&mut self, present: Option<bool>) {
            let own = |ending| (ObjectKey::new("system", "nmi-host"), OwnDaemonSet { ending });
            self.daemonset.set(present.map(own));
        }

        async fn applied(&mut self) -> Vec<String> {
            match self.done.recv().await.unwrap() {
                Done::Applied(excepted) => excepted,
                other => panic!("{other:?}"),
            }
        }

        /// Ends the task; what it did last, after what was awaited.
        async fn end(mut self) -> Option<Done> {
            self.shutdown.begin();
            self.task.await.unwrap();
            self.done.recv().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rules_follow_pods_and_exceptions_and_are_repaired_in_between() {
        let mut node = node(0);
        node.list_pod("10.0.0.1");
        node.list_exception();
        assert_eq!(node.applied().await, ["10.0.0.1"]);
        node.list_pod("10.0.0.2");
        let changed = Instant::now();
        assert_eq!(node.applied().await, ["10.0.0.2"]);
        assert_eq!(changed.elapsed(), Duration::ZERO, "at once");
        assert!(node.applied.is_set());
        assert_eq!(node.done.recv().await, Some(Done::Verified));
        assert_eq!(changed.elapsed(), INTERVAL);

        *node.failures.lock() = 1;
        assert_eq!(node.done.recv().await, Some(Done::Verified));
        assert_eq!(node.applied().await, ["10.0.0.2"], "repaired");
        assert_eq!(changed.elapsed(), 2 * INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_api_server_is_away_is_closed() {
        let mut node = node(0);
        let begun = Instant::now();
        assert!(node.applied().await.is_empty());
        assert_eq!(begun.elapsed(), FIRST_LISTS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_tried_again_and_is_not_readiness() {
        let mut node = node(2);
        node.list_pod("10.0.0.1");
        node.list_exception();
        node.applied().await;
        assert!(!node.applied.is_set());
        let failed = Instant::now();
        node.applied().await;
        assert_eq!(failed.elapsed(), RETRY);
        assert!(!node.applied.is_set());
        node.applied().await;
        node.list_pod("10.0.0.9");
        node.applied().await;
        assert!(node.applied.is_set());
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_removes_the_rules_only_if_the_daemonset_went_away() {
        // (what is listed in turn, whether the rules go)
        type Listed<'a> = &'a [Option<bool>];
        let cases: [(&str, Listed<'_>, bool); 6] = [
            ("never listed", &[], false),
            ("present", &[Some(false)], false),
            ("never seen, as with a wrong name", &[None], false),
            ("deleted", &[Some(false), None], true),
            ("being deleted", &[Some(false), Some(true)], true),
            ("deleted and installed again", &[Some(false), None, Some(false)], false),
        ];
        for (case, listed, removed) in cases {
            let mut node = node(0);
            node.list_pod("10.0.0.1");
            node.list_exception();
            node.applied().await;
            for (round, present) in listed.iter().enumerate() {
                node.list_daemonset(*present);
                // The task has looked once it has applied something new.
                let address = format!("10.0.1.{round}");
                node.list_pod(&address);
                assert_eq!(node.applied().await, [address]);
            }
            let last = node.end().await;
            assert_eq!(last, removed.then_some(Done::Removed), "{case}");
        }
    }
}
