//! Outages on a paused clock, through the two caches that a token passes: the sidecar's and, behind
//! it, the one of the node's agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use token_cache::testing::Agent;
use token_cache::{Call, FetchError, Fetched, Source, TokenCache};
use tokio::time::{Instant, sleep, timeout};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What no client is kept waiting for longer.
const BUDGET: Duration = Duration::from_secs(25);

/// Azure, whose answers a test makes fail and slow.
#[derive(Clone)]
struct Azure(Arc<State>);

struct State {
    /// The share of calls that fail.
    failing: Mutex<f64>,
    latency: Mutex<Duration>,
    chance: Mutex<SmallRng>,
    calls: AtomicUsize,
}

impl Azure {
    fn new(seed: u64) -> Self {
        Self(Arc::new(State {
            failing: Mutex::new(0.0),
            latency: Mutex::new(Duration::from_millis(30)),
            chance: Mutex::new(SmallRng::seed_from_u64(seed)),
            calls: AtomicUsize::new(0),
        }))
    }

    fn fails(&self, share: f64) {
        *self.0.failing.lock() = share;
    }

    fn takes(&self, latency: Duration) {
        *self.0.latency.lock() = latency;
    }

    fn calls(&self) -> usize {
        self.0.calls.load(Ordering::Relaxed)
    }
}

impl Source for Azure {
    type Key = u32;
    type Value = u32;
    type Error = &'static str;

    async fn fetch(
        &self,
        key: u32,
        _: Call<u32>,
    ) -> Result<Fetched<u32>, FetchError<&'static str>> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        let latency = *self.0.latency.lock();
        sleep(latency).await;
        let share = *self.0.failing.lock();
        if self.0.chance.lock().random_bool(share) {
            return Err(FetchError::transient("down"));
        }
        Ok(Fetched { value: key, lifetime: DAY })
    }

    fn patience(&self, _: &FetchError<&'static str>) -> Duration {
        Duration::from_secs(20)
    }
}

/// A node: Azure, the agent's cache and the sidecars' caches.
struct Node {
    azure: Azure,
    agent: Agent<Azure>,
    sidecars: Vec<TokenCache<Agent<Azure>>>,
    upkeep: Vec<tokio::task::JoinHandle<()>>,
}

impl Node {
    fn new(seed: u64, sidecars: usize) -> Self {
        let azure = Azure::new(seed);
        let agent = Agent::of(azure.clone());
        let sidecars: Vec<_> = (0..sidecars).map(|_| agent.sidecar()).collect();
        let keeper = agent.cache.clone();
        let mut upkeep = vec![tokio::spawn(async move { keeper.keep_fresh().await })];
        for cache in sidecars.clone() {
            upkeep.push(tokio::spawn(async move { cache.keep_fresh().await }));
        }
        Self { azure, agent, sidecars, upkeep }
    }

    /// Asks every sidecar for the token of its key once a minute for so long, and says how long the
    /// slowest answer took.
    async fn ask_each_minute(&self, long: Duration) -> Duration {
        let end = Instant::now() + long;
        let mut slowest = Duration::ZERO;
        while Instant::now() < end {
            for (key, cache) in (0..).zip(&self.sidecars) {
                let begun = Instant::now();
                let answer = cache.get(&key).await;
                assert_eq!(answer.map(|hit| hit.value), Ok(key), "{:?} to go", end - begun);
                slowest = slowest.max(begun.elapsed());
            }
            sleep(MINUTE).await;
        }
        slowest
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for task in &self.upkeep {
            task.abort();
        }
    }
}

/// Brings the keys of a node into all ages, by asking for them at random times of a day.
async fn aged(seed: u64, sidecars: usize) -> Node {
    let node = Node::new(seed, sidecars);
    let mut chance = SmallRng::seed_from_u64(seed);
    for (key, cache) in (0..).zip(&node.sidecars) {
        sleep(Duration::from_secs(chance.random_range(0..2 * 3600))).await;
        assert!(cache.get(&key).await.is_ok());
    }
    node.ask_each_minute(Duration::from_secs(chance.random_range(0..14 * 3600))).await;
    node
}

#[tokio::test(start_paused = true)]
async fn twelve_hours_without_azure_are_noticed_by_no_request_for_a_warm_key() {
    for seed in 0..6 {
        let node = aged(seed, 8).await;
        node.azure.fails(1.0);
        let slowest = node.ask_each_minute(12 * HOUR).await;
        assert!(slowest <= Duration::from_secs(1), "{slowest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn twelve_hours_with_an_azure_that_hangs_are_noticed_by_no_request_for_a_warm_key() {
    let node = aged(7, 8).await;
    node.azure.fails(1.0);
    node.azure.takes(Duration::from_secs(5));
    let slowest = node.ask_each_minute(12 * HOUR).await;
    assert!(slowest <= Duration::from_secs(1), "{slowest:?}");
}

#[tokio::test(start_paused = true)]
async fn twelve_hours_without_the_agent_are_noticed_by_no_request_for_a_warm_key() {
    for seed in 0..6 {
        let node = aged(seed, 8).await;
        node.agent.goes_down();
        let slowest = node.ask_each_minute(12 * HOUR).await;
        assert!(slowest <= Duration::from_secs(1), "{slowest:?}");
        node.agent.comes_back();
        sleep(MINUTE).await;
        assert_eq!(node.ask_each_minute(MINUTE).await, Duration::ZERO, "and it is over at once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_azure_is_asked_a_few_times_in_an_hour() {
    let node = aged(3, 8).await;
    node.ask_each_minute(2 * HOUR).await;
    node.azure.fails(1.0);
    let before = node.azure.calls();
    node.ask_each_minute(6 * HOUR).await;
    let per_key_and_hour = (node.azure.calls() - before) / 8 / 6;
    assert!(per_key_and_hour <= 13, "one each five minutes at most: {per_key_and_hour}");
}

#[tokio::test(start_paused = true)]
async fn every_third_call_failing_slowly_for_five_minutes_reaches_no_client() {
    let mut slowest = Duration::ZERO;
    for seed in 0..40 {
        // Warm keys first; the others are cold, and one of them is asked for each ten seconds.
        let node = Node::new(seed, 40);
        let (warm, cold) = node.sidecars.split_at(8);
        for (key, cache) in (0..).zip(warm) {
            cache.get(&key).await.unwrap();
        }
        // With every second one the agent makes calls beside slow ones: see its own tests.
        node.azure.fails(0.33);
        node.azure.takes(Duration::from_secs(2));
        let outage = Instant::now();
        let mut asking = Vec::new();
        for (key, cache) in (8..).zip(cold) {
            sleep(Duration::from_secs(9)).await;
            for (key, cache) in (0..).zip(warm) {
                let begun = Instant::now();
                assert_eq!(cache.get(&key).await.map(|hit| hit.value), Ok(key));
                assert!(begun.elapsed() <= Duration::from_secs(1));
            }
            let cache = cache.clone();
            asking.push(tokio::spawn(async move {
                let begun = Instant::now();
                let answer = timeout(BUDGET, cache.get(&key)).await.expect("within the budget");
                assert_eq!(answer.map(|hit| hit.value), Ok(key), "a client that never retries");
                begun.elapsed()
            }));
        }
        for request in asking {
            slowest = slowest.max(request.await.unwrap());
        }
        assert!(outage.elapsed() < 6 * MINUTE);
    }
    assert!(slowest > Duration::from_secs(5), "somebody had to wait: {slowest:?}");
}

#[tokio::test(start_paused = true)]
async fn five_hundred_cold_requests_of_a_hundred_pods_are_one_call() {
    let node = Node::new(1, 100);
    let requests: Vec<_> = (0..500)
        .map(|number| {
            let cache = node.sidecars[number % 100].clone();
            tokio::spawn(async move { cache.get(&7).await.unwrap().value })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), 7);
    }
    assert_eq!(node.azure.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_restarts_is_noticed_by_no_client() {
    let node = Node::new(1, 2);
    node.agent.goes_down();
    let asking = node.sidecars[0].clone();
    let cold = tokio::spawn(async move { asking.get(&1).await });
    sleep(Duration::from_secs(15)).await;
    node.agent.comes_back();
    assert_eq!(cold.await.unwrap().map(|hit| hit.value), Ok(1));
}
