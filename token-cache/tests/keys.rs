//! No answer ever belongs to another key, whatever happens at the same time.

use std::time::Duration;

use token_cache::{Call, FetchError, Fetched, GetError, Policy, Source, TokenCache};

/// Echoes the key as token or as error, after a while that depends on neither.
struct Echo;

type Key = (u32, String);

impl Source for Echo {
    type Key = Key;
    type Value = Key;
    type Error = Key;

    async fn fetch(&self, key: Key, _: Call<Key>) -> Result<Fetched<Key>, FetchError<Key>> {
        for _ in 0..rand::random_range(0..4) {
            tokio::task::yield_now().await;
        }
        if rand::random_ratio(1, 50) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match rand::random_range(0..20) {
            0 => Err(FetchError::Revoked(key)),
            1 => Err(FetchError::Refused(key)),
            2 => Err(FetchError::transient(key)),
            // Dead within the run, so that all states occur.
            _ => Ok(Fetched { value: key, lifetime: Duration::from_millis(3) }),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_answer_always_belongs_to_the_key_that_was_asked_for() {
    let policy = Policy {
        capacity: 8,
        verify_after: Some(Duration::from_millis(1)),
        verify_wait: Duration::from_millis(1),
        verify_pause: Duration::from_millis(1),
        ..Policy::default()
    };
    let cache = TokenCache::new(Echo, policy);
    let workers: Vec<_> = (0..16)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let mut served = 0;
                for round in 0..2000 {
                    let number = rand::random_range(0..12);
                    // Keys that share one part, as identities and resources do.
                    let key = (number % 4, format!("resource-{}", number / 4));
                    match cache.get(&key).await {
                        Ok(hit) => {
                            assert_eq!(hit.value, key);
                            served += 1;
                        }
                        Err(GetError::Source(error)) => assert_eq!(error, key),
                        // A life of milliseconds can be over before it is told.
                        Err(GetError::Lost) => {}
                        Err(GetError::Overloaded) => panic!("16 requests are no overload"),
                    }
                    if round % 64 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                served
            })
        })
        .collect();
    let mut served = 0;
    for worker in workers {
        served += worker.await.unwrap();
    }
    assert!(served > 100, "{served} tokens were served");
    assert!(cache.stats().size <= 8);
}
