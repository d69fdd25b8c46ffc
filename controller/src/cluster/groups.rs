//! Which members belong to which key: an index that keeps no empty groups.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Members by key.
#[derive(Debug)]
pub(crate) struct Groups<K, V>(HashMap<K, HashSet<V>>);

// === impl Groups ===

impl<K: Eq + Hash, V: Eq + Hash> Groups<K, V> {
    /// Makes `member` one of those of `key`.
    pub(crate) fn add(&mut self, key: K, member: V) {
        self.0.entry(key).or_default().insert(member);
    }

    /// Undoes it.
    pub(crate) fn remove<Q, W>(&mut self, key: &Q, member: &W)
    where
        K: Borrow<Q>,
        V: Borrow<W>,
        Q: Eq + Hash + ?Sized,
        W: Eq + Hash + ?Sized,
    {
        if let Some(group) = self.0.get_mut(key) {
            group.remove(member);
            if group.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// The members of `key`.
    pub(crate) fn get<Q>(&self, key: &Q) -> impl Iterator<Item = &V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.get(key).into_iter().flatten()
    }
}

impl<K, V> Default for Groups<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_ends_with_its_last_member() {
        let mut groups = Groups::<String, String>::default();
        groups.add("a".to_owned(), "1".to_owned());
        groups.add("a".to_owned(), "2".to_owned());
        groups.remove("a", "1");
        assert_eq!(groups.get("a").collect::<Vec<_>>(), ["2"]);
        groups.remove("a", "2");
        groups.remove("b", "2");
        assert!(groups.0.is_empty());
    }
}
