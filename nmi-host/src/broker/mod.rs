//! A pod's token: finds the pod's identity, has the token minted or taken from the cache. Both
//! servers end here; who the pod is was settled before.

mod finder;
mod served;
#[cfg(test)]
pub(crate) mod testing;
mod waits;

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use api::matching::Scope;
use api::node_api::{Assertion, Assignment, NodeError, NodeErrorCode, TokenResponse};
use api::{CorrelationId, IdentitySelector, TokenHash};
use token_cache::{Budget, GetError, Hit, Request, TokenCache};
use tokio::time::Instant;

use crate::assigned::AssignedView;
use crate::caller::{Caller, ServiceAccount};
use crate::crowd::Crowd;
use crate::mint::{MintError, MintKey, Minter, PodAssertions, Resource, Token};
use crate::pods::{PodRef, PodView};
use crate::watched::{ObjectKey, Table};
use finder::Finder;

/// Hands out tokens for pods of this node. Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    finder: Finder,
    tokens: TokenCache<Minter>,
    turns: Crowd<PodRef>,
    failures: Arc<Budget>,
}

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
    /// A token that does not serve any more: another one is wanted.
    pub(crate) rejected: Option<TokenHash>,
    /// What logs and Azure call the request.
    pub(crate) correlation: CorrelationId,
}

/// Token requests of one pod at a time, those included whose callers have left. A sidecar makes
/// four at a time and gives each up before a slow fetch ends.
const TURNS_OF_A_POD: usize = 16;

/// Failures that are logged for everybody to see: so many at once, then one each so often. A pod
/// can make as many as it likes.
const LOGGED: (u32, Duration) = (50, Duration::from_secs(1));

// === impl Ask ===

impl Ask {
    /// For a token of the only identity, without patience.
    pub(crate) fn of(resource: Resource) -> Self {
        Self {
            resource,
            selector: None,
            patience: Duration::ZERO,
            assertion: None,
            rejected: None,
            correlation: CorrelationId::of_bits(rand::random()),
        }
    }

    fn rejects(&self, token: &Token) -> bool {
        self.rejected.is_some_and(|hash| hash == TokenHash::of(&token.secret))
    }
}

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
            finder: Finder::new(assigned, pods, scope),
            tokens,
            turns: Crowd::new(TURNS_OF_A_POD),
            failures: Arc::new(Budget::new(LOGGED.0, LOGGED.1)),
        }
    }

    /// A token of one of the pod's identities.
    pub(crate) async fn token(
        &self,
        caller: &Caller,
        ask: &Ask,
    ) -> Result<TokenResponse, NodeError> {
        let answer = self.find_and_fetch(caller, ask).await;
        match &answer {
            Ok(_) => tracing::debug!(
                correlation_id = %ask.correlation,
                pod.namespace = caller.pod.namespace,
                pod.name = caller.pod.name,
                resource = ask.resource.as_str(),
                "Token answered"
            ),
            Err(error) => self.tell(caller, ask, error),
        }
        answer
    }

    /// What the controller and the sidecar bring about by themselves is nobody's failure yet.
    fn tell(&self, caller: &Caller, ask: &Ask, error: &NodeError) {
        let passes =
            matches!(error.code, NodeErrorCode::NotAssigned | NodeErrorCode::AssertionRequired);
        let (pod, identity) = (&caller.pod, ask.selector.as_ref().map(tracing::field::display));
        let (correlation_id, resource) = (&ask.correlation, ask.resource.as_str());
        let code = error.code.as_str();
        if passes || !self.failures.take(Instant::now()) {
            tracing::debug!(
                %correlation_id, pod.namespace, pod.name, identity, resource, code, %error,
                "No token for a pod"
            );
        } else {
            tracing::warn!(
                %correlation_id, pod.namespace, pod.name, identity, resource, code, %error,
                "No token for a pod"
            );
        }
    }

    async fn find_and_fetch(&self, caller: &Caller, ask: &Ask) -> Result<TokenResponse, NodeError> {
        let pod = &caller.pod;
        let view = self.finder.identity(pod, ask).await?;
        let key = MintKey::new(&view, ask.resource.clone(), caller.account.as_ref())?;
        let account = key.account().cloned();
        if let Some(account) = &account {
            self.prepare_exchange(account, &key, ask)?;
        }
        let hit = self.fetch(pod, key, ask).await?;
        self.finder.served(pod, ask);
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
        ask: &Ask,
    ) -> Result<(), NodeError> {
        let assertions = self.assertions();
        let unfit = ask.assertion.as_ref().and_then(|sent| assertions.keep(account, sent).err());
        if let Some(reason) = &unfit {
            tracing::warn!(%account, %reason, "Assertion of a pod cannot be used");
        }
        let cached = self.tokens.peek(key);
        let serves = cached.as_ref().is_some_and(|hit| !ask.rejects(&hit.value));
        match (unfit, cached) {
            _ if serves || assertions.of(account).is_some() => Ok(()),
            (None, _) => Err(MintError::assertion_required().into()),
            (Some(_), Some(_)) => Ok(()),
            (Some(reason), None) => {
                let text = format!("the pod's federated token cannot be used: {reason}");
                Err(NodeError::new(NodeErrorCode::Refused, text))
            }
        }
    }

    /// What pods have shown of themselves.
    pub(crate) fn assertions(&self) -> &PodAssertions {
        self.tokens.source().assertions()
    }

    /// The token of a key. One that is there is answered here and now. A fetch outlives a caller who leaves, and with it the caller's turn: who
    /// asks for ever new tokens and leaves must not fill the node's queue to Azure.
    async fn fetch(&self, pod: &PodRef, key: MintKey, ask: &Ask) -> Result<Hit<Token>, NodeError> {
        if let Some(hit) = self.tokens.get_now(&key).filter(|hit| !ask.rejects(&hit.value)) {
            return Ok(hit);
        }
        let turn = self.turns.enter(pod.clone()).ok_or_else(too_many)?;
        let (tokens, ask) = (self.tokens.clone(), ask.clone());
        let mut getting = Box::pin(async move {
            let _turn = turn;
            let rejects = |token: &Token| ask.rejects(token);
            let request = Request::default().traced(ask.correlation.shared()).rejecting(&rejects);
            tokens.get_with(&key, &request).await
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
        self.finder.assignment(pod, wait).await
    }

    /// The live pod of this name on this node.
    pub(crate) async fn pod(&self, key: &ObjectKey) -> Result<PodRef, NodeError> {
        self.finder.pod(key).await
    }
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

/// Whether the token comes near the half of its life: what its renewal takes should be here when
/// the cache begins with it, which is up to a tenth earlier.
fn is_aging(hit: &Hit<Token>) -> bool {
    let lifetime = hit.value.expires_on.saturating_sub(hit.value.not_before);
    hit.remaining < Duration::from_secs(lifetime).mul_f64(0.65)
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
mod tests {
    use futures::FutureExt;

    use super::testing::fixture;
    use super::*;
    use crate::assigned::testing::{assigned, pod};
    use crate::caller::testing::caller;
    use crate::testing::CLIENT;

    fn ask() -> Ask {
        Ask::of("r".parse().unwrap())
    }

    #[test]
    fn a_token_is_aging_shortly_before_half_of_its_life_is_over() {
        for (remaining, expected) in [(1000, false), (651, false), (649, true), (1, true)] {
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
}
