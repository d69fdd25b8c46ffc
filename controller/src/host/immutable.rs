//! Which identities are never detached: those that the admin names, and those that the controller
//! itself lives by.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::{Guid, IdentityId};
use parking_lot::RwLock;

/// Identities that stay once they are attached. Clones are the same. It only grows: the controller
/// can be given another identity of its own while it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Immutable(Arc<RwLock<Named>>);

/// By what they are known.
#[derive(Debug, Default)]
struct Named {
    client_ids: BTreeSet<Guid>,
    ids: BTreeSet<IdentityId>,
}

// === impl Immutable ===

impl Immutable {
    /// The identity with this client id is one of them from now on.
    pub(crate) fn add_client_id(&self, client_id: Guid) {
        self.0.write().client_ids.insert(client_id);
    }

    /// The identity with this resource id is one of them from now on.
    pub(crate) fn add_id(&self, id: IdentityId) {
        self.0.write().ids.insert(id);
    }

    /// Whether an identity is one of them, or might be: where ARM does not tell the client id.
    pub(crate) fn holds(&self, id: &IdentityId, client_id: Option<&Guid>) -> bool {
        let named = self.0.read();
        named.ids.contains(id)
            || client_id.map_or(!named.client_ids.is_empty(), |id| named.client_ids.contains(id))
    }
}

impl FromIterator<Guid> for Immutable {
    fn from_iter<T: IntoIterator<Item = Guid>>(client_ids: T) -> Self {
        let named = Named { client_ids: client_ids.into_iter().collect(), ..Named::default() };
        Self(Arc::new(RwLock::new(named)))
    }
}
