//! The caches: one reflector a kind, one notification for all of them.
//!
//! They run on every replica, leading or not, so that a new leader starts from warm caches.

mod dirty;
mod objects;

use api::crd::AzureIdentityAttachment;
use api::{AzureAssignedIdentity, AzureIdentity, AzureIdentityBinding, labels};
use futures::{StreamExt, TryFutureExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::store::{Store, Writer};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use runtime::{Latch, Readiness, Shutdown, Tasks};

use crate::snapshot::ObjectKey;

pub(crate) use api::Slim;
pub(crate) use dirty::{Dirty, Keys, Kind, Touched};
pub(crate) use objects::{BoundPod, Cached, CloudNode, name, namespace, uid};
#[cfg(test)]
pub(crate) use objects::{BoundPodSpec, BoundPodStatus, CloudNodeSpec};

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
        api: Api<Slim<K>>,
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
    api: Api<Slim<K>>,
    config: watcher::Config,
    mut to: Reflection<K>,
) {
    let stream = |config| watcher::watcher(api.clone(), config).default_backoff().boxed();
    let mut events = stream(config.clone().streaming_lists());
    let mut failing = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if std::mem::take(&mut failing) {
                    tracing::info!(kind, "Watching again");
                }
                let event = trimmed(event);
                let complete = matches!(event, Event::InitDone);
                follow(&event, &mut to.writer, &to.dirty);
                if complete {
                    to.latch.set(true);
                }
            }
            Err(error) if refuses_streaming(&error) => {
                tracing::info!(kind, "Listing page by page: the API server streams no lists");
                events = stream(config.clone());
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

/// Whether the API server does not know `sendInitialEvents`, or was told not to.
fn refuses_streaming(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            matches!(status.code, 400 | 422) && status.message.contains("sendInitialEvents")
        }
        _ => false,
    }
}

fn trimmed<K: Cached>(event: Event<Slim<K>>) -> Event<K> {
    let trim = |Slim(mut object): Slim<K>| {
        object.trim();
        object
    };
    match event {
        Event::Apply(object) => Event::Apply(trim(object)),
        Event::Delete(object) => Event::Delete(trim(object)),
        Event::InitApply(object) => Event::InitApply(trim(object)),
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
    }
}

/// Takes an event into the cache, notes what it touches, and rings if it changes what a decision
/// depends on.
pub(crate) fn follow<K: Cached>(event: &Event<K>, writer: &mut Writer<K>, dirty: &Dirty) {
    let ring = matters(event, &writer.as_reader());
    writer.apply_watcher_event(event);
    match event {
        Event::Init | Event::InitApply(_) => {}
        Event::InitDone => dirty.touch_all(K::KIND),
        Event::Apply(object) | Event::Delete(object) => {
            dirty.touch(K::KIND, ObjectKey::of(object));
        }
    }
    if ring {
        dirty.ring();
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

    #[test]
    fn only_a_server_that_cannot_stream_is_asked_for_lists() {
        let refusal = |code, message: &str| {
            let status =
                kube::core::Status { code, message: message.to_owned(), ..Default::default() };
            watcher::Error::WatchStartFailed(kube::Error::Api(status.boxed()))
        };
        let forbidden = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        assert!(refuses_streaming(&refusal(422, forbidden)));
        assert!(!refuses_streaming(&refusal(422, "labelSelector: Invalid value")));
        assert!(!refuses_streaming(&refusal(429, "storage is (re)initializing")));
        assert!(!refuses_streaming(&refusal(500, forbidden)));
    }
}
