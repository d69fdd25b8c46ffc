//! The vocabulary that the parts share: custom resources and what of an object is read at all,
//! labels, ids, matching rules, wire types.
//!
//! ```text
//! Pod --label aadpodidbinding--> AzureIdentityBinding --name, same namespace--> AzureIdentity
//!  └─ AzureAssignedIdentity (one per pod and identity, written by the controller, read by nmi-host)
//! ```
//!
//! Everything here is pure: no client, no clock, no runtime.

pub mod arm_id;
pub mod cloud;
pub mod correlation;
pub mod crd;
pub mod guid;
pub mod host;
pub mod labels;
pub mod matching;
pub mod node_api;
pub mod resource;
pub mod selector;
pub mod slim;
pub mod tenant;
pub mod token_hash;

pub use arm_id::{ArmId, IdentityId};
pub use correlation::CorrelationId;
pub use crd::{
    AssignedState, AzureAssignedIdentity, AzureAssignedIdentitySpec, AzureAssignedIdentityStatus,
    AzureIdentity, AzureIdentityAttachment, AzureIdentityBinding, AzureIdentityBindingSpec,
    AzureIdentitySpec, AzurePodIdentityException, AzurePodIdentityExceptionSpec, FederatedBy,
    IdentityType,
};
pub use guid::Guid;
pub use host::Host;
pub use resource::is_resource;
pub use selector::IdentitySelector;
pub use slim::Slim;
pub use tenant::Tenant;
pub use token_hash::TokenHash;
