//! A broker whose tables a test writes.

use token_cache::Policy;

use super::*;
use crate::metrics::HostMetrics;
use crate::mint::Imds;
use crate::watched::TableWriter;

/// A broker whose tables a test writes.
pub(crate) struct Fixture {
    pub(crate) broker: Broker,
    pub(crate) assigned: TableWriter<AssignedView>,
    pub(crate) pods: TableWriter<PodView>,
}

pub(crate) fn fixture(imds: &str) -> Fixture {
    fixture_of(Minter::of_imds(Imds::new(imds, HostMetrics::detached()), HostMetrics::detached()))
}

pub(crate) fn fixture_of(minter: Minter) -> Fixture {
    let ((assigned, a), (pods, p)) = (AssignedView::table(), TableWriter::new());
    let tokens = TokenCache::new(minter, Policy::default());
    Fixture { broker: Broker::new(a, p, tokens, Scope::Cluster), assigned, pods }
}

impl Fixture {
    pub(crate) fn assign(&mut self, views: impl IntoIterator<Item = AssignedView>) {
        let named = |(number, view)| (ObjectKey::new("team", format!("a{number}")), view);
        self.assigned.set(views.into_iter().enumerate().map(named));
    }

    /// Lists the pod `team/web-0` with a uid.
    pub(crate) fn run_pod(&mut self, uid: &str) {
        let pod = PodView { uid: uid.to_owned(), live: true, ..PodView::default() };
        self.pods.set([(ObjectKey::new("team", "web-0"), pod)]);
    }
}
