//! The custom resources of `aadpodidentity.k8s.io/v1`, one file a kind.

mod assigned;
mod attachment;
mod binding;
mod exception;
mod federated_by;
mod identity;
mod identity_type;
mod manifests;
mod validation;

pub use assigned::{
    AssignedState, AzureAssignedIdentity, AzureAssignedIdentitySpec, AzureAssignedIdentityStatus,
    assigned_name,
};
pub use attachment::{
    AttachedIdentity, AzureIdentityAttachment, AzureIdentityAttachmentSpec,
    AzureIdentityAttachmentStatus, FailingIdentity, HostState, attachment_name,
};
pub use binding::{AzureIdentityBinding, AzureIdentityBindingSpec, AzureIdentityBindingStatus};
pub use exception::{AzurePodIdentityException, AzurePodIdentityExceptionSpec};
pub use federated_by::FederatedBy;
pub use identity::{
    AzureIdentity, AzureIdentitySpec, AzureIdentityStatus, IdentityProblem, SecretRef,
};
pub use identity_type::IdentityType;
pub use manifests::manifests;

/// Condition type of `AzureIdentity` and `AzureIdentityBinding`: does it work, and why not.
pub const READY: &str = "Ready";
