//! What changed since a leader last looked: a bell, and the names of the objects.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use api::Host;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::snapshot::ObjectKey;

/// Says what changed. Clones are the same bell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dirty(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    bell: Notify,
    /// `None` while nobody leads here: a standby would collect names for ever.
    touched: Mutex<Option<Touched>>,
}

/// While it lives, changes are collected.
#[derive(Debug)]
pub(crate) struct Listening(Dirty);

/// The kinds of the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Pods,
    Nodes,
    Identities,
    Bindings,
    Assigned,
    Attachments,
}

/// What was touched. An object that is named may well be the same as before.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) pods: Keys,
    pub(crate) nodes: Keys,
    pub(crate) identities: Keys,
    pub(crate) bindings: Keys,
    pub(crate) assigned: Keys,
    pub(crate) attachments: Keys,
    /// Hosts of which something new is known.
    pub(crate) hosts: BTreeSet<Host>,
}

/// Objects of one kind.
#[derive(Debug)]
pub(crate) enum Keys {
    /// These.
    Some(HashSet<ObjectKey>),
    /// Any of them.
    All,
}

// === impl Dirty ===

impl Dirty {
    /// Starts to collect; the first thing that is collected is everything.
    pub(crate) fn listen(&self) -> Listening {
        *self.0.touched.lock() = Some(Touched::everything());
        self.0.bell.notify_one();
        Listening(self.clone())
    }

    /// Notes an object, for when the bell rings next.
    pub(crate) fn touch(&self, kind: Kind, key: ObjectKey) {
        if let Some(touched) = &mut *self.0.touched.lock()
            && let Keys::Some(keys) = touched.of(kind)
        {
            keys.insert(key);
        }
    }

    /// Notes that any object of the kind may have changed.
    pub(crate) fn touch_all(&self, kind: Kind) {
        if let Some(touched) = &mut *self.0.touched.lock() {
            *touched.of(kind) = Keys::All;
        }
    }

    /// Notes that something new is known of the host, and rings.
    pub(crate) fn touch_host(&self, host: &Host) {
        if let Some(touched) = &mut *self.0.touched.lock() {
            touched.hosts.insert(host.clone());
        }
        self.ring();
    }

    /// Rings; several rings before anybody listens are one.
    pub(crate) fn ring(&self) {
        self.0.bell.notify_one();
    }

    /// Waits for a ring since the last time.
    pub(crate) async fn rung(&self) {
        self.0.bell.notified().await;
    }
}

// === impl Listening ===

impl Listening {
    /// What was touched since the last time.
    pub(crate) fn take(&self) -> Touched {
        (self.0.0.touched.lock()).as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Waits for a ring since the last time.
    pub(crate) async fn rung(&self) {
        self.0.rung().await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        *self.0.0.touched.lock() = None;
    }
}

// === impl Touched ===

impl Touched {
    /// All objects of all kinds.
    pub(crate) fn everything() -> Self {
        Self {
            pods: Keys::All,
            nodes: Keys::All,
            identities: Keys::All,
            bindings: Keys::All,
            assigned: Keys::All,
            attachments: Keys::All,
            hosts: BTreeSet::new(),
        }
    }

    fn of(&mut self, kind: Kind) -> &mut Keys {
        match kind {
            Kind::Pods => &mut self.pods,
            Kind::Nodes => &mut self.nodes,
            Kind::Identities => &mut self.identities,
            Kind::Bindings => &mut self.bindings,
            Kind::Assigned => &mut self.assigned,
            Kind::Attachments => &mut self.attachments,
        }
    }
}

// === impl Keys ===

impl Default for Keys {
    fn default() -> Self {
        Self::Some(HashSet::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_hears_of_everything_once_and_then_of_what_changes() {
        let dirty = Dirty::default();
        dirty.touch(Kind::Pods, ObjectKey::new("apps", "before"));
        let listening = dirty.listen();
        assert!(matches!(listening.take().pods, Keys::All));
        dirty.touch(Kind::Pods, ObjectKey::new("apps", "web"));
        dirty.touch(Kind::Pods, ObjectKey::new("apps", "web"));
        dirty.touch_all(Kind::Nodes);
        dirty.touch(Kind::Nodes, ObjectKey::new("", "n1"));
        let touched = listening.take();
        assert!(matches!(touched.pods, Keys::Some(keys) if keys.len() == 1));
        assert!(matches!(touched.nodes, Keys::All));
        assert!(matches!(touched.assigned, Keys::Some(keys) if keys.is_empty()));
        assert!(matches!(listening.take().nodes, Keys::Some(keys) if keys.is_empty()));
    }

    #[test]
    fn a_standby_collects_nothing() {
        let dirty = Dirty::default();
        drop(dirty.listen());
        dirty.touch(Kind::Pods, ObjectKey::new("apps", "web"));
        assert!(dirty.0.touched.lock().is_none());
    }
}
