//! The bounded store behind the cache: a slot per key, the least recently used one goes first.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

use crate::kept::{Kept, Step};
use crate::policy::Policy;

/// What is held for a key.
pub(crate) enum Content<V, E> {
    /// A token.
    Token(Kept<V>),
    /// The last failure, which is the answer until then.
    Failure(E, Instant),
}

/// What a request finds.
pub(crate) enum Held<V, E> {
    /// A token, dead or alive, and what to do with it.
    Token(Kept<V>, Step),
    /// A failure that is still the answer.
    Failure(E),
}

/// A key's place.
pub(crate) struct Slot<V, E> {
    pub(crate) content: Content<V, E>,
    /// Whether anybody asked for the key since the content came.
    pub(crate) wanted: bool,
    touched: u64,
    /// When a caller last had the token replaced.
    rejected: Option<Instant>,
}

/// All keys.
pub(crate) struct Shelf<K, V, E> {
    slots: HashMap<K, Slot<V, E>>,
    capacity: usize,
    touches: u64,
}

// === impl Slot ===

impl<V: Clone, E: Clone> Slot<V, E> {
    /// What a request finds at `now`; nothing if the failure has lapsed.
    pub(crate) fn held(&self, policy: &Policy, now: Instant) -> Option<Held<V, E>> {
        match &self.content {
            Content::Token(kept) => Some(Held::Token(kept.clone(), kept.step(policy, now))),
            Content::Failure(error, until) if now < *until => Some(Held::Failure(error.clone())),
            Content::Failure(..) => None,
        }
    }

    /// Whether the token may be replaced because a caller rejects it, which counts as done.
    pub(crate) fn reject(&mut self, policy: &Policy, now: Instant) -> bool {
        let may = self
            .rejected
            .is_none_or(|last| now.saturating_duration_since(last) >= policy.reject_pause);
        if may {
            self.rejected = Some(now);
        }
        may
    }
}

// === impl Shelf ===

impl<K: Clone + Eq + Hash, V, E> Shelf<K, V, E> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { slots: HashMap::new(), capacity: capacity.max(1), touches: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &Slot<V, E>)> {
        self.slots.iter()
    }

    /// The slot of a key that is asked for.
    pub(crate) fn touch(&mut self, key: &K) -> Option<&mut Slot<V, E>> {
        self.touches += 1;
        let slot = self.slots.get_mut(key)?;
        slot.touched = self.touches;
        slot.wanted = true;
        Some(slot)
    }

    /// The token of a key, without counting as a use.
    pub(crate) fn token(&mut self, key: &K) -> Option<&mut Kept<V>> {
        match &mut self.slots.get_mut(key)?.content {
            Content::Token(kept) => Some(kept),
            Content::Failure(..) => None,
        }
    }

    /// Replaces a key's content. A key that nobody asks for keeps its place in the order.
    pub(crate) fn put(&mut self, key: K, content: Content<V, E>, wanted: bool) {
        self.touches += 1;
        let before = self.slots.get(&key);
        let last = before.map_or(self.touches, |slot| slot.touched);
        let touched = if wanted { self.touches } else { last };
        let rejected = before.and_then(|slot| slot.rejected);
        self.slots.insert(key, Slot { content, wanted, touched, rejected });
        while self.slots.len() > self.capacity {
            self.evict();
        }
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.slots.remove(key);
    }

    /// Forgets dead tokens and lapsed failures.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.slots.retain(|_, slot| match &slot.content {
            Content::Token(kept) => kept.is_alive(now),
            Content::Failure(_, until) => now < *until,
        });
    }

    /// Failures go before tokens: a caller that asks for nonsense must not push out what others
    /// live on.
    fn evict(&mut self) {
        let oldest = self
            .slots
            .iter()
            .min_by_key(|(_, slot)| (matches!(slot.content, Content::Token(_)), slot.touched))
            .map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.slots.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::freshness::Jitter;
    use crate::source::Fetched;
    use std::time::Duration;

    fn token() -> Content<(), ()> {
        let fetched = Fetched { value: (), lifetime: Duration::from_secs(60) };
        Content::Token(Kept::new(fetched, Instant::now(), Jitter::NONE))
    }

    fn keys(shelf: &Shelf<u8, (), ()>) -> Vec<u8> {
        let mut keys: Vec<u8> = shelf.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_key_goes_first_and_failures_before_tokens() {
        let mut shelf = Shelf::new(3);
        for key in 1..=3 {
            shelf.put(key, token(), true);
        }
        shelf.touch(&1);
        shelf.put(4, token(), true);
        assert_eq!(keys(&shelf), [1, 3, 4]);
        shelf.put(5, Content::Failure((), Instant::now()), true);
        assert_eq!(keys(&shelf), [1, 3, 4], "a failure never displaces a token");
        shelf.put(3, token(), false);
        shelf.put(6, token(), true);
        assert_eq!(keys(&shelf), [1, 4, 6], "a refresh that nobody asked for is no use");
    }

    #[tokio::test(start_paused = true)]
    async fn dead_content_is_forgotten() {
        let mut shelf = Shelf::new(9);
        shelf.put(1, token(), true);
        shelf.put(2, Content::Failure((), Instant::now() + Duration::from_secs(5)), true);
        shelf.tidy(Instant::now() + Duration::from_secs(5));
        assert_eq!(keys(&shelf), [1]);
        shelf.tidy(Instant::now() + Duration::from_secs(60));
        assert_eq!(shelf.len(), 0);
    }
}
