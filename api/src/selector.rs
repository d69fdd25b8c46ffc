//! How a caller names the identity whose token it wants.

use crate::arm_id::IdentityId;
use crate::guid::Guid;

/// One of the three names that Azure gives an identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdentitySelector {
    /// `client_id`: the application id.
    ClientId(Guid),
    /// `object_id` / `principal_id`: the service principal's object id.
    ObjectId(Guid),
    /// `msi_res_id` and its spellings: the ARM id.
    ResourceId(IdentityId),
}

impl std::fmt::Display for IdentitySelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClientId(id) => write!(f, "client id {id}"),
            Self::ObjectId(id) => write!(f, "object id {id}"),
            Self::ResourceId(id) => write!(f, "resource id {id}"),
        }
    }
}
