//! One worker for every host that needs something or on which something is ours.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use api::{Host, IdentityId};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::record::Records;
use super::view::HostView;
pub(crate) use super::worker::HostContext;
use super::worker::Worker;
use crate::compute::Compute;

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

    /// Says what a host needs now.
    pub(crate) fn need(&mut self, host: &Host, now: BTreeSet<IdentityId>) {
        let Some(handle) = self.handles.get(host) else {
            if !now.is_empty() {
                self.start(host.clone(), now);
            }
            return;
        };
        handle.needed.send_if_modified(|needed| {
            let changed = *needed != now;
            if changed {
                *needed = now;
            }
            changed
        });
    }

    /// Looks after a host of which something may be ours, even if it needs nothing.
    pub(crate) fn look_after(&mut self, host: &Host) {
        if !self.handles.contains_key(host) {
            self.start(host.clone(), BTreeSet::new());
        }
    }

    /// Looks after the hosts on which something is claimed.
    pub(crate) fn look_after_claims(&mut self) {
        let claimed: Vec<Host> = self.context.claims.borrow().keys().cloned().collect();
        claimed.iter().for_each(|host| self.look_after(host));
    }

    /// What is known of a host, if it has a worker.
    pub(crate) fn view(&self, host: &Host) -> Option<Arc<HostView>> {
        self.handles.get(host).map(|handle| handle.view.borrow().clone())
    }

    /// How many hosts have a worker.
    pub(crate) fn len(&self) -> usize {
        self.handles.len()
    }

    /// Waits for a worker to end, and starts another if its host needs one again. Returns the host.
    pub(crate) async fn tend(&mut self) -> Result<Host, WorkerPanicked> {
        let Some(ended) = self.workers.join_next().await else {
            return std::future::pending().await;
        };
        let host = ended.map_err(|_| WorkerPanicked)?;
        if let Some(handle) = self.handles.remove(&host) {
            // It decided to end before it saw what was needed last.
            let needed = handle.needed.borrow().clone();
            if !needed.is_empty() && self.context.leadership.remaining().is_some() {
                self.start(host.clone(), needed);
            }
        }
        Ok(host)
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
