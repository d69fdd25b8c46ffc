//! The identities that the controller assigned to pods of this node.

mod view;

use std::sync::Arc;

pub(crate) use view::AssignedView;
#[cfg(test)]
pub(crate) use view::testing;

use crate::pods::PodRef;
use crate::watched::{Snapshot, Table, TableWriter};

/// Those of a pod, in the order of their objects' names.
pub(crate) fn of_pod<'a>(
    snapshot: &'a Snapshot<AssignedView>,
    pod: &PodRef,
) -> &'a [Arc<AssignedView>] {
    snapshot.of_pod(pod)
}

impl AssignedView {
    /// A table of them, ordered by pod.
    pub(crate) fn table() -> (TableWriter<Self>, Table<Self>) {
        TableWriter::by_pod(|view| &view.pod)
    }
}
