//! The caches: one reflector a kind, one notification for all of them.
//!
//! They run on every replica, leading or not, so that a new leader starts from warm caches.

mod objects;

use std::sync::Arc;

use api::crd::AzureIdentityAttachment;
use api::{AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding, labels};
use futures::{StreamExt, TryFutureExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::store::{Store, Writer};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use runtime::{Latch, Readiness, Shutdown, Tasks};
use tokio::sync::Notify;

pub(crate) use objects::{BoundPod, Cached, CloudNode, name, namespace, uid};
#[cfg(test)]
pub(crate) use objects::{BoundPodSpec, BoundPodStatus, CloudNodeSpec};

/// Says that something changed which a decision may depend on. Clones are the same bell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dirty(Arc<Notify>);

/// Read sides of the caches.
#[derive(Clone)]
pub(crate) struct Stores {
    pub(crate) pods: Store<BoundPod>,
    pub(crate) nodes: Store<CloudNode>,
    pub(crate) identities: Store<AzureIdentity>,
    pub(crate) bindings: Store<AzureIdentityBinding>,
    pub(crate) assigned: Store<AzureAssignedIdentity>,
    pub(crate) attachments: Store<AzureIdentityAttachment>,
}

/// A cache cannot become complete any more.
#[derive(Debug, thiserror::Error)]
#[error("the cache of {0} ended")]
pub(crate) struct CacheEnded(&'static str);

/// Starts the reflectors.
pub(crate) struct Watches<'a> {
    client: Client,
    tasks: &'a mut Tasks,
    readiness: &'a Readiness,
    dirty: Dirty,
    shutdown: Shutdown,
}

// === impl Dirty ===

impl Dirty {
    /// Rings; several rings before anybody listens are one.
    pub(crate) fn ring(&self) {
        self.0.notify_one();
    }

    /// Waits for a ring since the last time.
    pub(crate) async fn rung(&self) {
        self.0.notified().await;
    }
}

// === impl Stores ===

impl Stores {
    /// Waits until every cache has been filled once.
    pub(crate) async fn complete(&self) -> Result<(), CacheEnded> {
        let ended = |kind| move |_| CacheEnded(kind);
        tokio::try_join!(
            self.pods.wait_until_ready().map_err(ended("pods")),
            self.nodes.wait_until_ready().map_err(ended("nodes")),
            self.identities.wait_until_ready().map_err(ended("identities")),
            self.bindings.wait_until_ready().map_err(ended("bindings")),
            self.assigned.wait_until_ready().map_err(ended("assigned identities")),
            self.attachments.wait_until_ready().map_err(ended("attachments")),
        )?;
        Ok(())
    }
}

// === impl Watches ===

impl<'a> Watches<'a> {
    /// Reflectors as tasks of the process; each adds a latch to its readiness.
    pub(crate) fn new(
        client: Client,
        tasks: &'a mut Tasks,
        readiness: &'a Readiness,
        dirty: Dirty,
        shutdown: Shutdown,
    ) -> Self {
        Self { client, tasks, readiness, dirty, shutdown }
    }

    /// Starts all; per-host records are watched in `namespace`, everything else everywhere.
    pub(crate) fn start(mut self, namespace: &str) -> Stores {
        let client = self.client.clone();
        let all = watcher::Config::default;
        Stores {
            pods: self.reflect("pods", Api::all(client.clone()), all().labels(labels::BINDING)),
            nodes: self.reflect("nodes", Api::all(client.clone()), all()),
            identities: self.reflect("azureidentities", Api::all(client.clone()), all()),
            bindings: self.reflect("azureidentitybindings", Api::all(client.clone()), all()),
            assigned: self.reflect("azureassignedidentities", Api::all(client.clone()), all()),
            attachments: self.reflect(
                "azureidentityattachments",
                Api::namespaced(client, namespace),
                all(),
            ),
        }
    }

    fn reflect<K: Cached>(
        &mut self,
        kind: &'static str,
        api: Api<K>,
        config: watcher::Config,
    ) -> Store<K> {
        let writer = Writer::new(());
        let store = writer.as_reader();
        let latch = self.readiness.latch(kind);
        let (dirty, shutdown) = (self.dirty.clone(), self.shutdown.clone());
        self.tasks.spawn(kind, async move {
            tokio::select! {
                () = shutdown.begun() => {}
                () = reflect(kind, api, config, Reflection { writer, latch, dirty }) => {}
            }
            Ok::<_, std::convert::Infallible>(())
        });
        store
    }
}

/// Where a reflector's events go.
struct Reflection<K: Cached> {
    writer: Writer<K>,
    latch: Latch,
    dirty: Dirty,
}

async fn reflect<K: Cached>(
    kind: &'static str,
    api: Api<K>,
    config: watcher::Config,
    mut to: Reflection<K>,
) {
    let store = to.writer.as_reader();
    let events = watcher::watcher(api, config).default_backoff().modify(Cached::trim);
    let mut events = std::pin::pin!(events);
    let mut failing = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if std::mem::take(&mut failing) {
                    tracing::info!(kind, "Watching again");
                }
                let ring = matters(&event, &store);
                to.writer.apply_watcher_event(&event);
                if matches!(event, Event::InitDone) {
                    to.latch.set(true);
                }
                if ring {
                    to.dirty.ring();
                }
            }
            // The stream recovers by itself; only the first of a row is worth a line.
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(kind, %error, "Cannot watch");
            }
            Err(error) => tracing::debug!(kind, %error, "Still cannot watch"),
        }
    }
}

/// Whether an event, compared with the cache before it, changes what a decision depends on.
fn matters<K: Cached>(event: &Event<K>, store: &Store<K>) -> bool {
    match event {
        Event::Init | Event::InitApply(_) => false,
        Event::InitDone | Event::Delete(_) => true,
        Event::Apply(object) => match store.get(&ObjectRef::from_obj(object)) {
            Some(before) => object.matters(&before),
            None => true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn unimportant_updates_ring_no_bell() {
        let mut writer = Writer::<BoundPod>::new(());
        let store = writer.as_reader();
        let pod = testing::pod("team", "web", "sel", "n1");
        assert!(matters(&Event::Apply(pod.clone()), &store), "new");
        writer.apply_watcher_event(&Event::Apply(pod.clone()));
        assert!(!matters(&Event::Apply(pod.clone()), &store), "the same");
        let mut done = pod.clone();
        done.status.phase = Some("Succeeded".to_owned());
        assert!(matters(&Event::Apply(done), &store), "completed");
        assert!(matters(&Event::Delete(pod), &store), "deleted");
    }
}
