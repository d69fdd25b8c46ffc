//! One worker for every host that needs something or on which something is ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use api::{Host, IdentityId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::record::Records;
use super::view::HostView;
pub(crate) use super::worker::HostContext;
use super::worker::Worker;
use crate::compute::Compute;

/// What each host's pods need.
pub(crate) type Needs = BTreeMap<Host, BTreeSet<IdentityId>>;

/// What is known of each host that has a worker.
pub(crate) type Views = HashMap<Host, Arc<HostView>>;

/// A worker ended in a panic.
#[derive(Debug, thiserror::Error)]
#[error("the worker of a host panicked")]
pub(crate) struct WorkerPanicked;

/// The workers. Dropping the pool ends them.
pub(crate) struct HostPool<C, R> {
    context: Arc<HostContext<C, R>>,
    handles: HashMap<Host, Handle>,
    workers: JoinSet<Host>,
}

struct Handle {
    needed: watch::Sender<BTreeSet<IdentityId>>,
    view: watch::Receiver<Arc<HostView>>,
}

// === impl HostPool ===

impl<C: Compute, R: Records> HostPool<C, R> {
    /// No workers yet.
    pub(crate) fn new(context: HostContext<C, R>) -> Self {
        Self { context: Arc::new(context), handles: HashMap::new(), workers: JoinSet::new() }
    }

    /// Says what every host needs; hosts that are not named need nothing any more.
    pub(crate) fn set_needs(&mut self, mut needs: Needs, recorded: &BTreeSet<Host>) {
        for (host, handle) in &self.handles {
            let now = needs.remove(host).unwrap_or_default();
            handle.needed.send_if_modified(|needed| {
                let changed = *needed != now;
                if changed {
                    *needed = now;
                }
                changed
            });
        }
        for (host, needed) in needs {
            self.start(host, needed);
        }
        let claimed: Vec<Host> = self.context.claims.borrow().keys().cloned().collect();
        for host in recorded.iter().chain(&claimed) {
            if !self.handles.contains_key(host) {
                self.start(host.clone(), BTreeSet::new());
            }
        }
    }

    /// What is known of the hosts.
    pub(crate) fn views(&self) -> Views {
        let view = |handle: &Handle| handle.view.borrow().clone();
        self.handles.iter().map(|(host, handle)| (host.clone(), view(handle))).collect()
    }

    /// How many hosts have a worker.
    pub(crate) fn len(&self) -> usize {
        self.handles.len()
    }

    /// Waits for a worker to end, and starts another if its host needs one again.
    pub(crate) async fn tend(&mut self) -> Result<(), WorkerPanicked> {
        let Some(ended) = self.workers.join_next().await else {
            return std::future::pending().await;
        };
        let host = ended.map_err(|_| WorkerPanicked)?;
        if let Some(handle) = self.handles.remove(&host) {
            // It decided to end before it saw what was needed last.
            let needed = handle.needed.borrow().clone();
            if !needed.is_empty() && self.context.leadership.remaining().is_some() {
                self.start(host, needed);
            }
        }
        Ok(())
    }

    fn start(&mut self, host: Host, needed: BTreeSet<IdentityId>) {
        let (needed, receiver) = watch::channel(needed);
        let (sender, view) = watch::channel(Arc::default());
        let worker = Worker {
            host: host.clone(),
            context: self.context.clone(),
            needed: receiver,
            view: sender,
        };
        self.workers.spawn(worker.run());
        self.handles.insert(host, Handle { needed, view });
    }
}
