//! The identities that the controller assigned to pods of this node.

mod view;

use std::sync::Arc;

pub(crate) use view::AssignedView;
#[cfg(test)]
pub(crate) use view::testing;

use crate::pods::PodRef;
use crate::watched::Snapshot;

/// Those of a pod, in the order of their objects' names. A scan: a node has a few hundred.
pub(crate) fn of_pod(snapshot: &Snapshot<AssignedView>, pod: &PodRef) -> Vec<Arc<AssignedView>> {
    let of_pod = |view: &&Arc<AssignedView>| {
        view.pod.uid == pod.uid && view.pod.name == pod.name && view.pod.namespace == pod.namespace
    };
    snapshot.objects.values().filter(of_pod).cloned().collect()
}
