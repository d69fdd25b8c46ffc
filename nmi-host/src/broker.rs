//! A pod's token: finds the pod's identity, waits for it where waiting helps, has the token minted
//! or taken from the cache. Both servers end here; who the pod is was settled before.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use api::IdentitySelector;
use api::matching::Scope;
use api::node_api::{
    Assertion, AssignedIdentitySummary, Assignment, AssignmentState, NodeError, NodeErrorCode,
    TokenResponse,
};
use parking_lot::Mutex;
use token_cache::{GetError, Hit, TokenCache};
use tokio::time::{Instant, timeout_at};

use crate::assigned::{AssignedView, of_pod};
use crate::caller::{Caller, ServiceAccount};
use crate::crowd::Crowd;
use crate::mint::{MintError, MintKey, Minter, PodAssertions, Resource, Token};
use crate::pods::{PodRef, PodView};
use crate::select::{SelectError, bound, select};
use crate::watched::{ObjectKey, Table};

/// Hands out tokens for pods of this node. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    assigned: Table<AssignedView>,
    pods: Table<PodView>,
    tokens: TokenCache<Minter>,
    scope: Scope,
    served: Arc<Mutex<HashSet<Served>>>,
    turns: Crowd<PodRef>,
}

/// Who got a token, and by which name of the identity.
type Served = (PodRef, Option<IdentitySelector>);

/// What a pod asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The token's audience.
    pub(crate) resource: Resource,
    /// Which identity, or the only one.
    pub(crate) selector: Option<IdentitySelector>,
    /// How long to wait at most for an identity that is being attached.
    pub(crate) patience: Duration,
    /// The pod's own service account token for Entra, if it was sent.
    pub(crate) assertion: Option<Assertion>,
}

/// How long a token request waits for a first identity: the controller needs a moment for a new
/// pod.
const BINDING: Duration = Duration::from_secs(3);

/// How long it waits for the first list of the watch.
const SYNCING: Duration = Duration::from_secs(5);

/// Token requests of one pod at a time, those included whose callers have left. A sidecar makes
/// four at a time and gives each up before a slow fetch ends.
const TURNS_OF_A_POD: usize = 16;

/// Pods times names of their identities, before those of ended pods are forgotten.
const MAX_SERVED: usize = 4096;

// === impl Broker ===

impl Broker {
    /// A broker over what the watches see.
    pub(crate) fn new(
        assigned: Table<AssignedView>,
        pods: Table<PodView>,
        tokens: TokenCache<Minter>,
        scope: Scope,
    ) -> Self {
        Self {
            assigned,
            pods,
            tokens,
            scope,
            served: Arc::default(),
            turns: Crowd::new(TURNS_OF_A_POD),
        }
    }

    /// A token of one of the pod's identities.
    pub(crate) async fn token(
        &self,
        caller: &Caller,
        ask: &Ask,
    ) -> Result<TokenResponse, NodeError> {
        let pod = &caller.pod;
        let view = self.identity(pod, ask).await?;
        let key = MintKey::new(&view, ask.resource.clone(), caller.account.as_ref())?;
        let account = key.account().cloned();
        if let Some(account) = &account {
            self.prepare_exchange(account, &key, ask.assertion.as_ref())?;
        }
        let hit = self.fetch(pod, key).await?;
        self.remember(pod, ask);
        let wanted = account
            .is_some_and(|account| is_aging(&hit) && self.assertions().of(&account).is_none());
        Ok(TokenResponse { assertion_wanted: wanted, ..response(hit, &ask.resource) })
    }

    /// Takes the assertion in that was sent, and asks for one if no token can be had without. Where
    /// a token lives, a bad assertion is no reason to refuse it.
    fn prepare_exchange(
        &self,
        account: &ServiceAccount,
        key: &MintKey,
        sent: Option<&Assertion>,
    ) -> Result<(), NodeError> {
        let assertions = self.assertions();
        let unfit = sent.and_then(|sent| assertions.keep(account, sent).err());
        if let Some(reason) = &unfit {
            tracing::warn!(%account, %reason, "Assertion of a pod cannot be used");
        }
        if assertions.of(account).is_some() || self.tokens.peek(key).is_some() {
            return Ok(());
        }
        Err(match unfit {
            Some(reason) => {
                let text = format!("the pod's federated token cannot be used: {reason}");
                NodeError::new(NodeErrorCode::Refused, text)
            }
            None => MintError::assertion_required().into(),
        })
    }

    /// What pods have shown of themselves.
    pub(crate) fn assertions(&self) -> &PodAssertions {
        self.tokens.source().assertions()
    }

    /// The token of a key. A fetch outlives a caller who leaves, and with it the caller's turn: who
    /// asks for ever new tokens and leaves must not fill the node's queue to Azure.
    async fn fetch(&self, pod: &PodRef, key: MintKey) -> Result<Hit<Token>, NodeError> {
        let turn = self.turns.enter(pod.clone()).ok_or_else(too_many)?;
        let tokens = self.tokens.clone();
        let mut getting = Box::pin(async move {
            let _turn = turn;
            tokens.get(&key).await
        });
        let got = match futures::poll!(&mut getting) {
            Poll::Ready(got) => got,
            Poll::Pending => tokio::spawn(getting).await.unwrap_or(Err(GetError::Lost)),
        };
        got.map_err(unavailable)
    }

    /// The pod's identities, as soon as all are assigned or the wait is over.
    pub(crate) async fn assignment(
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
                .then(|| self.summary(&of_pod(&snapshot, pod), pod))
                .ok_or_else(not_synced);
            let done = matches!(&found, Ok(found) if found.state == AssignmentState::Assigned);
            if done || timeout_at(deadline, assigned.changed()).await.is_err() {
                return found;
            }
        }
    }

    /// The live pod of this name on this node, which may be seen a moment after its namesake's
    /// caller asks.
    pub(crate) async fn pod(&self, key: &ObjectKey) -> Result<PodRef, NodeError> {
        let mut pods = self.pods.clone();
        let begun = Instant::now();
        loop {
            let snapshot = pods.latest();
            if let Some(pod) = snapshot.get(key).filter(|pod| pod.live) {
                let (namespace, name) = (key.namespace.clone(), key.name.clone());
                return Ok(PodRef { namespace, name, uid: pod.uid.clone() });
            }
            let (error, patience) = if snapshot.synced {
                let text = "no running pod of this namespace and name is on this node";
                (NodeError::new(NodeErrorCode::NotAssigned, text), BINDING)
            } else {
                (not_synced(), SYNCING)
            };
            if timeout_at(begun + patience, pods.changed()).await.is_err() {
                return Err(error);
            }
        }
    }

    /// The identity that a request means. Woken by the watch, so that it is found the moment it
    /// is assigned.
    ///
    /// What was served before and is gone is not on its way: it was taken away, and the pod is told
    /// at once, so that its cached token stops working at once.
    async fn identity(&self, pod: &PodRef, ask: &Ask) -> Result<Arc<AssignedView>, NodeError> {
        let mut assigned = self.assigned.clone();
        let begun = Instant::now();
        let had_it = self.served.lock().contains(&(pod.clone(), ask.selector.clone()));
        loop {
            let snapshot = assigned.latest();
            let (error, patience) = if snapshot.synced {
                let views = of_pod(&snapshot, pod);
                match select(&views, ask.selector.as_ref(), &pod.namespace, self.scope) {
                    Ok(view) => return Ok(view.clone()),
                    Err(error) if had_it => return Err(error.into()),
                    Err(error) => {
                        let patience = patience(&error, ask.patience);
                        (NodeError::from(error), patience)
                    }
                }
            } else {
                (not_synced(), SYNCING)
            };
            if timeout_at(begun + patience, assigned.changed()).await.is_err() {
                return Err(error);
            }
        }
    }

    fn remember(&self, pod: &PodRef, ask: &Ask) {
        let mut served = self.served.lock();
        if served.len() >= MAX_SERVED {
            let pods = self.pods.now();
            let alive: BTreeSet<&str> = pods.objects.values().map(|pod| pod.uid.as_str()).collect();
            served.retain(|(pod, _)| alive.contains(pod.uid.as_str()));
        }
        // A full set forgets nobody who matters: at worst a removal is told a few seconds later.
        if served.len() < MAX_SERVED {
            served.insert((pod.clone(), ask.selector.clone()));
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
}

/// How long it can help to wait. What is definitive is answered at once.
fn patience(error: &SelectError, attaching: Duration) -> Duration {
    match error {
        SelectError::Pending(_) => attaching,
        SelectError::Unbound => BINDING,
        SelectError::NotFound | SelectError::Ambiguous => Duration::ZERO,
    }
}

fn not_synced() -> NodeError {
    let text = "this node's agent has not seen the assignments yet; try again in a moment";
    NodeError { code: NodeErrorCode::Unavailable, message: text.to_owned(), retry_after: Some(1) }
}

fn too_many() -> NodeError {
    let text = "too many token requests of this pod are under way; try again in a second";
    NodeError { code: NodeErrorCode::Throttled, message: text.to_owned(), retry_after: Some(1) }
}

fn unavailable(error: GetError<MintError>) -> NodeError {
    match error {
        GetError::Source(error) => error.into(),
        GetError::Overloaded | GetError::Lost => NodeError {
            code: NodeErrorCode::Unavailable,
            message: error.to_string(),
            retry_after: Some(1),
        },
    }
}

/// Whether the token is past half of its life, or nearly: what its renewal takes should be here
/// when the cache, which is not exact about the half, begins with it.
fn is_aging(hit: &Hit<Token>) -> bool {
    let lifetime = hit.value.expires_on.saturating_sub(hit.value.not_before);
    hit.remaining < Duration::from_secs(lifetime).mul_f64(0.55)
}

fn response(hit: Hit<Token>, resource: &Resource) -> TokenResponse {
    TokenResponse {
        access_token: hit.value.secret,
        token_type: "Bearer".to_owned(),
        resource: resource.as_str().to_owned(),
        client_id: hit.value.client_id.to_string(),
        expires_on: hit.value.expires_on,
        not_before: hit.value.not_before,
        expires_in: hit.remaining.as_secs(),
        assertion_wanted: false,
        auxiliary: hit.value.auxiliary,
    }
}

#[cfg(test)]
pub(crate) mod testing {
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
        fixture_of(Minter::of_imds(
            Imds::new(imds, HostMetrics::detached()),
            HostMetrics::detached(),
        ))
    }

    pub(crate) fn fixture_of(minter: Minter) -> Fixture {
        let ((assigned, a), (pods, p)) = (TableWriter::new(), TableWriter::new());
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
}

#[cfg(test)]
mod tests {
    use api::AssignedState;
    use futures::FutureExt;

    use super::testing::{Fixture, fixture};
    use super::*;
    use crate::assigned::testing::{assigned, pod};
    use crate::caller::testing::caller;
    use crate::testing::CLIENT;

    fn created() -> AssignedView {
        AssignedView { state: AssignedState::Created, ..assigned("db", Some(CLIENT)) }
    }

    fn nowhere() -> Fixture {
        fixture("http://127.0.0.1:9")
    }

    const ATTACHING: Duration = Duration::from_secs(20);

    fn ask() -> Ask {
        Ask { resource: "r".parse().unwrap(), selector: None, patience: ATTACHING, assertion: None }
    }

    #[test]
    fn a_token_is_aging_shortly_before_half_of_its_life_is_over() {
        for (remaining, expected) in [(1000, false), (551, false), (549, true), (1, true)] {
            let value = Token {
                secret: String::new(),
                client_id: CLIENT.parse().unwrap(),
                expires_on: 6000,
                not_before: 5000,
                auxiliary: Vec::new(),
            };
            let hit = Hit { value, remaining: Duration::from_secs(remaining) };
            assert_eq!(is_aging(&hit), expected, "{remaining}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_identity_is_found_the_moment_it_is_assigned() {
        let mut node = nowhere();
        node.assign([]);
        let broker = node.broker.clone();
        let begun = Instant::now();
        let waiting = tokio::spawn(async move { broker.identity(&pod(), &ask()).await });
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
            let mut node = nowhere();
            if let Some(views) = views {
                node.assign(views);
            }
            let begun = Instant::now();
            let error = node.broker.identity(&pod(), &ask()).await.unwrap_err();
            assert_eq!((error.code, begun.elapsed()), (code, patience));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_served_and_is_gone_is_told_at_once() {
        let mut node = nowhere();
        node.broker.remember(&pod(), &ask());
        let by_client_id =
            Ask { selector: Some(IdentitySelector::ClientId(CLIENT.parse().unwrap())), ..ask() };
        for views in [vec![], vec![created()]] {
            node.assign(views);
            let begun = Instant::now();
            let error = node.broker.identity(&pod(), &ask()).await.unwrap_err();
            assert_eq!((error.code, begun.elapsed()), (NodeErrorCode::NotAssigned, Duration::ZERO));
            node.broker.identity(&pod(), &by_client_id).await.unwrap_err();
            assert!(begun.elapsed() >= BINDING, "another name may be one that is coming");
        }
    }

    #[tokio::test]
    async fn those_who_were_served_are_forgotten_with_their_pods() {
        let mut node = nowhere();
        node.run_pod("uid-1");
        node.broker.remember(&pod(), &ask());
        for number in 0..MAX_SERVED {
            let ended = PodRef { uid: format!("gone-{number}"), ..pod() };
            node.broker.remember(&ended, &ask());
        }
        let served = node.broker.served.lock();
        assert!(served.len() <= 2, "{}", served.len());
        assert!(served.contains(&(pod(), None)));
    }

    #[tokio::test]
    async fn a_pod_that_asks_and_leaves_takes_its_own_turns_only() {
        // Accepts and never answers.
        let imds = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut node = fixture(&format!("http://{}", imds.local_addr().unwrap()));
        let other = PodRef { uid: "uid-2".to_owned(), ..pod() };
        let others = AssignedView { pod: other.clone(), ..assigned("web", Some(CLIENT)) };
        node.assign([assigned("db", Some(CLIENT)), others]);
        let of = |number: usize| Ask { resource: format!("r{number}").parse().unwrap(), ..ask() };
        for number in 0..TURNS_OF_A_POD {
            let left = node.broker.token(&caller(), &of(number)).now_or_never();
            assert_eq!(left, None, "its fetch goes on");
        }
        let refused = node.broker.token(&caller(), &of(99)).now_or_never();
        assert_eq!(refused.unwrap().unwrap_err().code, NodeErrorCode::Throttled);
        assert_eq!(
            node.broker.token(&Caller::of_node(other), &ask()).now_or_never(),
            None,
            "it has its turn"
        );
    }

    #[tokio::test]
    async fn another_pods_identities_are_not_this_pods() {
        let mut node = nowhere();
        type Change = fn(&mut PodRef);
        let changes: [Change; 3] = [
            |pod| pod.uid = "uid-2".to_owned(),
            |pod| pod.namespace = "other".to_owned(),
            |pod| pod.name = "web-1".to_owned(),
        ];
        node.assign([assigned("db", Some(CLIENT))]);
        assert!(node.broker.identity(&pod(), &ask()).now_or_never().unwrap().is_ok());
        for change in changes {
            let mut other = pod();
            change(&mut other);
            assert!(node.broker.identity(&other, &ask()).now_or_never().is_none(), "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_assignment_is_answered_when_all_is_assigned_or_the_wait_is_over() {
        let mut node = nowhere();
        node.assign([created(), assigned("web", None)]);
        let wait = Duration::from_secs(30);
        let begun = Instant::now();
        let pending = node.broker.assignment(&pod(), wait).await.unwrap();
        assert_eq!((pending.state, begun.elapsed()), (AssignmentState::Pending, wait));
        assert_eq!(pending.identities.len(), 2);

        let broker = node.broker.clone();
        let waiting = tokio::spawn(async move { broker.assignment(&pod(), wait).await });
        tokio::time::advance(Duration::from_secs(1)).await;
        node.assign([assigned("db", None), assigned("web", None)]);
        let begun = Instant::now();
        let done = waiting.await.unwrap().unwrap();
        assert_eq!((done.state, begun.elapsed()), (AssignmentState::Assigned, Duration::ZERO));

        node.assign([]);
        let none = node.broker.assignment(&pod(), Duration::ZERO).await.unwrap();
        assert_eq!((none.state, none.identities.len()), (AssignmentState::None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_means_the_pod_that_has_it_now() {
        let mut node = nowhere();
        let key = ObjectKey::new("team", "web-0");
        node.run_pod("uid-1");
        assert_eq!(node.broker.pod(&key).await.unwrap(), pod());
        node.run_pod("uid-2");
        assert_eq!(node.broker.pod(&key).await.unwrap().uid, "uid-2");

        node.pods.set([(key.clone(), PodView { uid: "uid-2".to_owned(), ..PodView::default() })]);
        let begun = Instant::now();
        let ended = node.broker.pod(&key).await.unwrap_err();
        assert_eq!((ended.code, begun.elapsed()), (NodeErrorCode::NotAssigned, BINDING));
    }
}
