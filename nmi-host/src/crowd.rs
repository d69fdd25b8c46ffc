//! How many of each kind are at something at the same time: what keeps one pod from taking the
//! turns of all others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// At most so many places for each key. Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Crowd<K> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    most: usize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Clone + Eq + Hash> {
    crowd: Crowd<K>,
    key: K,
}

// === impl Crowd ===

impl<K: Clone + Eq + Hash> Crowd<K> {
    /// Nobody is there.
    pub(crate) fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// A place for one more of `key`, if there is one.
    pub(crate) fn enter(&self, key: K) -> Option<Place<K>> {
        let mut taken = self.taken.lock();
        let own = taken.get(&key).copied().unwrap_or(0);
        if own >= self.most {
            return None;
        }
        taken.insert(key.clone(), own + 1);
        Some(Place { crowd: self.clone(), key })
    }
}

// === impl Place ===

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.crowd.taken.lock();
        if let Some(own) = taken.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_places_and_gets_them_back() {
        let crowd = Crowd::new(2);
        let (first, second) = (crowd.enter("a"), crowd.enter("a"));
        assert!(first.is_some() && second.is_some());
        assert!(crowd.enter("a").is_none());
        assert!(crowd.enter("b").is_some());
        drop(first);
        assert!(crowd.enter("a").is_some());
        drop(second);
        assert!(crowd.taken.lock().is_empty(), "nothing is kept of those who have left");
    }
}
