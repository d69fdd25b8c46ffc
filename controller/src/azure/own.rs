//! Which managed identity the controller itself lives by: it must not take that off a node.

use api::Guid;

use super::{ControllerIdentity, ManagedId};
use crate::host::Immutable;

impl ControllerIdentity {
    /// Has the identity stay where it is attached.
    pub(crate) fn keep(&self, immutable: &Immutable) {
        match self {
            Self::Managed(Some(ManagedId::Client(id))) => immutable.add_client_id(id.clone()),
            Self::Managed(Some(ManagedId::Resource(id))) => immutable.add_id(id.clone()),
            // It may be a managed identity of the same nodes; an application's id matches none.
            Self::Workload { client_id, .. } => {
                if let Ok(id) = client_id.parse::<Guid>() {
                    immutable.add_client_id(id);
                }
            }
            Self::Managed(None) | Self::ServicePrincipal { .. } | Self::Certificate { .. } => {}
        }
    }
}
