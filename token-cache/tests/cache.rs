//! The cache as its users see it, on a paused clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use token_cache::{Call, FetchError, Fetched, GetError, Policy, Request, Source, TokenCache};
use tokio::time::{Instant, advance, sleep};

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

type Answer = Result<Duration, FetchError<&'static str>>;

/// A source that answers as it is told and numbers its tokens.
#[derive(Clone)]
struct Fake(Arc<Inner>);

struct Inner {
    answer: Mutex<Answer>,
    delay: Mutex<Duration>,
    patience: Mutex<Duration>,
    calls: AtomicUsize,
    /// The correlation id and the rejected token of each call.
    seen: Mutex<Vec<Seen>>,
    urgent: Mutex<Vec<bool>>,
}

type Token = (&'static str, usize);
type Seen = (Option<Arc<str>>, Option<Token>);

impl Source for Fake {
    type Key = &'static str;
    type Value = Token;
    type Error = &'static str;

    async fn fetch(
        &self,
        key: &'static str,
        call: Call<Self::Value>,
    ) -> Result<Fetched<Self::Value>, FetchError<&'static str>> {
        self.0.urgent.lock().push(call.urgent);
        self.0.seen.lock().push((call.trace, call.rejected));
        let call = self.0.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let delay = *self.0.delay.lock();
        sleep(delay).await;
        let answer = self.0.answer.lock().clone();
        answer.map(|lifetime| Fetched { value: (key, call), lifetime })
    }

    fn patience(&self, error: &FetchError<&'static str>) -> Duration {
        match error {
            FetchError::Transient { .. } => *self.0.patience.lock(),
            _ => Duration::ZERO,
        }
    }
}

impl Fake {
    fn new() -> Self {
        Self(Arc::new(Inner {
            answer: Mutex::new(Ok(DAY)),
            delay: Mutex::new(Duration::ZERO),
            patience: Mutex::new(Duration::ZERO),
            calls: AtomicUsize::new(0),
            seen: Mutex::default(),
            urgent: Mutex::default(),
        }))
    }

    fn answers(&self, answer: Answer) {
        *self.0.answer.lock() = answer;
    }

    fn takes(&self, delay: Duration) {
        *self.0.delay.lock() = delay;
    }

    fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }
}

fn down() -> Answer {
    Err(FetchError::transient("down"))
}

fn cache(policy: Policy) -> (Fake, TokenCache<Fake>) {
    let fake = Fake::new();
    (fake.clone(), TokenCache::new(fake, policy))
}

fn verifying() -> Policy {
    Policy { verify_after: Some(Duration::from_secs(10)), ..Policy::default() }
}

/// Lets spawned flights run without moving the clock.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn five_hundred_cold_requests_are_one_fetch_with_one_result() {
    let (fake, cache) = cache(Policy::default());
    fake.takes(Duration::from_millis(50));
    let requests: Vec<_> = (0..500)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get(&"k").await.unwrap().value })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), ("k", 1));
    }
    assert_eq!(fake.calls(), 1);
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.hits, stats.size), (500, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_away_does_not_take_the_fetch_with_it() {
    let (fake, cache) = cache(Policy::default());
    fake.takes(Duration::from_secs(5));
    let impatient = tokio::time::timeout(Duration::from_secs(1), cache.get(&"k")).await;
    assert!(impatient.is_err());
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 1));
    assert_eq!(fake.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn more_than_the_limit_do_not_wait() {
    let (fake, cache) = cache(Policy { max_waiters: 2, ..Policy::default() });
    fake.takes(Duration::from_secs(5));
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.get(&"k").await })
        })
        .collect();
    settle().await;
    assert_eq!(cache.get(&"k").await.unwrap_err(), GetError::Overloaded);
    for request in waiting {
        assert!(request.await.unwrap().is_ok());
    }
    assert!(cache.get(&"k").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn remaining_life_shrinks_and_a_dead_token_is_never_served() {
    let (fake, cache) = cache(Policy::default());
    assert_eq!(cache.get(&"k").await.unwrap().remaining, DAY);
    advance(HOUR).await;
    assert_eq!(cache.get(&"k").await.unwrap().remaining, DAY - HOUR);
    assert_eq!(cache.stats().soonest_expiry, Some(DAY - HOUR));
    fake.answers(down());
    advance(DAY - HOUR).await;
    assert_eq!(cache.get(&"k").await.unwrap_err(), GetError::Source("down"));
    assert_eq!(cache.stats().soonest_expiry, None);
}

#[tokio::test(start_paused = true)]
async fn the_life_of_a_token_counts_from_the_question_not_from_the_answer() {
    let (fake, cache) = cache(Policy::default());
    fake.takes(Duration::from_secs(8));
    assert_eq!(cache.get(&"k").await.unwrap().remaining, DAY - Duration::from_secs(8));
}

#[tokio::test(start_paused = true)]
async fn past_half_life_the_answer_is_immediate_and_one_refresh_runs_behind_it() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    fake.takes(Duration::from_secs(3));
    advance(DAY * 56 / 100).await;
    let before = Instant::now();
    for _ in 0..5 {
        assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 1));
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 2));
    assert_eq!((fake.calls(), cache.stats().refreshes), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_day_rides_out_twelve_hours_without_a_failed_or_slow_request() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    fake.answers(down());
    advance(DAY / 2 - Duration::from_secs(1)).await;
    let outage = Instant::now();
    let end = outage + 12 * HOUR - Duration::from_secs(360);
    while Instant::now() < end {
        let before = Instant::now();
        assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 1));
        assert_eq!(before.elapsed(), Duration::ZERO);
        sleep(Duration::from_secs(20)).await;
    }
    // One attempt each 5 minutes once backed off; each 30 s only in the last minutes. The jitter
    // may begin them up to 72 minutes, that is 14 attempts, after half life.
    assert!((125..170).contains(&fake.calls()), "{}", fake.calls());
    fake.answers(Ok(DAY));
    sleep(Duration::from_secs(30)).await;
    cache.get(&"k").await.unwrap();
    settle().await;
    assert!(cache.get(&"k").await.unwrap().remaining > 23 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn in_the_last_five_minutes_a_request_waits_for_the_refresh_but_not_for_ever() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    advance(DAY - Duration::from_secs(200)).await;
    fake.takes(Duration::from_secs(60));
    let before = Instant::now();
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 1));
    assert_eq!(before.elapsed(), Duration::from_secs(10));
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 1), "the next one does not wait again");
    assert_eq!(before.elapsed(), Duration::from_secs(10));
    sleep(Duration::from_secs(51)).await;
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 2));
    assert_eq!(fake.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn in_the_last_five_minutes_a_quick_refresh_is_the_answer() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    advance(DAY - Duration::from_secs(200)).await;
    fake.takes(Duration::from_secs(2));
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 2));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_dies_while_a_request_waits_for_its_refresh_is_not_the_answer() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    fake.takes(Duration::from_secs(20));
    advance(DAY - Duration::from_secs(5)).await;
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 2));
}

#[tokio::test(start_paused = true)]
async fn keep_fresh_replaces_what_was_asked_for_and_forgets_what_nobody_wants() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    let keeper = cache.clone();
    let task = tokio::spawn(async move { keeper.keep_fresh().await });
    sleep(DAY * 56 / 100).await;
    assert_eq!(fake.calls(), 2, "refreshed without a request");
    sleep(2 * DAY).await;
    assert_eq!(fake.calls(), 2, "once is enough for a token that nobody asks for");
    assert_eq!(cache.stats().size, 0, "and its memory is given back");
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_token_is_asked_for_again_before_it_is_served() {
    let (fake, cache) = cache(verifying());
    cache.get(&"k").await.unwrap();
    advance(Duration::from_secs(9)).await;
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 1));
    advance(Duration::from_secs(1)).await;
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 2));
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 2));
    assert_eq!(fake.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_loses_its_token_and_may_come_back_a_second_later() {
    let (fake, cache) = cache(verifying());
    cache.get(&"k").await.unwrap();
    fake.answers(Err(FetchError::Revoked("gone")));
    advance(Duration::from_secs(10)).await;
    for _ in 0..3 {
        assert_eq!(cache.get(&"k").await.unwrap_err(), GetError::Source("gone"));
    }
    assert_eq!(fake.calls(), 2, "the failure is remembered");
    fake.answers(Ok(DAY));
    advance(Duration::from_secs(1)).await;
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 3));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_nobody_waits_for_revokes_too() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    fake.answers(Err(FetchError::Revoked("gone")));
    advance(DAY * 56 / 100).await;
    assert!(cache.get(&"k").await.is_ok());
    settle().await;
    assert_eq!(cache.get(&"k").await.unwrap_err(), GetError::Source("gone"));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_down_or_refuses_leaves_the_token_and_is_left_alone() {
    for failure in [down(), Err(FetchError::Refused("no"))] {
        let (fake, cache) = cache(verifying());
        cache.get(&"k").await.unwrap();
        fake.answers(failure);
        advance(Duration::from_secs(10)).await;
        for _ in 0..100 {
            assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 1));
        }
        assert_eq!(fake.calls(), 2, "one request asked, the others did not");
        advance(Duration::from_secs(5)).await;
        cache.get(&"k").await.unwrap();
        assert_eq!(fake.calls(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_costs_one_short_wait_and_its_late_no_still_counts() {
    let (fake, cache) = cache(verifying());
    cache.get(&"k").await.unwrap();
    fake.takes(Duration::from_secs(4));
    fake.answers(Err(FetchError::Revoked("gone")));
    advance(Duration::from_secs(10)).await;
    let before = Instant::now();
    for _ in 0..100 {
        assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 1));
    }
    assert_eq!(before.elapsed(), Duration::from_secs(1));
    sleep(Duration::from_millis(3100)).await;
    assert_eq!(cache.get(&"k").await.unwrap_err(), GetError::Source("gone"));
}

#[tokio::test(start_paused = true)]
async fn without_a_token_a_failure_is_retried_as_long_as_the_source_is_patient() {
    let (fake, cache) = cache(Policy::default());
    *fake.0.patience.lock() = Duration::from_secs(25);
    fake.answers(down());
    let before = Instant::now();
    let request = {
        let cache = cache.clone();
        tokio::spawn(async move { cache.get(&"k").await })
    };
    assert_eq!(request.await.unwrap().unwrap_err(), GetError::Source("down"));
    assert!(before.elapsed() <= Duration::from_secs(25), "{:?}", before.elapsed());
    assert!(fake.calls() >= 5, "{}", fake.calls());
    assert_eq!(cache.stats().failures, fake.calls() as u64);

    let (fake, cache) = self::cache(Policy::default());
    *fake.0.patience.lock() = Duration::from_secs(25);
    fake.answers(down());
    let request = tokio::spawn(async move { cache.get(&"k").await });
    settle().await;
    fake.answers(Ok(DAY));
    assert!(request.await.unwrap().is_ok(), "a source that recovers in time is not noticed");
}

#[tokio::test(start_paused = true)]
async fn a_wish_to_be_left_alone_beyond_the_patience_ends_the_request() {
    let (fake, cache) = cache(Policy::default());
    *fake.0.patience.lock() = Duration::from_secs(25);
    let retry_after = Some(Duration::from_secs(60));
    fake.answers(Err(FetchError::Transient { error: "slow down", retry_after }));
    let before = Instant::now();
    assert_eq!(cache.get(&"k").await.unwrap_err(), GetError::Source("slow down"));
    assert_eq!(before.elapsed(), Duration::ZERO);
    advance(Duration::from_secs(59)).await;
    cache.get(&"k").await.unwrap_err();
    assert_eq!(fake.calls(), 1);
    fake.answers(Ok(DAY));
    advance(Duration::from_secs(1)).await;
    assert!(cache.get(&"k").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_dead_token_from_the_source_is_no_token() {
    let (fake, cache) = cache(Policy::default());
    fake.answers(Ok(Duration::ZERO));
    assert_eq!(cache.get(&"k").await.unwrap_err(), GetError::Lost);
    fake.answers(Ok(DAY));
    cache.get(&"k").await.unwrap();
    fake.answers(Ok(Duration::ZERO));
    advance(DAY - Duration::from_secs(200)).await;
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 2), "it does not displace a living one");
}

#[tokio::test(start_paused = true)]
async fn the_number_of_keys_is_bounded() {
    let (_, cache) = cache(Policy { capacity: 2, ..Policy::default() });
    for key in ["a", "b", "a", "c"] {
        cache.get(&key).await.unwrap();
    }
    assert_eq!(cache.stats().size, 2);
    assert_eq!(cache.get(&"a").await.unwrap().value, ("a", 1));
    assert_eq!(cache.get(&"b").await.unwrap().value, ("b", 4));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_blocks_nobody() {
    struct Panics(AtomicUsize);
    impl Source for Panics {
        type Key = ();
        type Value = ();
        type Error = ();
        async fn fetch(&self, (): (), _: Call<()>) -> Result<Fetched<()>, FetchError<()>> {
            assert!(self.0.fetch_add(1, Ordering::SeqCst) > 0, "the first call panics");
            Ok(Fetched { value: (), lifetime: DAY })
        }
    }
    let cache = TokenCache::new(Panics(AtomicUsize::new(0)), Policy::default());
    assert_eq!(cache.get(&()).await.unwrap_err(), GetError::Lost);
    assert!(cache.get(&()).await.is_ok());
}

#[test]
fn nothing_prints_a_token() {
    let fetched = Fetched { value: "very-secret", lifetime: DAY };
    assert!(!format!("{fetched:?}").contains("very-secret"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (_, cache) = cache(Policy::default());
        let hit = cache.get(&"very-secret").await.unwrap();
        assert!(!format!("{hit:?} {cache:?}").contains("very-secret"));
    });
}

// === rejected tokens ===

fn rejects(serial: usize) -> impl Fn(&Token) -> bool + Send + Sync {
    move |token| token.1 == serial
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_replaced_and_the_source_is_told_which() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    let stale = rejects(1);
    let request = Request::default().traced("id-7").rejecting(&stale);
    assert_eq!(cache.get_with(&"k", &request).await.unwrap().value, ("k", 2));
    assert_eq!(cache.get(&"k").await.unwrap().value, ("k", 2));
    let seen = fake.0.seen.lock();
    assert_eq!(seen.as_slice(), [(None, None), (Some("id-7".into()), Some(("k", 1)))]);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_of_another_token_changes_nothing() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    let other = rejects(7);
    let request = Request::default().rejecting(&other);
    for _ in 0..5 {
        assert_eq!(cache.get_with(&"k", &request).await.unwrap().value, ("k", 1));
    }
    assert_eq!(fake.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_replaced_for_a_rejection_once_in_ten_seconds() {
    let (fake, cache) = cache(Policy::default());
    let all = |_: &Token| true;
    let request = Request::default().rejecting(&all);
    for _ in 0..20 {
        assert!(cache.get_with(&"k", &request).await.is_ok());
        assert!(cache.get_with(&"other", &request).await.is_ok());
    }
    assert_eq!(fake.calls(), 4, "one to fill and one to replace for each key");
    advance(Duration::from_secs(10)).await;
    for _ in 0..20 {
        cache.get_with(&"k", &request).await.unwrap();
    }
    assert_eq!(fake.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn many_rejections_at_once_are_one_fetch() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    fake.takes(Duration::from_secs(1));
    let requests: Vec<_> = (0..100)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let stale = rejects(1);
                let request = Request::default().rejecting(&stale);
                cache.get_with(&"k", &request).await.unwrap().value
            })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), ("k", 2));
    }
    assert_eq!(fake.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_came_from_a_cache_behind_is_asked_for_once_more() {
    let (fake, cache) = cache(Policy::default());
    let stale = rejects(1);
    let request = Request::default().rejecting(&stale);
    assert_eq!(cache.get_with(&"k", &request).await.unwrap().value, ("k", 2));
    assert_eq!(fake.0.seen.lock()[1].1, Some(("k", 1)));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_the_answer_when_there_is_no_other() {
    for (failure, takes, waited) in [(down(), 0, 0), (Ok(DAY), 60, 10)] {
        let (fake, cache) = cache(Policy::default());
        cache.get(&"k").await.unwrap();
        fake.answers(failure);
        fake.takes(Duration::from_secs(takes));
        let stale = rejects(1);
        let request = Request::default().rejecting(&stale);
        let before = Instant::now();
        assert_eq!(cache.get_with(&"k", &request).await.unwrap().value, ("k", 1));
        assert_eq!(before.elapsed(), Duration::from_secs(waited));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_can_revoke() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    fake.answers(Err(FetchError::Revoked("gone")));
    let stale = rejects(1);
    let request = Request::default().rejecting(&stale);
    let error = cache.get_with(&"k", &request).await.unwrap_err();
    assert_eq!(error, GetError::Source("gone"));
    assert!(cache.get(&"k").await.is_err());
}

// === retries ===

#[tokio::test(start_paused = true)]
async fn the_retries_of_all_keys_come_out_of_one_budget() {
    let policy = Policy { capacity: 999, retry_burst: 10, ..Policy::default() };
    let (fake, cache) = cache(policy);
    *fake.0.patience.lock() = Duration::from_secs(20);
    fake.answers(down());
    let keys: Vec<&'static str> = (0..200).map(|number| &*format!("key-{number}").leak()).collect();
    let requests: Vec<_> = keys
        .iter()
        .map(|key| {
            let (cache, key) = (cache.clone(), *key);
            tokio::spawn(async move { cache.get(&key).await })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap_err(), GetError::Source("down"));
    }
    let retries = fake.calls() - keys.len();
    assert!((10..=31).contains(&retries), "ten at once and one a second: {retries}");
    assert_eq!(cache.stats().retries, retries as u64);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_took_its_time_is_followed_at_once() {
    let (fake, cache) = cache(Policy::default());
    *fake.0.patience.lock() = Duration::from_secs(22);
    fake.answers(down());
    fake.takes(Duration::from_secs(2));
    let before = Instant::now();
    assert!(cache.get(&"k").await.is_err());
    // The last one may begin at the very end of the patience.
    assert_eq!(before.elapsed(), Duration::from_secs(24));
    assert_eq!(fake.calls(), 12);
}

#[tokio::test(start_paused = true)]
async fn the_source_is_told_whether_anybody_has_to_wait() {
    let (fake, cache) = cache(Policy::default());
    cache.get(&"k").await.unwrap();
    advance(DAY / 2).await;
    cache.get(&"k").await.unwrap();
    settle().await;
    assert_eq!(fake.0.urgent.lock().as_slice(), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn what_needs_no_wait_is_answered_without_one() {
    let (fake, cache) = cache(verifying());
    assert_eq!(cache.get_now(&"k"), None);
    settle().await;
    assert_eq!(fake.calls(), 0, "looking starts nothing");
    cache.get(&"k").await.unwrap();
    assert_eq!(cache.get_now(&"k").unwrap().value, ("k", 1));
    advance(Duration::from_secs(10)).await;
    assert_eq!(cache.get_now(&"k"), None, "it is to be confirmed first");
    fake.answers(Err(FetchError::Revoked("gone")));
    cache.get(&"k").await.unwrap_err();
    assert_eq!(cache.get_now(&"k"), None);
}

#[tokio::test(start_paused = true)]
async fn a_peek_finds_what_lives_and_starts_nothing() {
    let (fake, cache) = cache(verifying());
    assert_eq!(cache.peek(&"k"), None);
    cache.get(&"k").await.unwrap();
    advance(Duration::from_secs(10)).await;
    assert_eq!(cache.get_now(&"k"), None, "it is to be confirmed first");
    assert_eq!(cache.peek(&"k").unwrap().value, ("k", 1));
    settle().await;
    assert_eq!(fake.calls(), 1);
    advance(DAY).await;
    assert_eq!(cache.peek(&"k"), None);
}
