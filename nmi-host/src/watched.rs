//! Objects of the API server as a watch keeps them, projected to what is needed of them.
//!
//! What was seen last stays while the API server cannot be reached. Readers hold a snapshot and
//! are woken by its changes; nobody polls.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use api::Slim;
use api::slim::Readable;
use futures::StreamExt;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt};
use runtime::Shutdown;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::metrics::{HostMetrics, Watch};
use crate::pods::PodRef;

/// Namespace and name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectKey {
    /// Empty for objects without namespace.
    pub(crate) namespace: String,
    /// The object's name.
    pub(crate) name: String,
}

/// The objects at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot<V> {
    /// Whether they have been listed completely once; before, there are none.
    pub(crate) synced: bool,
    /// The objects.
    pub(crate) objects: Arc<BTreeMap<ObjectKey, Arc<V>>>,
    by_pod: Arc<ByPod<V>>,
}

/// Objects that are about a pod: found without looking at those of all others.
type ByPod<V> = HashMap<PodRef, Vec<Arc<V>>>;

/// The readers' end. Clones see the same objects.
#[derive(Debug)]
pub(crate) struct Table<V>(watch::Receiver<Snapshot<V>>);

/// The writer's end: turns the events of a watch into snapshots.
#[derive(Debug)]
pub(crate) struct TableWriter<V> {
    snapshots: watch::Sender<Snapshot<V>>,
    live: BTreeMap<ObjectKey, Arc<V>>,
    listing: Option<BTreeMap<ObjectKey, Arc<V>>>,
    pod_of: Option<fn(&V) -> &PodRef>,
}

/// A connection that is silently dropped is noticed after so long, so keep it far below the five
/// minutes that are kube's default: a removed identity must not live on behind it.
const WATCH_SECONDS: u32 = 90;

/// How a watch is asked for.
pub(crate) fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// Follows a watch until shutdown; errors are logged and retried with back-off, for ever.
pub(crate) async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    (what, metrics): (Watch, HostMetrics),
    shutdown: Shutdown,
    mut on_event: impl FnMut(Event<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    let stream = watcher(api, config).default_backoff();
    tokio::pin!(stream);
    loop {
        let next = tokio::select! {
            () = shutdown.begun() => return,
            next = stream.next() => next,
        };
        match next {
            Some(Ok(event)) => on_event(event),
            Some(Err(error)) => {
                metrics.watch_failed(what);
                tracing::warn!(watch = what.as_str(), %error, "Watch failed, trying again");
            }
            // kube's watcher has no end; should that change, do not spin.
            None => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

// === impl ObjectKey ===

impl ObjectKey {
    /// The key of these names.
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub(crate) fn of(object: &impl ResourceExt) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl Snapshot ===

impl<V> Snapshot<V> {
    /// The object of this name.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Arc<V>> {
        self.objects.get(key)
    }

    /// The objects about a pod, in the order of their names.
    pub(crate) fn of_pod(&self, pod: &PodRef) -> &[Arc<V>] {
        self.by_pod.get(pod).map_or(&[], Vec::as_slice)
    }
}

impl<V> Clone for Snapshot<V> {
    fn clone(&self) -> Self {
        Self { synced: self.synced, objects: self.objects.clone(), by_pod: self.by_pod.clone() }
    }
}

// === impl Table ===

impl<V> Table<V> {
    /// The present objects.
    pub(crate) fn now(&self) -> Snapshot<V> {
        self.0.borrow().clone()
    }

    /// The present objects; [`Table::changed`] then waits for others.
    pub(crate) fn latest(&mut self) -> Snapshot<V> {
        self.0.borrow_and_update().clone()
    }

    /// Resolves when there are other objects than [`Table::latest`] saw last; never again once the
    /// writer is gone.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when the objects have been listed once.
    pub(crate) async fn synced(&mut self) {
        while !self.latest().synced {
            self.changed().await;
        }
    }
}

impl<V> Clone for Table<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

// === impl TableWriter ===

impl<V: PartialEq + Send + Sync + 'static> TableWriter<V> {
    /// An empty table that has not been listed.
    pub(crate) fn new() -> (Self, Table<V>) {
        let (objects, by_pod) = (Arc::default(), Arc::default());
        let (snapshots, receiver) = watch::channel(Snapshot { synced: false, objects, by_pod });
        let this = Self { snapshots, live: BTreeMap::new(), listing: None, pod_of: None };
        (this, Table(receiver))
    }

    /// The same for objects that are about pods.
    pub(crate) fn by_pod(pod_of: fn(&V) -> &PodRef) -> (Self, Table<V>) {
        let (writer, table) = Self::new();
        (Self { pod_of: Some(pod_of), ..writer }, table)
    }

    /// Keeps the table up to date until shutdown. `project` says what is kept of an object, and
    /// that of objects which cannot be read or mean nothing here nothing is.
    pub(crate) async fn keep<K>(
        mut self,
        api: Api<DeserializeGuard<Slim<K>>>,
        config: watcher::Config,
        (what, metrics): (Watch, HostMetrics),
        shutdown: Shutdown,
        project: impl Fn(K) -> Option<V>,
    ) where
        K: Readable + Clone + Debug + Send + 'static,
    {
        follow(api, config, (what, metrics), shutdown, |event| {
            self.handle(event, |guarded| match guarded.0 {
                Ok(Slim(object)) => project(object),
                Err(InvalidObject { error, metadata }) => {
                    let (namespace, name) = (metadata.namespace, metadata.name);
                    let object =
                        ObjectKey::new(namespace.unwrap_or_default(), name.unwrap_or_default());
                    tracing::warn!(watch = what.as_str(), %object, %error, "Object is unreadable");
                    None
                }
            });
        })
        .await;
    }

    /// Takes one event in.
    pub(crate) fn handle<K: Resource>(
        &mut self,
        event: Event<K>,
        project: impl Fn(K) -> Option<V>,
    ) {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let listing = self.listing.get_or_insert_default();
                let key = ObjectKey::of(&object);
                if let Some(value) = project(object) {
                    listing.insert(key, Arc::new(value));
                }
            }
            Event::InitDone => {
                self.live = self.listing.take().unwrap_or_default();
                self.publish();
            }
            Event::Apply(object) => {
                let key = ObjectKey::of(&object);
                match project(object) {
                    Some(value) => self.live.insert(key, Arc::new(value)),
                    None => self.live.remove(&key),
                };
                self.publish();
            }
            Event::Delete(object) => {
                self.live.remove(&ObjectKey::of(&object));
                self.publish();
            }
        }
    }

    /// Wakes the readers, but only if there is something new: pods change many times a minute in
    /// ways that do not matter here.
    fn publish(&self) {
        self.snapshots.send_if_modified(|snapshot| {
            let news = !snapshot.synced || *snapshot.objects != self.live;
            if news {
                let (objects, by_pod) = (Arc::new(self.live.clone()), Arc::new(self.grouped()));
                *snapshot = Snapshot { synced: true, objects, by_pod };
            }
            news
        });
    }

    fn grouped(&self) -> ByPod<V> {
        let mut by_pod = ByPod::new();
        if let Some(pod_of) = self.pod_of {
            for object in self.live.values() {
                by_pod.entry(pod_of(object).clone()).or_default().push(object.clone());
            }
        }
        by_pod
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    impl<V: PartialEq + Send + Sync + 'static> TableWriter<V> {
        /// Replaces all objects, as a list would.
        pub(crate) fn set(&mut self, objects: impl IntoIterator<Item = (ObjectKey, V)>) {
            self.live = objects.into_iter().map(|(key, value)| (key, Arc::new(value))).collect();
            self.publish();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, value: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("n".to_owned());
        object.metadata.name = Some(name.to_owned());
        object.data = Some(BTreeMap::from([("v".to_owned(), value.to_owned())]));
        object
    }

    fn value(object: ConfigMap) -> Option<String> {
        object.data?.remove("v").filter(|text| !text.is_empty())
    }

    fn held(table: &Table<String>) -> Vec<String> {
        let objects = table.now().objects;
        objects.iter().map(|(key, value)| format!("{}={value}", key.name)).collect()
    }

    #[test]
    fn a_relist_replaces_the_objects_at_its_end_and_not_before() {
        let (mut writer, table) = TableWriter::new();
        writer.handle(Event::Init, value);
        writer.handle(Event::InitApply(object("a", "1")), value);
        assert!(!table.now().synced);
        writer.handle(Event::InitDone, value);
        assert!(table.now().synced);
        assert_eq!(held(&table), ["a=1"]);

        writer.handle(Event::Init, value);
        writer.handle(Event::InitApply(object("b", "2")), value);
        assert_eq!(held(&table), ["a=1"], "kept until the new list is complete");
        writer.handle(Event::InitDone, value);
        assert_eq!(held(&table), ["b=2"]);
    }

    #[test]
    fn what_projects_to_nothing_is_removed() {
        let (mut writer, table) = TableWriter::new();
        writer.handle(Event::InitDone, value);
        writer.handle(Event::Apply(object("a", "1")), value);
        assert_eq!(held(&table), ["a=1"]);
        writer.handle(Event::Apply(object("a", "")), value);
        assert!(held(&table).is_empty());
    }

    #[tokio::test]
    async fn readers_are_woken_by_news_only() {
        let (mut writer, mut table) = TableWriter::new();
        writer.handle(Event::InitDone, value);
        writer.handle(Event::Apply(object("a", "1")), value);
        table.latest();
        writer.handle(Event::Apply(object("a", "1")), value);
        assert!(table.changed().now_or_never().is_none(), "nothing is new");
        writer.handle(Event::Delete(object("a", "1")), value);
        assert!(table.changed().now_or_never().is_some());
    }
}
