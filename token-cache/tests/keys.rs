//! No answer ever belongs to another key, whatever happens at the same time: random keys, faults,
//! evictions, revocations, refreshes, rejections and callers who leave, on one thread (all
//! interleavings at waits) and on several (all others).

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;
use token_cache::{Call, FetchError, Fetched, GetError, Hit, Policy, Request, Source, TokenCache};
use tokio::task::yield_now;

/// Keys that share one part, as identities and resources do.
type Key = (u32, u32);

/// What the source answers: the key that it was asked for, and a number that tells tokens of one
/// key apart.
type Token = (Key, usize);

const KEYS: [Key; 12] = [
    (0, 0),
    (0, 1),
    (0, 2),
    (1, 0),
    (1, 1),
    (1, 2),
    (2, 0),
    (2, 1),
    (2, 2),
    (3, 0),
    (3, 1),
    (3, 2),
];

/// How a call ends, and after how many turns of the scheduler.
#[derive(Clone, Copy, Debug)]
struct Answer {
    turns: usize,
    end: End,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Token { millis: u64 },
    Revoked,
    Refused,
    Transient,
    Panic,
}

/// What a caller does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Get(usize),
    GetNow(usize),
    Reject(usize),
    /// Asks, and leaves after so many turns.
    Leave(usize, usize),
    /// Lets time pass, so that tokens age and die.
    Pass,
}

/// Answers in the order of the plan, whoever asks.
struct Planned {
    answers: Vec<Answer>,
    calls: Arc<AtomicUsize>,
}

impl Source for Planned {
    type Key = Key;
    type Value = Token;
    type Error = Key;

    async fn fetch(&self, key: Key, call: Call<Token>) -> Result<Fetched<Token>, FetchError<Key>> {
        if let Some((of, _)) = call.rejected {
            assert_eq!(of, key, "the token of another key is rejected");
        }
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let answer = self.answers[number % self.answers.len()];
        for _ in 0..answer.turns {
            yield_now().await;
        }
        match answer.end {
            End::Token { millis } => {
                Ok(Fetched { value: (key, number), lifetime: Duration::from_millis(millis) })
            }
            End::Revoked => Err(FetchError::Revoked(key)),
            End::Refused => Err(FetchError::Refused(key)),
            End::Transient => Err(FetchError::transient(key)),
            // Not a panic of the test: the cache has to bear it.
            End::Panic => std::panic::resume_unwind(Box::new("planned")),
        }
    }

    fn patience(&self, _: &FetchError<Key>) -> Duration {
        Duration::from_millis(1)
    }
}

fn policy(capacity: usize) -> Policy {
    let millisecond = Duration::from_millis(1);
    Policy {
        capacity,
        verify_after: Some(2 * millisecond),
        verify_wait: millisecond,
        verify_pause: millisecond,
        critical_wait: millisecond,
        retry_pauses: vec![Duration::from_micros(100)],
        reject_pause: millisecond,
        ..Policy::default()
    }
}

fn check(key: Key, answer: &Result<Hit<Token>, GetError<Key>>) {
    match answer {
        Ok(hit) => {
            assert_eq!(hit.value.0, key, "the token of another key is the answer");
            assert!(!hit.remaining.is_zero());
        }
        Err(GetError::Source(of)) => assert_eq!(*of, key, "the failure of another key"),
        Err(GetError::Overloaded | GetError::Lost) => {}
    }
}

async fn take(step: Step, cache: &TokenCache<Planned>) {
    match step {
        Step::Get(number) => check(KEYS[number], &cache.get(&KEYS[number]).await),
        Step::GetNow(number) => {
            if let Some(hit) = cache.get_now(&KEYS[number]) {
                check(KEYS[number], &Ok(hit));
            }
        }
        Step::Reject(number) => {
            let key = KEYS[number];
            let rejects = |token: &Token| {
                assert_eq!(token.0, key, "the token of another key is shown to a caller");
                true
            };
            let request = Request::default().rejecting(&rejects);
            check(key, &cache.get_with(&key, &request).await);
        }
        Step::Leave(number, turns) => {
            let mut left = turns;
            let key = KEYS[number];
            let mut asking = Box::pin(cache.get(&key));
            let answer = poll_fn(|context| match asking.as_mut().poll(context) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            });
            if let Some(answer) = answer.await {
                check(key, &answer);
            }
        }
        Step::Pass => tokio::time::sleep(Duration::from_millis(1)).await,
    }
}

/// Runs every caller's steps at the same time, and fails if one of them does.
async fn run(capacity: usize, answers: Vec<Answer>, callers: Vec<Vec<Step>>) {
    let calls = Arc::default();
    let cache = TokenCache::new(Planned { answers, calls }, policy(capacity));
    let callers: Vec<_> = callers
        .into_iter()
        .map(|steps| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for step in steps {
                    take(step, &cache).await;
                }
            })
        })
        .collect();
    for caller in callers {
        assert!(caller.await.is_ok(), "a caller fails");
    }
    assert!(cache.stats().size <= capacity);
}

fn answers() -> impl Strategy<Value = Vec<Answer>> {
    let end = prop_oneof![
        8 => (1..8_u64).prop_map(|millis| End::Token { millis }),
        4 => Just(End::Token { millis: 3_600_000 }),
        1 => Just(End::Token { millis: 0 }),
        1 => Just(End::Revoked),
        1 => Just(End::Refused),
        2 => Just(End::Transient),
        1 => Just(End::Panic),
    ];
    let answer = (0..6_usize, end).prop_map(|(turns, end)| Answer { turns, end });
    prop::collection::vec(answer, 1..40)
}

fn callers() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let key = || 0..KEYS.len();
    let step = prop_oneof![
        6 => key().prop_map(Step::Get),
        2 => key().prop_map(Step::GetNow),
        2 => key().prop_map(Step::Reject),
        2 => (key(), 0..4_usize).prop_map(|(key, turns)| Step::Leave(key, turns)),
        1 => Just(Step::Pass),
    ];
    prop::collection::vec(prop::collection::vec(step, 1..60), 2..10)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn an_answer_belongs_to_the_key_that_was_asked_for_on_one_thread(
        capacity in 1..10_usize, answers in answers(), callers in callers(),
    ) {
        // The clock jumps when all wait: time costs nothing.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(capacity, answers, callers));
    }

    #[test]
    fn an_answer_belongs_to_the_key_that_was_asked_for_on_several_threads(
        capacity in 1..10_usize, answers in answers(), callers in callers(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(run(capacity, answers, callers));
    }
}
