//! A local copy of every namespace's labels and of its annotations that are ours, kept by a watch.

use std::collections::BTreeSet;
use std::time::Duration;

use api::Slim;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector::store::Writer};
use kube::{Api, Client, ResourceExt};
use runtime::{Latch, Shutdown};
use tokio::sync::watch;

use crate::namespace_view::{NamespaceView, OptIn};

type Meta = Slim<PartialObjectMeta<Namespace>>;

/// The copy; clones share it.
#[derive(Clone)]
pub struct Namespaces {
    store: Store<Meta>,
    changes: watch::Receiver<()>,
    opted_in: watch::Receiver<BTreeSet<String>>,
}

/// What keeps the copy up to date.
pub struct NamespaceWatch {
    writer: Writer<Meta>,
    changes: watch::Sender<()>,
    opted_in: watch::Sender<BTreeSet<String>>,
}

// === impl Namespaces ===

impl Namespaces {
    /// An empty copy, and what fills it.
    pub fn new() -> (Self, NamespaceWatch) {
        let (reader, writer) = store();
        let (changes, changed) = watch::channel(());
        let (names, opted_in) = watch::channel(BTreeSet::new());
        let copy = Self { store: reader, changes: changed, opted_in };
        (copy, NamespaceWatch { writer, changes, opted_in: names })
    }

    /// The names of the namespaces that are opted in; none until all have been seen.
    pub fn opted_in(&self) -> watch::Receiver<BTreeSet<String>> {
        self.opted_in.clone()
    }

    /// What is known of a namespace.
    pub fn get(&self, name: &str) -> NamespaceView {
        let found = self.store.get(&ObjectRef::new(name));
        found.map_or_else(NamespaceView::unknown, |namespace| view(&namespace))
    }

    /// What is known of a namespace that the API server knows to be enabled; waits for the watch
    /// to learn of it, but not for ever.
    pub async fn enabled(&self, name: &str, patience: Duration) -> NamespaceView {
        let mut changes = self.changes.clone();
        let caught_up = async {
            loop {
                changes.mark_unchanged();
                let view = self.get(name);
                if view.opt_in() == OptIn::Enabled || changes.changed().await.is_err() {
                    return view;
                }
            }
        };
        match tokio::time::timeout(patience, caught_up).await {
            Ok(view) => view,
            Err(_) => {
                tracing::warn!(namespace = name, "The watch of namespaces is behind");
                self.get(name)
            }
        }
    }
}

impl std::fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespaces").field("known", &self.store.len()).finish_non_exhaustive()
    }
}

// === impl NamespaceWatch ===

impl NamespaceWatch {
    /// Watches until shutdown; `ready` is set once all namespaces have been seen. After that, a
    /// watch that fails leaves the last copy in place.
    pub async fn run(self, client: Client, ready: Latch, shutdown: Shutdown) {
        let Self { mut writer, changes, opted_in } = self;
        let reader = writer.as_reader();
        let api: Api<Meta> = Api::all(client);
        let stream = watcher(api, watcher::Config::default())
            .default_backoff()
            .take_until(async { shutdown.begun().await });
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    let complete = matches!(event, Event::InitDone);
                    writer.apply_watcher_event(&event);
                    if complete {
                        ready.set(true);
                    }
                    changes.send_replace(());
                    let names = opted_in_of(&reader);
                    opted_in.send_if_modified(|known| {
                        let modified = *known != names;
                        *known = names;
                        modified
                    });
                }
                Err(error) => tracing::warn!(%error, "Cannot watch namespaces, retrying"),
            }
        }
    }
}

fn view(namespace: &Meta) -> NamespaceView {
    NamespaceView::known(namespace.labels().clone(), namespace.annotations().clone())
}

fn opted_in_of(store: &Store<Meta>) -> BTreeSet<String> {
    let enabled = |namespace: &Meta| view(namespace).opt_in() == OptIn::Enabled;
    store.state().iter().filter(|namespace| enabled(namespace)).map(|n| n.name_any()).collect()
}
