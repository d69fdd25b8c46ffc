//! The closed sets that labels are taken from: never a name, an id or an error text.

use std::fmt;

/// What a sidecar asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A token.
    Token,
    /// The pod's identities.
    Assignment,
}

/// How a review of a pod's token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReviewResult {
    /// A pod of this node.
    Authenticated,
    /// No pod that the API server vouches for.
    Rejected,
    /// A pod of another node.
    WrongNode,
    /// The API server could not be asked.
    Unavailable,
}

/// Who issues tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Issuer {
    /// The VM's metadata service.
    Imds,
    /// An authority of Entra.
    Entra,
}

/// How a call to the metadata service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImdsResult {
    /// With a token of the right identity.
    Token,
    /// The identity is not known there, or not yet.
    UnknownIdentity,
    /// Refused for good.
    Refused,
    /// With the token of another identity.
    WrongToken,
    /// It asked to slow down.
    Throttled,
    /// No answer in time, a server error or an answer that makes no sense.
    Unavailable,
}

/// How a call to Entra for an application ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntraResult {
    /// With a token of the right application.
    Token,
    /// It did not come to a call: the credential could not be had.
    NoCredential,
    /// Refused for good.
    Refused,
    /// With the token of another application or tenant.
    WrongToken,
    /// It asked to slow down.
    Throttled,
    /// No answer in time, a server error or an answer that makes no sense.
    Unavailable,
}

/// Why a call was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Withheld {
    /// It has failed for a while and is asked only once in a while.
    CircuitOpen,
    /// Too many others wait for their turn.
    NoTurn,
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// `AzureAssignedIdentity` objects of this node.
    Assigned,
    /// Pods of this node.
    Pods,
    /// `AzurePodIdentityException` objects.
    Exceptions,
    /// The Secret with the serving certificate.
    Certificate,
    /// The agent's own DaemonSet.
    DaemonSet,
}

// === impls ===

impl Operation {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Assignment => "assignment",
        }
    }
}

impl ReviewResult {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Authenticated => "authenticated",
            Self::Rejected => "rejected",
            Self::WrongNode => "wrong_node",
            Self::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Imds => "Azure's metadata service",
            Self::Entra => "Entra",
        })
    }
}

impl Issuer {
    /// The name in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::Entra => "entra",
        }
    }
}

impl ImdsResult {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::UnknownIdentity => "unknown_identity",
            Self::Refused => "refused",
            Self::WrongToken => "wrong_token",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }
}

impl EntraResult {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::NoCredential => "no_credential",
            Self::Refused => "refused",
            Self::WrongToken => "wrong_token",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Withheld {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::NoTurn => "no_turn",
        }
    }
}

impl Watch {
    /// The name in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Pods => "pods",
            Self::Exceptions => "exceptions",
            Self::Certificate => "certificate",
            Self::DaemonSet => "daemonset",
        }
    }
}
