//! What was written and the cache does not show yet. Without it every plan that follows a write
//! within the watch's delay would write the same again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::AzureAssignedIdentity;
use jiff::Timestamp;

use crate::clock::since;
use crate::snapshot::{ObjectKey, key};
use crate::watch::uid;

/// After this the cache is believed again, whatever it says.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The latest own writes.
#[derive(Debug, Default)]
pub(crate) struct Overlay(HashMap<ObjectKey, Written>);

#[derive(Debug)]
struct Written {
    at: Timestamp,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Present(Arc<AzureAssignedIdentity>),
    /// The object of this uid was deleted.
    Gone(Option<String>),
}

// === impl Overlay ===

impl Overlay {
    /// The object was written and reads so now.
    pub(crate) fn written(&mut self, object: AzureAssignedIdentity, now: Timestamp) {
        let (namespace, name) = key(&object);
        let at = ObjectKey::new(namespace, name);
        let outcome = Outcome::Present(Arc::new(object));
        self.0.insert(at, Written { at: now, outcome });
    }

    /// The object was deleted.
    pub(crate) fn deleted(&mut self, key: ObjectKey, uid: Option<String>, now: Timestamp) {
        self.0.insert(key, Written { at: now, outcome: Outcome::Gone(uid) });
    }

    /// When the oldest write will not be remembered any more.
    pub(crate) fn expiry(&self) -> Option<Timestamp> {
        let oldest = self.0.values().map(|written| written.at).min()?;
        Some(crate::clock::after(oldest, PATIENCE))
    }

    /// Puts the writes over what the cache holds, and forgets those that the cache shows.
    pub(crate) fn over(
        &mut self,
        cached: Vec<Arc<AzureAssignedIdentity>>,
        now: Timestamp,
    ) -> Vec<Arc<AzureAssignedIdentity>> {
        self.0.retain(|_, written| since(now, written.at) < PATIENCE);
        if self.0.is_empty() {
            return cached;
        }
        let mut unseen: HashMap<ObjectKey, Written> = std::mem::take(&mut self.0);
        let mut merged = Vec::with_capacity(cached.len() + unseen.len());
        for object in cached {
            let (namespace, name) = key(&*object);
            let at = ObjectKey::new(namespace, name);
            match unseen.remove(&at) {
                None => merged.push(object),
                Some(written) if written.outcome.is_seen_in(&object) => merged.push(object),
                Some(written) => {
                    merged.extend(written.outcome.object());
                    self.0.insert(at, written);
                }
            }
        }
        for (at, written) in unseen {
            // A deletion that the cache shows needs no more remembering.
            if let Some(object) = written.outcome.object() {
                merged.push(object);
                self.0.insert(at, written);
            }
        }
        merged
    }
}

// === impl Outcome ===

impl Outcome {
    fn object(&self) -> Option<Arc<AzureAssignedIdentity>> {
        match self {
            Self::Present(object) => Some(object.clone()),
            Self::Gone(_) => None,
        }
    }

    /// Whether the cached object is as new as the write.
    fn is_seen_in(&self, cached: &AzureAssignedIdentity) -> bool {
        match self {
            Self::Gone(uid) => cached.metadata.uid != *uid,
            Self::Present(object) if uid(&object.metadata) != uid(&cached.metadata) => {
                version(cached) > version(object)
            }
            Self::Present(object) => version(cached) >= version(object),
        }
    }
}

/// Resource versions of one kind count up.
fn version(object: &AzureAssignedIdentity) -> Option<u64> {
    object.metadata.resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::AzureAssignedIdentitySpec;

    fn object(uid: &str, version: u64) -> AzureAssignedIdentity {
        let mut object = AzureAssignedIdentity::new("web-1", AzureAssignedIdentitySpec::default());
        object.metadata.namespace = Some("apps".to_owned());
        object.metadata.uid = Some(uid.to_owned());
        object.metadata.resource_version = Some(version.to_string());
        object
    }

    fn seen(objects: &[Arc<AzureAssignedIdentity>]) -> Vec<(String, u64)> {
        objects
            .iter()
            .map(|object| (uid(&object.metadata).to_owned(), version(object).unwrap()))
            .collect()
    }

    #[test]
    fn a_write_shows_until_the_cache_has_it() {
        let now = Timestamp::UNIX_EPOCH;
        let mut overlay = Overlay::default();
        overlay.written(object("u", 7), now);
        assert_eq!(seen(&overlay.over(vec![], now)), [("u".to_owned(), 7)], "created");
        let cached = vec![Arc::new(object("u", 5))];
        assert_eq!(seen(&overlay.over(cached, now)), [("u".to_owned(), 7)], "older");
        let cached = vec![Arc::new(object("u", 9))];
        assert_eq!(seen(&overlay.over(cached, now)), [("u".to_owned(), 9)], "newer");
        assert!(overlay.0.is_empty());
    }

    #[test]
    fn a_deletion_hides_the_object_but_not_its_successor() {
        let now = Timestamp::UNIX_EPOCH;
        let mut overlay = Overlay::default();
        let at = ObjectKey::new("apps", "web-1");
        overlay.deleted(at.clone(), Some("u".to_owned()), now);
        assert!(overlay.over(vec![Arc::new(object("u", 5))], now).is_empty());
        let successor = vec![Arc::new(object("v", 9))];
        assert_eq!(seen(&overlay.over(successor, now)), [("v".to_owned(), 9)]);
        overlay.deleted(at, Some("v".to_owned()), now);
        assert!(overlay.over(vec![], now).is_empty());
        assert!(overlay.0.is_empty(), "seen");
    }

    #[test]
    fn nothing_is_remembered_for_ever() {
        let now = Timestamp::UNIX_EPOCH;
        let mut overlay = Overlay::default();
        overlay.written(object("u", 7), now);
        assert_eq!(overlay.expiry(), Some(crate::clock::after(now, PATIENCE)));
        assert!(overlay.over(vec![], crate::clock::after(now, PATIENCE)).is_empty());
        assert_eq!(overlay.expiry(), None);
    }
}
