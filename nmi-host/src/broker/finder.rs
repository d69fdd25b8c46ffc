//! Which identity, or which pod, a request means, waiting for it where waiting helps: woken by the
//! watch, never by the clock alone.

use std::sync::Arc;
use std::time::Duration;

use api::matching::Scope;
use api::node_api::{
    AssignedIdentitySummary, Assignment, AssignmentState, NodeError, NodeErrorCode,
};
use tokio::time::{Instant, timeout_at};

use super::Ask;
use super::served::Served;
use super::waits::Waits;
use crate::assigned::{AssignedView, of_pod};
use crate::pods::{PodRef, PodView};
use crate::select::{SelectError, bound, select};
use crate::watched::{ObjectKey, Table};

/// Finds in what the watches see. Clones share what they remember.
#[derive(Clone, Debug)]
pub(super) struct Finder {
    assigned: Table<AssignedView>,
    pods: Table<PodView>,
    scope: Scope,
    served: Arc<Served>,
    for_bindings: Arc<Waits<PodRef>>,
    for_pods: Arc<Waits<ObjectKey>>,
}

/// How long a token request waits for a first identity: the controller needs a moment for a new
/// pod.
const BINDING: Duration = Duration::from_secs(3);

/// How long it waits for the first list of the watch.
const SYNCING: Duration = Duration::from_secs(5);

// === impl Finder ===

impl Finder {
    pub(super) fn new(assigned: Table<AssignedView>, pods: Table<PodView>, scope: Scope) -> Self {
        Self {
            assigned,
            pods,
            scope,
            served: Arc::default(),
            for_bindings: Arc::default(),
            for_pods: Arc::default(),
        }
    }

    /// The identity that a request means, the moment it is assigned.
    ///
    /// What was served before and is gone is not on its way: it was taken away, and the pod is told
    /// at once, so that its cached token stops working at once.
    pub(super) async fn identity(
        &self,
        pod: &PodRef,
        ask: &Ask,
    ) -> Result<Arc<AssignedView>, NodeError> {
        let mut assigned = self.assigned.clone();
        let begun = Instant::now();
        loop {
            let snapshot = assigned.latest();
            let (error, deadline) = if snapshot.synced {
                let views = of_pod(&snapshot, pod);
                match select(views, ask.selector.as_ref(), &pod.namespace, self.scope) {
                    Ok(view) => return Ok(view.clone()),
                    Err(error) if self.served.has_had(pod, ask.selector.as_ref()) => {
                        return Err(error.into());
                    }
                    Err(error) => {
                        let deadline = self.deadline(&error, pod, begun + ask.patience);
                        (NodeError::from(error), deadline)
                    }
                }
            } else {
                (not_synced(), begun + SYNCING)
            };
            if is_over(deadline, assigned.changed()).await {
                return Err(error);
            }
        }
    }

    /// Until when it can help to wait. What is definitive is answered at once.
    fn deadline(&self, error: &SelectError, pod: &PodRef, attached: Instant) -> Instant {
        match error {
            SelectError::Pending(_) => attached,
            SelectError::Unbound => self.for_bindings.deadline(pod, BINDING),
            SelectError::NotFound | SelectError::Ambiguous => Instant::now(),
        }
    }

    /// Takes note of a token that was handed out.
    pub(super) fn served(&self, pod: &PodRef, ask: &Ask) {
        self.served.remember(pod, ask.selector.as_ref(), &self.pods);
    }

    /// The pod's identities, as soon as all are assigned or the wait is over.
    pub(super) async fn assignment(
        &self,
        pod: &PodRef,
        wait: Duration,
    ) -> Result<Assignment, NodeError> {
        let mut assigned = self.assigned.clone();
        let deadline = Instant::now() + wait;
        loop {
            let snapshot = assigned.latest();
            let found = snapshot
                .synced
                .then(|| self.summary(of_pod(&snapshot, pod), pod))
                .ok_or_else(not_synced);
            let done = matches!(&found, Ok(found) if found.state == AssignmentState::Assigned);
            if done || timeout_at(deadline, assigned.changed()).await.is_err() {
                return found;
            }
        }
    }

    fn summary(&self, views: &[Arc<AssignedView>], pod: &PodRef) -> Assignment {
        let summary = |view: &Arc<AssignedView>| AssignedIdentitySummary {
            namespace: view.identity.namespace.clone(),
            name: view.identity.name.clone(),
            assigned: view.is_assigned(),
            message: view.message.clone().or(view.problem.clone()),
        };
        let identities: Vec<_> = bound(views, &pod.namespace, self.scope).map(summary).collect();
        let state = if identities.is_empty() {
            AssignmentState::None
        } else if identities.iter().all(|identity| identity.assigned) {
            AssignmentState::Assigned
        } else {
            AssignmentState::Pending
        };
        Assignment { state, identities }
    }

    /// The live pod of this name on this node, which may be seen a moment after its namesake's
    /// caller asks.
    pub(super) async fn pod(&self, key: &ObjectKey) -> Result<PodRef, NodeError> {
        let mut pods = self.pods.clone();
        let begun = Instant::now();
        loop {
            let snapshot = pods.latest();
            if let Some(pod) = snapshot.get(key).filter(|pod| pod.live) {
                let (namespace, name) = (key.namespace.clone(), key.name.clone());
                return Ok(PodRef { namespace, name, uid: pod.uid.clone() });
            }
            let (error, deadline) = if snapshot.synced {
                let text = "no running pod of this namespace and name is on this node";
                let error = NodeError::new(NodeErrorCode::NotAssigned, text);
                (error, self.for_pods.deadline(key, BINDING))
            } else {
                (not_synced(), begun + SYNCING)
            };
            if is_over(deadline, pods.changed()).await {
                return Err(error);
            }
        }
    }
}

/// Waits for something new; whether the time was over first. A timer would take a millisecond to
/// find out that it was over before.
async fn is_over(deadline: Instant, news: impl Future<Output = ()>) -> bool {
    deadline <= Instant::now() || timeout_at(deadline, news).await.is_err()
}

fn not_synced() -> NodeError {
    let text = "this node's agent has not seen the assignments yet; try again in a moment";
    NodeError { code: NodeErrorCode::Unavailable, message: text.to_owned(), retry_after: Some(1) }
}

#[cfg(test)]
mod tests {
    use api::{AssignedState, IdentitySelector};
    use futures::FutureExt;

    use super::*;
    use crate::assigned::testing::{assigned, pod};
    use crate::broker::testing::{Fixture, fixture};
    use crate::testing::CLIENT;

    fn created() -> AssignedView {
        AssignedView { state: AssignedState::Created, ..assigned("db", Some(CLIENT)) }
    }

    fn nowhere() -> (Fixture, Finder) {
        let node = fixture("http://127.0.0.1:9");
        let finder = node.broker.finder.clone();
        (node, finder)
    }

    const ATTACHING: Duration = Duration::from_secs(20);

    fn ask() -> Ask {
        Ask { patience: ATTACHING, ..Ask::of("r".parse().unwrap()) }
    }

    #[tokio::test(start_paused = true)]
    async fn an_identity_is_found_the_moment_it_is_assigned() {
        let (mut node, finder) = nowhere();
        node.assign([]);
        let asking = finder.clone();
        let begun = Instant::now();
        let waiting = tokio::spawn(async move { asking.identity(&pod(), &ask()).await });
        tokio::time::advance(Duration::from_secs(2)).await;
        node.assign([created()]);
        tokio::time::advance(Duration::from_secs(10)).await;
        node.assign([assigned("db", Some(CLIENT))]);
        let view = waiting.await.unwrap().unwrap();
        assert_eq!(view.identity.name, "db");
        assert_eq!(begun.elapsed(), Duration::from_secs(12), "no time passed since");
    }

    #[tokio::test(start_paused = true)]
    async fn waits_end_by_what_is_waited_for() {
        let cases = [
            (None, NodeErrorCode::Unavailable, SYNCING),
            (Some(vec![]), NodeErrorCode::NotAssigned, BINDING),
            (Some(vec![created()]), NodeErrorCode::NotAssigned, ATTACHING),
            (
                Some(vec![assigned("a", None), assigned("b", None)]),
                NodeErrorCode::AmbiguousIdentity,
                Duration::ZERO,
            ),
        ];
        for (views, code, patience) in cases {
            let (mut node, finder) = nowhere();
            if let Some(views) = views {
                node.assign(views);
            }
            let begun = Instant::now();
            let error = finder.identity(&pod(), &ask()).await.unwrap_err();
            assert_eq!((error.code, begun.elapsed()), (code, patience));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_served_and_is_gone_is_told_at_once() {
        let (mut node, finder) = nowhere();
        finder.served(&pod(), &ask());
        let by_client_id =
            Ask { selector: Some(IdentitySelector::ClientId(CLIENT.parse().unwrap())), ..ask() };
        for views in [vec![], vec![created()]] {
            node.assign(views);
            let begun = Instant::now();
            let error = finder.identity(&pod(), &ask()).await.unwrap_err();
            assert_eq!((error.code, begun.elapsed()), (NodeErrorCode::NotAssigned, Duration::ZERO));
            finder.identity(&pod(), &by_client_id).await.unwrap_err();
            assert!(begun.elapsed() >= BINDING, "another name may be one that is coming");
        }
    }

    #[tokio::test]
    async fn another_pods_identities_are_not_this_pods() {
        let (mut node, finder) = nowhere();
        type Change = fn(&mut PodRef);
        let changes: [Change; 3] = [
            |pod| pod.uid = "uid-2".to_owned(),
            |pod| pod.namespace = "other".to_owned(),
            |pod| pod.name = "web-1".to_owned(),
        ];
        node.assign([assigned("db", Some(CLIENT))]);
        assert!(finder.identity(&pod(), &ask()).now_or_never().unwrap().is_ok());
        for change in changes {
            let mut other = pod();
            change(&mut other);
            assert!(finder.identity(&other, &ask()).now_or_never().is_none(), "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_assignment_is_answered_when_all_is_assigned_or_the_wait_is_over() {
        let (mut node, finder) = nowhere();
        node.assign([created(), assigned("web", None)]);
        let wait = Duration::from_secs(30);
        let begun = Instant::now();
        let pending = finder.assignment(&pod(), wait).await.unwrap();
        assert_eq!((pending.state, begun.elapsed()), (AssignmentState::Pending, wait));
        assert_eq!(pending.identities.len(), 2);

        let asking = finder.clone();
        let waiting = tokio::spawn(async move { asking.assignment(&pod(), wait).await });
        tokio::time::advance(Duration::from_secs(1)).await;
        node.assign([assigned("db", None), assigned("web", None)]);
        let begun = Instant::now();
        let done = waiting.await.unwrap().unwrap();
        assert_eq!((done.state, begun.elapsed()), (AssignmentState::Assigned, Duration::ZERO));

        node.assign([]);
        let none = finder.assignment(&pod(), Duration::ZERO).await.unwrap();
        assert_eq!((none.state, none.identities.len()), (AssignmentState::None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_means_the_pod_that_has_it_now() {
        let (mut node, finder) = nowhere();
        let key = ObjectKey::new("team", "web-0");
        node.run_pod("uid-1");
        assert_eq!(finder.pod(&key).await.unwrap(), pod());
        node.run_pod("uid-2");
        assert_eq!(finder.pod(&key).await.unwrap().uid, "uid-2");

        node.pods.set([(key.clone(), PodView { uid: "uid-2".to_owned(), ..PodView::default() })]);
        let begun = Instant::now();
        let ended = finder.pod(&key).await.unwrap_err();
        assert_eq!((ended.code, begun.elapsed()), (NodeErrorCode::NotAssigned, BINDING));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_without_a_binding_waits_once_and_is_served_the_moment_there_is_one() {
        let (mut node, finder) = nowhere();
        node.assign([]);
        finder.identity(&pod(), &ask()).await.unwrap_err();
        let begun = Instant::now();
        for _ in 0..100 {
            let error = finder.identity(&pod(), &ask()).await.unwrap_err();
            assert_eq!(error.code, NodeErrorCode::NotAssigned);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let other = PodRef { uid: "uid-2".to_owned(), ..pod() };
        finder.identity(&other, &ask()).await.unwrap_err();
        assert_eq!(begun.elapsed(), BINDING, "another pod may be a new one");
        node.assign([assigned("db", Some(CLIENT))]);
        assert!(finder.identity(&pod(), &ask()).now_or_never().unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_wrong_client_id_is_told_at_once() {
        let (mut node, finder) = nowhere();
        node.assign([assigned("db", Some(CLIENT))]);
        let wrong = "00000000-0000-0000-0000-0000000000ff".parse().unwrap();
        let ask = Ask { selector: Some(IdentitySelector::ClientId(wrong)), ..ask() };
        let answer = finder.identity(&pod(), &ask).now_or_never().unwrap();
        assert_eq!(answer.unwrap_err().code, NodeErrorCode::IdentityNotFound);
    }
}
