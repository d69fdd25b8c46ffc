//! Carries what the caches hold into the picture of the cluster, object by object.

use std::collections::HashSet;
use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;
use kube::runtime::reflector::store::Store;

use crate::cluster::Cluster;
use crate::overlay::Overlay;
use crate::snapshot::ObjectKey;
use crate::watch::{Cached, Keys, Stores, Touched};

/// Tells the cluster of everything that was touched. Own writes that the caches do not show yet
/// are believed instead of them.
pub(crate) fn feed(
    stores: &Stores,
    touched: Touched,
    (cluster, overlay): (&mut Cluster, &mut Overlay),
) {
    for at in named(&stores.pods, touched.pods, cluster) {
        cluster.set_pod(&at, get(&stores.pods, &at));
    }
    for at in named(&stores.nodes, touched.nodes, cluster) {
        cluster.set_node(&at.name, get(&stores.nodes, &at).as_deref());
    }
    for at in named(&stores.identities, touched.identities, cluster) {
        cluster.set_identity(&at, get(&stores.identities, &at));
    }
    for at in named(&stores.bindings, touched.bindings, cluster) {
        cluster.set_binding(&at, get(&stores.bindings, &at));
    }
    for at in named(&stores.attachments, touched.attachments, cluster) {
        cluster.set_record(&at, get(&stores.attachments, &at).as_deref());
    }
    for at in named(&stores.assigned, touched.assigned, cluster) {
        feed_assigned(stores, &at, (cluster, overlay));
    }
}

/// Tells the cluster of one assigned identity.
pub(crate) fn feed_assigned(
    stores: &Stores,
    at: &ObjectKey,
    (cluster, overlay): (&mut Cluster, &mut Overlay),
) {
    let cached = get(&stores.assigned, at);
    cluster.set_assigned(at, overlay.over(at, cached));
}

/// The objects that were touched; if any may have been, those that are cached and those that were.
fn named<K: Cached>(store: &Store<K>, keys: Keys, cluster: &Cluster) -> HashSet<ObjectKey> {
    match keys {
        Keys::Some(keys) => keys,
        Keys::All => {
            let cached = store.state();
            let cached = cached.iter().map(|object| ObjectKey::of(&**object));
            cached.chain(cluster.held(K::KIND)).collect()
        }
    }
}

fn get<K: Cached>(store: &Store<K>, at: &ObjectKey) -> Option<Arc<K>> {
    let object = ObjectRef::<K>::new(&at.name);
    store.get(&if at.namespace.is_empty() { object } else { object.within(&at.namespace) })
}
