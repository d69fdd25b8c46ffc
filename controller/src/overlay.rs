//! What was written and the cache does not show yet. Without it every plan that follows a write
//! within the watch's delay would write the same again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use api::AzureAssignedIdentity;
use jiff::Timestamp;

use crate::clock::{after, since};
use crate::snapshot::ObjectKey;
use crate::watch::uid;

/// After this the cache is believed again, whatever it says.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The latest own writes.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    written: HashMap<ObjectKey, Written>,
    /// In the order of their time.
    order: VecDeque<(Timestamp, ObjectKey)>,
}

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
    pub(crate) fn written(&mut self, object: Arc<AzureAssignedIdentity>, now: Timestamp) {
        self.remember(ObjectKey::of(&*object), Outcome::Present(object), now);
    }

    /// The object was deleted.
    pub(crate) fn deleted(&mut self, key: ObjectKey, uid: Option<String>, now: Timestamp) {
        self.remember(key, Outcome::Gone(uid), now);
    }

    /// When the oldest write will not be remembered any more.
    pub(crate) fn expiry(&self) -> Option<Timestamp> {
        self.order.front().map(|(at, _)| after(*at, PATIENCE))
    }

    /// Forgets writes that are too old, and names their objects: the cache has to be asked again.
    pub(crate) fn expire(&mut self, now: Timestamp) -> Vec<ObjectKey> {
        let mut expired = Vec::new();
        while let Some((at, key)) = self.order.pop_front() {
            if since(now, at) < PATIENCE {
                self.order.push_front((at, key));
                break;
            }
            if self.written.get(&key).is_some_and(|written| written.at == at) {
                self.written.remove(&key);
                expired.push(key);
            }
        }
        expired
    }

    /// What is to be believed of an object of which the cache holds this. A write that the cache
    /// shows is forgotten.
    pub(crate) fn over(
        &mut self,
        key: &ObjectKey,
        cached: Option<Arc<AzureAssignedIdentity>>,
    ) -> Option<Arc<AzureAssignedIdentity>> {
        let Some(written) = self.written.get(key) else { return cached };
        let seen = match &cached {
            Some(cached) => written.outcome.is_seen_in(cached),
            None => matches!(written.outcome, Outcome::Gone(_)),
        };
        if !seen {
            return written.outcome.object();
        }
        self.written.remove(key);
        cached
    }

    fn remember(&mut self, key: ObjectKey, outcome: Outcome, now: Timestamp) {
        self.order.push_back((now, key.clone()));
        self.written.insert(key, Written { at: now, outcome });
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

    fn key() -> ObjectKey {
        ObjectKey::new("apps", "web-1")
    }

    fn over(overlay: &mut Overlay, cached: Option<AzureAssignedIdentity>) -> Option<(String, u64)> {
        let believed = overlay.over(&key(), cached.map(Arc::new))?;
        Some((uid(&believed.metadata).to_owned(), version(&believed).unwrap()))
    }

    #[test]
    fn a_write_shows_until_the_cache_has_it() {
        let mut overlay = Overlay::default();
        overlay.written(object("u", 7).into(), Timestamp::UNIX_EPOCH);
        assert_eq!(over(&mut overlay, None), Some(("u".to_owned(), 7)), "created");
        assert_eq!(over(&mut overlay, Some(object("u", 5))), Some(("u".to_owned(), 7)), "older");
        assert_eq!(over(&mut overlay, Some(object("u", 9))), Some(("u".to_owned(), 9)), "newer");
        assert!(overlay.written.is_empty());
        assert_eq!(over(&mut overlay, None), None, "deleted by somebody else");
    }

    #[test]
    fn a_deletion_hides_the_object_but_not_its_successor() {
        let now = Timestamp::UNIX_EPOCH;
        let mut overlay = Overlay::default();
        overlay.deleted(key(), Some("u".to_owned()), now);
        assert_eq!(over(&mut overlay, Some(object("u", 5))), None);
        assert_eq!(over(&mut overlay, Some(object("v", 9))), Some(("v".to_owned(), 9)));
        overlay.deleted(key(), Some("v".to_owned()), now);
        assert_eq!(over(&mut overlay, None), None);
        assert!(overlay.written.is_empty(), "seen");
    }

    #[test]
    fn nothing_is_remembered_for_ever() {
        let now = Timestamp::UNIX_EPOCH;
        let later = after(now, Duration::from_secs(1));
        let mut overlay = Overlay::default();
        overlay.written(object("u", 7).into(), now);
        overlay.written(object("u", 8).into(), later);
        assert_eq!(overlay.expiry(), Some(after(now, PATIENCE)));
        assert!(overlay.expire(after(now, PATIENCE)).is_empty(), "written again since");
        assert_eq!(overlay.expire(after(later, PATIENCE)), [key()]);
        assert_eq!((overlay.expiry(), over(&mut overlay, None)), (None, None));
    }
}
