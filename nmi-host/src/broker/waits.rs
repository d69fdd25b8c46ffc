//! Who was kept waiting in vain, so that it happens once and not with every request.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The waits of late.
#[derive(Debug)]
pub(super) struct Waits<K>(Mutex<HashMap<K, Wait>>);

#[derive(Clone, Copy, Debug)]
struct Wait {
    begun: Instant,
    asked: Instant,
}

/// Who has not asked for so long may be waiting for something new.
const FORGET: Duration = Duration::from_secs(60);

/// More than a node has pods.
const MOST: usize = 1024;

// === impl Waits ===

impl<K: Clone + Eq + Hash> Waits<K> {
    /// Until when a request of `key` waits: for `patience` from the first of several on.
    pub(super) fn deadline(&self, key: &K, patience: Duration) -> Instant {
        let now = Instant::now();
        let mut waits = self.0.lock();
        if let Some(wait) = waits.get_mut(key).filter(|wait| now < wait.asked + FORGET) {
            wait.asked = now;
            return wait.begun + patience;
        }
        if waits.len() >= MOST {
            waits.retain(|_, wait| now < wait.asked + FORGET);
        }
        if waits.len() >= MOST {
            // Somebody makes names up: nobody waits.
            return now;
        }
        waits.insert(key.clone(), Wait { begun: now, asked: now });
        now + patience
    }
}

impl<K> Default for Waits<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_for_all_requests_at_the_same_time() {
        let (waits, begun) = (Waits::default(), Instant::now());
        for _ in 0..20 {
            assert_eq!(waits.deadline(&"a", PATIENCE), begun + PATIENCE);
            tokio::time::advance(FORGET - PATIENCE).await;
        }
        tokio::time::advance(FORGET).await;
        assert_eq!(waits.deadline(&"a", PATIENCE), Instant::now() + PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_are_made_up_fill_nothing() {
        let waits = Waits::default();
        for number in 0..2 * MOST {
            waits.deadline(&number, PATIENCE);
        }
        assert_eq!(waits.0.lock().len(), MOST);
        assert_eq!(waits.deadline(&(2 * MOST), PATIENCE), Instant::now());
        tokio::time::advance(FORGET).await;
        assert_eq!(waits.deadline(&(2 * MOST), PATIENCE), Instant::now() + PATIENCE);
        assert_eq!(waits.0.lock().len(), 1);
    }
}
