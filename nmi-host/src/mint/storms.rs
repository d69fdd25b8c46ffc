//! Many pods and a failing Azure on a paused clock: the agent's cache, the pace, the circuit and the
//! second calls together, with the caches of sidecars in front.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::seq::SliceRandom;
use token_cache::testing::Agent;
use token_cache::{Call, FetchError, Fetched, Source};
use tokio::time::{Instant, sleep, timeout};

use super::OUTAGE;
use super::gate::Pace;
use super::upstream::{Manner, Upstream};
use crate::metrics::{HostMetrics, Issuer};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What no client is kept waiting for longer.
const BUDGET: Duration = Duration::from_secs(25);

/// Of so many calls in a row a test says how many fail.
const DECK: usize = 8;

/// A metadata service that counts what is asked of it.
#[derive(Clone)]
struct Imds(Arc<Mutex<Books>>);

struct Books {
    latency: Duration,
    /// How many of [`DECK`] calls fail.
    failing: usize,
    /// How the next calls end, in an order by chance. Not each call by its own: a client can only be
    /// promised an answer if failures do not go on for ever.
    deck: Vec<bool>,
    calls: usize,
    under_way: usize,
    most_under_way: usize,
    last_second: VecDeque<Instant>,
    most_in_a_second: usize,
}

impl Imds {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Books {
            latency: Duration::from_millis(40),
            failing: 0,
            deck: Vec::new(),
            calls: 0,
            under_way: 0,
            most_under_way: 0,
            last_second: VecDeque::new(),
            most_in_a_second: 0,
        })))
    }

    fn becomes(&self, latency: Duration, failing: usize) {
        let mut books = self.0.lock();
        (books.latency, books.failing) = (latency, failing);
        books.deck.clear();
    }

    fn calls(&self) -> usize {
        self.0.lock().calls
    }

    /// One call; whether it is answered.
    async fn call(self) -> bool {
        let (latency, answered) = {
            let mut books = self.0.lock();
            let now = Instant::now();
            books.calls += 1;
            books.under_way += 1;
            books.most_under_way = books.most_under_way.max(books.under_way);
            while books.last_second.front().is_some_and(|at| now >= *at + Duration::from_secs(1)) {
                books.last_second.pop_front();
            }
            books.last_second.push_back(now);
            books.most_in_a_second = books.most_in_a_second.max(books.last_second.len());
            (books.latency, books.answers())
        };
        sleep(latency).await;
        self.0.lock().under_way -= 1;
        answered
    }
}

impl Books {
    /// Whether the next call is answered.
    fn answers(&mut self) -> bool {
        if self.deck.is_empty() {
            self.deck = (0..DECK).map(|call| call >= self.failing).collect();
            self.deck.shuffle(&mut rand::rng());
        }
        self.deck.pop().is_none_or(|answered| answered)
    }
}

/// The agent's way to that service.
struct Way {
    imds: Imds,
    upstream: Upstream,
}

impl Source for Way {
    type Key = u32;
    type Value = u32;
    type Error = &'static str;

    async fn fetch(
        &self,
        key: u32,
        call: Call<u32>,
    ) -> Result<Fetched<u32>, FetchError<&'static str>> {
        let manner = Manner { urgent: call.urgent, failed: |answered: &bool| !answered };
        match self.upstream.call(|| self.imds.clone().call(), manner).await {
            Ok(true) => Ok(Fetched { value: key, lifetime: DAY }),
            Ok(false) => Err(FetchError::transient("failed")),
            Err(_) => Err(FetchError::transient("not called")),
        }
    }

    fn patience(&self, _: &FetchError<&'static str>) -> Duration {
        OUTAGE
    }
}

fn node() -> (Imds, Agent<Way>) {
    let imds = Imds::new();
    let upstream = Upstream::new(Issuer::Imds, Pace::IMDS, HostMetrics::detached());
    (imds.clone(), Agent::of(Way { imds, upstream }))
}

#[tokio::test(start_paused = true)]
async fn two_hundred_pods_that_refresh_at_once_stay_within_what_imds_allows() {
    let (imds, node) = node();
    for key in 0..200 {
        node.cache.get(&key).await.unwrap();
    }
    let keeper = node.clone();
    let upkeep = tokio::spawn(async move { keeper.cache.keep_fresh().await });
    tokio::time::advance(DAY / 2).await;
    // All at once, each by the request of a pod, and those of the upkeep beside them.
    let sidecars: Vec<_> = (0..200).map(|key| (key, node.sidecar())).collect();
    let requests = sidecars.iter().map(async |(key, sidecar)| {
        let begun = Instant::now();
        assert_eq!(sidecar.get(key).await.map(|hit| hit.value), Ok(*key));
        assert_eq!(begun.elapsed(), Duration::ZERO, "answered from the cache");
    });
    futures::future::join_all(requests).await;
    sleep(Duration::from_secs(120)).await;
    let books = imds.0.lock();
    assert_eq!(books.calls, 400, "each token was replaced once");
    assert!(books.most_under_way <= 5, "{}", books.most_under_way);
    assert!(books.most_in_a_second <= 20, "{}", books.most_in_a_second);
    upkeep.abort();
}

#[tokio::test(start_paused = true)]
async fn two_hundred_cold_pods_stay_within_what_imds_allows_and_are_all_served() {
    let (imds, node) = node();
    let sidecars: Vec<_> = (0..200).map(|key| (key, node.sidecar())).collect();
    let requests = sidecars.iter().map(async |(key, sidecar)| {
        let answer = timeout(BUDGET, sidecar.get(key)).await.expect("within the budget");
        assert_eq!(answer.map(|hit| hit.value), Ok(*key));
    });
    futures::future::join_all(requests).await;
    let books = imds.0.lock();
    assert!(books.calls <= 220, "{}", books.calls);
    assert!(books.most_under_way <= 5, "{}", books.most_under_way);
    assert!(books.most_in_a_second <= 20, "{}", books.most_in_a_second);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_and_ten_pods_with_one_identity_are_one_call() {
    let (imds, node) = node();
    let sidecars: Vec<_> = (0..110).map(|_| node.sidecar()).collect();
    let requests = sidecars.iter().map(async |sidecar| sidecar.get(&7).await.unwrap().value);
    assert!(futures::future::join_all(requests).await.iter().all(|value| *value == 7));
    assert_eq!(imds.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_hundred_cold_pods_and_a_dead_imds_are_no_storm() {
    let (imds, node) = node();
    imds.becomes(Duration::from_millis(40), DECK);
    let sidecars: Vec<_> = (0..200).map(|key| (key, node.sidecar())).collect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(300) {
        let requests = sidecars.iter().map(async |(key, sidecar)| {
            // The sidecar answers 503 when the budget is used up.
            assert!(!timeout(BUDGET, sidecar.get(key)).await.is_ok_and(|answer| answer.is_ok()));
        });
        futures::future::join_all(requests).await;
        sleep(Duration::from_secs(1)).await;
    }
    let calls = imds.calls();
    assert!((30..=70).contains(&calls), "a probe each ten seconds: {calls}");
    imds.becomes(Duration::from_millis(40), 0);
    let late = node.sidecar();
    let answer = timeout(BUDGET, late.get(&999)).await.expect("within the budget");
    assert_eq!(answer.map(|hit| hit.value), Ok(999), "noticed by the next probe");
}

#[tokio::test(start_paused = true)]
async fn every_second_call_failing_after_two_seconds_for_five_minutes_reaches_no_client() {
    let mut slowest = Duration::ZERO;
    for _ in 0..40 {
        let (imds, node) = node();
        let warm: Vec<_> = (0..8).map(|key| (key, node.sidecar())).collect();
        for (key, sidecar) in &warm {
            sidecar.get(key).await.unwrap();
        }
        imds.becomes(Duration::from_secs(2), DECK / 2);
        let mut cold = Vec::new();
        // Each ten seconds a pod that has no token yet, and all that have one.
        for key in 100..130 {
            let sidecar = node.sidecar();
            cold.push(tokio::spawn(async move {
                let begun = Instant::now();
                let answer = timeout(BUDGET, sidecar.get(&key)).await.expect("within the budget");
                assert_eq!(answer.map(|hit| hit.value), Ok(key), "a client that never retries");
                begun.elapsed()
            }));
            for (key, sidecar) in &warm {
                let begun = Instant::now();
                assert_eq!(sidecar.get(key).await.map(|hit| hit.value), Ok(*key));
                assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
            }
            sleep(Duration::from_secs(10)).await;
        }
        for request in cold {
            slowest = slowest.max(request.await.unwrap());
        }
        assert!(imds.0.lock().most_under_way <= 5);
    }
    assert!(slowest > Duration::from_secs(4), "somebody had to wait: {slowest:?}");
}
