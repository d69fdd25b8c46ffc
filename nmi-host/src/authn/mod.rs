//! Who calls: the pod that a projected service account token is bound to, as the API server says.
//!
//! Never an address, never a header that a pod can choose. Verdicts are remembered for a while so
//! that tokens can be had while the API server is away.

mod review;
mod verdicts;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::TokenHash;
use api::node_api::{NodeError, NodeErrorCode};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::{HeaderMap, header};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

#[cfg(test)]
pub(crate) use review::fixtures;
pub(crate) use review::{ReviewError, Reviewer};
use verdicts::{Known, Verdicts};

use crate::caller::Caller;
use crate::crowd::Crowd;
use crate::jwt;
use crate::metrics::{HostMetrics, ReviewResult};

/// Tells which pod calls. Clones share what they know.
#[derive(Clone)]
pub(crate) struct Authenticator(Arc<Inner>);

struct Inner {
    reviewer: Reviewer,
    metrics: HostMetrics,
    verdicts: Mutex<Verdicts>,
    flights: Mutex<HashMap<TokenHash, Flight>>,
    places: Semaphore,
    peers: Crowd<IpAddr>,
}

type Verdict = Result<Caller, ReviewError>;
type Flight = Shared<BoxFuture<'static, Verdict>>;

/// Longer than any projected token; longer texts are not worth the API server's time.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Reviews under way at a time: a pod that sends nonsense must not make this node a burden for
/// the API server.
const MAX_REVIEWS: usize = 16;

/// Those among them, waiting or not, that one address asked for. A sidecar has one token; a caller
/// who sends others and leaves would otherwise fill the queue for everybody. The address is
/// counted and trusted for nothing.
const REVIEWS_OF_A_PEER: usize = 8;

/// How long a caller waits for a review, its place in the queue included.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a caller who is known waits for it. Less than a sidecar waits for a confirmation of its
/// cached token: an API server that hangs must not make it look as if the agent did.
const KNOWN_CALLERS_WAIT: Duration = Duration::from_millis(500);

// === impl Authenticator ===

impl Authenticator {
    /// An authenticator that knows nobody yet.
    pub(crate) fn new(reviewer: Reviewer, metrics: HostMetrics) -> Self {
        Self(Arc::new(Inner {
            reviewer,
            metrics,
            verdicts: Mutex::default(),
            flights: Mutex::default(),
            places: Semaphore::new(MAX_REVIEWS),
            peers: Crowd::new(REVIEWS_OF_A_PEER),
        }))
    }

    /// The pod, with its service account, whose token a request carries that came from `peer`.
    pub(crate) async fn caller(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<Caller, NodeError> {
        let token = bearer(headers).ok_or_else(|| {
            NodeError::new(
                NodeErrorCode::Unauthenticated,
                "send the pod's projected token as `Authorization: Bearer <token>`",
            )
        })?;
        self.authenticated(token, peer).await.map_err(NodeError::from)
    }

    async fn authenticated(&self, token: &str, peer: IpAddr) -> Verdict {
        let hash = TokenHash::of(token);
        let known = self.0.verdicts.lock().look(&hash, Instant::now());
        let fallback = match known {
            Known::Fresh(verdict) => return verdict,
            Known::Stale(caller) => Some(caller),
            Known::No => None,
        };
        let wait = if fallback.is_some() { KNOWN_CALLERS_WAIT } else { REVIEW_TIMEOUT };
        let reviewed = match self.flight(hash, token, peer) {
            // What comes later is for the next request.
            Some(flight) => timeout(wait, flight).await.unwrap_or(Err(ReviewError::Unavailable)),
            None => Err(ReviewError::Unavailable),
        };
        match (reviewed, fallback) {
            // The token was good: an API server that is away is no reason to cut a pod off.
            (Err(ReviewError::Unavailable), Some(caller)) => Ok(caller),
            (verdict, _) => verdict,
        }
    }

    /// The review of a token: the one under way, or a new one. Its own task, so that a caller who
    /// leaves takes nobody else's answer away. None if the peer has too many under way.
    fn flight(&self, hash: TokenHash, token: &str, peer: IpAddr) -> Option<Flight> {
        let mut flights = self.0.flights.lock();
        // One that has ended but is still here panicked: it must not be the answer for ever.
        if let Some(flight) = flights.get(&hash).filter(|flight| flight.peek().is_none()) {
            return Some(flight.clone());
        }
        let place = self.0.peers.enter(peer)?;
        let (inner, token) = (self.0.clone(), token.to_owned());
        let task = tokio::spawn(async move {
            let _place = place;
            inner.review(hash, &token).await
        });
        let flight = task.map(|end| end.unwrap_or(Err(ReviewError::Unavailable))).boxed().shared();
        flights.insert(hash, flight.clone());
        Some(flight)
    }
}

// === impl Inner ===

impl Inner {
    async fn review(&self, hash: TokenHash, token: &str) -> Verdict {
        let reviewed = timeout(REVIEW_TIMEOUT, async {
            // The semaphore is never closed.
            let _place = self.places.acquire().await;
            self.reviewer.review(token).await
        });
        let verdict = reviewed.await.unwrap_or(Err(ReviewError::Unavailable));
        self.metrics.reviewed(match &verdict {
            Ok(_) => ReviewResult::Authenticated,
            Err(ReviewError::Rejected) => ReviewResult::Rejected,
            Err(ReviewError::WrongNode) => ReviewResult::WrongNode,
            Err(ReviewError::Unavailable) => ReviewResult::Unavailable,
        });
        let (now, life) = (Instant::now(), remaining_life(token, SystemTime::now()));
        self.verdicts.lock().settle(hash, &verdict, life, now);
        self.flights.lock().remove(&hash);
        verdict
    }
}

/// The token of a request: one `Authorization` header with the scheme `Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let plausible = scheme.eq_ignore_ascii_case("bearer")
        && !token.is_empty()
        && token.len() <= MAX_TOKEN_BYTES
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    plausible.then_some(token)
}

/// How long the token says that it lives; nothing if it does not say.
fn remaining_life(token: &str, now: SystemTime) -> Duration {
    #[derive(Deserialize)]
    struct Expiry {
        exp: u64,
    }
    let expiry = jwt::claims::<Expiry>(token).map_or(0, |claims| claims.exp);
    let expiry = UNIX_EPOCH.checked_add(Duration::from_secs(expiry)).unwrap_or(UNIX_EPOCH);
    expiry.duration_since(now).unwrap_or_default()
}

// === impl NodeError ===

impl From<ReviewError> for NodeError {
    fn from(error: ReviewError) -> Self {
        let code = match error {
            ReviewError::Rejected => NodeErrorCode::Unauthenticated,
            ReviewError::WrongNode => NodeErrorCode::WrongNode,
            ReviewError::Unavailable => NodeErrorCode::Unavailable,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response, StatusCode};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower_test::mock::Handle;

    use super::fixtures::{AUDIENCE, NODE, accepted};
    use super::*;
    use crate::jwt::testing::unsigned;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    type Api = Handle<Request<Body>, Response<Body>>;

    fn authenticator() -> (Authenticator, Api) {
        let (service, handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let client = kube::Client::new(service, "default");
        let reviewer = Reviewer::new(client, AUDIENCE.to_owned(), NODE.to_owned());
        (Authenticator::new(reviewer, HostMetrics::detached()), handle)
    }

    fn headers(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    /// A token that expires in so many seconds.
    fn token(seconds: u64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        unsigned(&json!({"exp": now + seconds}))
    }

    async fn answer(api: &mut Api, status: StatusCode, body: Value) -> Value {
        let (request, send) = api.next_request().await.expect("a review is asked for");
        assert_eq!(request.uri().path(), "/apis/authentication.k8s.io/v1/tokenreviews");
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        let body = Body::from(serde_json::to_vec(&body).unwrap());
        send.send_response(Response::builder().status(status).body(body).unwrap());
        serde_json::from_slice(&sent).unwrap()
    }

    /// A pod that calls again and again with one token.
    struct Pod {
        authenticator: Authenticator,
        headers: HeaderMap,
        api: Api,
    }

    impl Pod {
        /// With a token of which so many seconds are left.
        fn with(seconds: u64) -> Self {
            let (authenticator, api) = authenticator();
            Self { authenticator, headers: headers(&token(seconds)), api }
        }

        async fn calls(&self) -> Result<Caller, NodeError> {
            self.authenticator.caller(&self.headers, PEER).await
        }

        /// The same; the API server is asked about the token and answers so.
        async fn is_reviewed(&mut self, body: Value) -> Result<Caller, NodeError> {
            let status = body["code"].as_u64().map_or(201, |code| u16::try_from(code).unwrap());
            let status = StatusCode::from_u16(status).unwrap();
            let call = self.authenticator.caller(&self.headers, PEER);
            tokio::join!(call, answer(&mut self.api, status, body)).0
        }
    }

    #[tokio::test]
    async fn callers_with_one_token_share_one_review_and_its_verdict() {
        let (authenticator, mut api) = authenticator();
        let headers = headers(&token(3600));
        let callers =
            futures::future::join_all((0..20).map(|_| authenticator.caller(&headers, PEER)));
        let (pods, sent) = tokio::join!(callers, answer(&mut api, StatusCode::CREATED, accepted()));
        assert_eq!(sent["spec"]["audiences"], json!([AUDIENCE]));
        for pod in pods {
            assert_eq!(pod.unwrap().pod.name, "web-0");
        }
        // Nobody answers a second review: it would hang.
        assert_eq!(authenticator.caller(&headers, PEER).await.unwrap().pod.uid, "uid-1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_token_outlives_the_api_server_and_its_own_end_by_half_a_day() {
        let mut pod = Pod::with(3600);
        pod.is_reviewed(accepted()).await.unwrap();

        tokio::time::advance(Duration::from_secs(301)).await;
        let down = json!({"kind": "Status", "status": "Failure", "code": 500, "message": "x"});
        let caller = pod.is_reviewed(down.clone()).await;
        assert_eq!(caller.unwrap().pod.name, "web-0", "served from the older review");
        // The next one does not even ask, for a moment.
        assert_eq!(pod.calls().await.unwrap().pod.name, "web-0");

        for (hours, expected) in [(1, true), (11, true), (2, false)] {
            tokio::time::advance(Duration::from_secs(hours * 3600)).await;
            let caller = pod.is_reviewed(down.clone()).await;
            match caller {
                Ok(caller) => assert!(expected && caller.pod.name == "web-0", "{hours}"),
                Err(error) => {
                    assert_eq!((error.code, expected), (NodeErrorCode::Unavailable, false));
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_ended_token_is_no_good_to_an_api_server_that_answers() {
        let mut pod = Pod::with(60);
        pod.is_reviewed(accepted()).await.unwrap();
        tokio::time::advance(Duration::from_secs(61)).await;
        let rejected = json!({"status": {"authenticated": false, "error": "expired"}});
        let caller = pod.is_reviewed(rejected).await;
        assert_eq!(caller.unwrap_err().code, NodeErrorCode::Unauthenticated);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_hangs_makes_a_known_caller_wait_half_a_second_each_five() {
        let mut pod = Pod::with(3600);
        pod.is_reviewed(accepted()).await.unwrap();
        tokio::time::advance(Duration::from_secs(301)).await;
        let begun = Instant::now();
        assert_eq!(pod.calls().await.unwrap().pod.name, "web-0");
        assert_eq!(begun.elapsed(), KNOWN_CALLERS_WAIT);
        tokio::time::sleep(REVIEW_TIMEOUT).await;
        let begun = Instant::now();
        pod.calls().await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO, "it is left alone for a while");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejection_replaces_what_was_known_and_is_forgotten_soon() {
        let mut pod = Pod::with(3600);
        let rejected = json!({"status": {"authenticated": false, "error": "expired"}});
        pod.is_reviewed(accepted()).await.unwrap();
        tokio::time::advance(Duration::from_secs(301)).await;
        let caller = pod.is_reviewed(rejected).await;
        assert_eq!(caller.unwrap_err().code, NodeErrorCode::Unauthenticated);
        let error = pod.calls().await.unwrap_err();
        assert_eq!(error.code, NodeErrorCode::Unauthenticated, "remembered");

        tokio::time::advance(Duration::from_secs(11)).await;
        let caller = pod.is_reviewed(accepted()).await;
        assert_eq!(caller.unwrap().pod.name, "web-0");
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_hangs_makes_the_caller_wait_five_seconds() {
        let (authenticator, _api) = authenticator();
        let begun = Instant::now();
        let error = authenticator.caller(&headers(&token(3600)), PEER).await.unwrap_err();
        assert_eq!(error.code, NodeErrorCode::Unavailable);
        assert_eq!(begun.elapsed(), REVIEW_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_nonsense_and_leaves_takes_its_own_turns_only() {
        let (authenticator, mut api) = authenticator();
        let begun = Instant::now();
        for seconds in 1..=REVIEWS_OF_A_PEER as u64 {
            let nonsense = headers(&token(seconds));
            let left = authenticator.caller(&nonsense, PEER).now_or_never();
            assert_eq!(left, None, "its review goes on");
        }
        let error = authenticator.caller(&headers(&token(60)), PEER).await.unwrap_err();
        assert_eq!((error.code, begun.elapsed()), (NodeErrorCode::Unavailable, Duration::ZERO));

        let other = "10.0.0.2".parse().unwrap();
        let mine = headers(&token(3600));
        let answers = async {
            for _ in 0..=REVIEWS_OF_A_PEER {
                answer(&mut api, StatusCode::CREATED, accepted()).await;
            }
        };
        let (pod, ()) = tokio::join!(authenticator.caller(&mine, other), answers);
        assert_eq!(pod.unwrap().pod.name, "web-0");
        authenticator.caller(&headers(&token(60)), PEER).now_or_never();
        assert_eq!(authenticator.0.flights.lock().len(), 1, "there are turns again");
    }

    #[test]
    fn only_one_well_formed_bearer_header_counts() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(with(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(with(&["bearer abc"]).as_deref(), Some("abc"));
        let long = format!("Bearer {}", "x".repeat(MAX_TOKEN_BYTES + 1));
        for bad in [
            &[][..],
            &["Basic abc"],
            &["Bearer"],
            &["Bearer "],
            &["Bearer a b"],
            &["Bearer a", "Bearer a"],
            &[&long],
        ] {
            assert_eq!(with(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_token_without_expiry_is_not_kept() {
        let now = UNIX_EPOCH + Duration::from_secs(100);
        let life = |claims: Value| remaining_life(&unsigned(&claims), now).as_secs();
        assert_eq!(life(json!({"exp": 160})), 60);
        assert_eq!(life(json!({"exp": 99})), 0);
        assert_eq!(life(json!({})), 0);
        assert_eq!(remaining_life("opaque", now).as_secs(), 0);
    }
}
