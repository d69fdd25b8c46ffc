//! Why ARM did not do what it was asked, in the few conditions that the controller tells apart.
//!
//! Which of them an answer means is decided in `refusal`.

use std::fmt;
use std::time::Duration;

use api::{Host, IdentityId};

/// Why ARM did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArmError {
    /// The VM or scale set does not exist (any more).
    #[error("ARM knows no {host}")]
    HostNotFound {
        /// The host that was asked for.
        host: Host,
    },
    /// The host is being deleted and takes no changes.
    #[error("{host} is being deleted")]
    HostDeleting {
        /// The host that was to be changed.
        host: Host,
    },
    /// The controller itself may not read or write the host.
    #[error("ARM denied the controller access to the host: {message}")]
    Forbidden {
        /// ARM's own words.
        message: String,
        /// What an admin has to run.
        remedy: Option<String>,
    },
    /// One or several identities of the request cannot be attached or detached. The others were
    /// not applied either, but can be once these are left out.
    #[error("ARM refused the identity ({code}): {message}")]
    IdentityRefused {
        /// The identities of the request that ARM names; never empty.
        identities: Vec<IdentityId>,
        /// ARM's error code.
        code: String,
        /// ARM's own words.
        message: String,
        /// What an admin has to run or change.
        remedy: Option<String>,
    },
    /// Nobody can change the host as it stands, with whatever identity.
    #[error("ARM lets nobody change the host ({code}): {message}")]
    Blocked {
        /// ARM's error code.
        code: String,
        /// ARM's own words.
        message: String,
        /// What an admin has to run or change.
        remedy: String,
    },
    /// Another operation is in flight on the host, or it changed in between.
    #[error("the host is busy or has changed ({code}): {message}")]
    Conflict {
        /// ARM's error code.
        code: String,
        /// ARM's own words.
        message: String,
        /// When ARM wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Too many requests.
    #[error("ARM throttles the {scope}")]
    Throttled {
        /// Whose requests were too many.
        scope: ThrottleScope,
        /// When ARM wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// ARM could not be reached, or could not answer.
    #[error("ARM is not available: {message}")]
    Unavailable {
        /// What happened.
        message: String,
        /// When ARM wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// An answer, or the end of an operation, did not come in time. The change may still happen.
    #[error("ARM did not finish within {} s", after.as_secs())]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// The controller has no token for ARM, or ARM does not accept it.
    #[error("cannot authenticate to ARM: {message}")]
    Authentication {
        /// What the credential or ARM said.
        message: String,
    },
    /// ARM refuses the request for a reason that no identity of it explains.
    #[error("ARM refused the request ({code}): {message}")]
    Rejected {
        /// ARM's error code.
        code: String,
        /// ARM's own words.
        message: String,
    },
    /// The same, but after ARM had accepted the change or a part of it: how much of it was made is
    /// to be seen on the host.
    #[error(transparent)]
    Midway(Box<Self>),
}

/// Whose requests were too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThrottleScope {
    /// Requests for this VM or scale set.
    Host,
    /// All requests of the subscription.
    Subscription,
}

// === impl ArmError ===

impl ArmError {
    /// Whether it is certain that the request changed nothing: ARM refused it before it began.
    ///
    /// Without an answer, and after the answer of a server that has trouble, nobody knows.
    pub(crate) fn changed_nothing(&self) -> bool {
        match self {
            Self::HostNotFound { .. }
            | Self::HostDeleting { .. }
            | Self::Forbidden { .. }
            | Self::IdentityRefused { .. }
            | Self::Blocked { .. }
            | Self::Conflict { .. }
            | Self::Throttled { .. }
            | Self::Authentication { .. }
            | Self::Rejected { .. } => true,
            Self::Unavailable { .. } | Self::TimedOut { .. } | Self::Midway(_) => false,
        }
    }

    /// What went wrong, whenever it did.
    pub(crate) fn cause(&self) -> &Self {
        match self {
            Self::Midway(error) => error.cause(),
            error => error,
        }
    }

    /// The same, of a change that ARM had accepted.
    pub(super) fn midway(self) -> Self {
        if self.changed_nothing() { Self::Midway(Box::new(self)) } else { self }
    }

    /// How long ARM wants not to be asked, if it said so.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Conflict { retry_after, .. }
            | Self::Throttled { retry_after, .. }
            | Self::Unavailable { retry_after, .. } => *retry_after,
            Self::Midway(error) => error.retry_after(),
            _ => None,
        }
    }

    /// Whether the same request can succeed later without anybody changing anything.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Conflict { .. }
            | Self::Throttled { .. }
            | Self::Unavailable { .. }
            | Self::TimedOut { .. } => true,
            Self::HostNotFound { .. }
            | Self::HostDeleting { .. }
            | Self::Forbidden { .. }
            | Self::IdentityRefused { .. }
            | Self::Blocked { .. }
            | Self::Authentication { .. }
            | Self::Rejected { .. } => false,
            Self::Midway(error) => error.is_transient(),
        }
    }

    /// A name from a closed set, for metrics and event reasons.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::HostNotFound { .. } => "host_not_found",
            Self::HostDeleting { .. } => "host_deleting",
            Self::Forbidden { .. } => "forbidden",
            Self::IdentityRefused { .. } => "identity_refused",
            Self::Blocked { .. } => "blocked",
            Self::Conflict { .. } => "conflict",
            Self::Throttled { .. } => "throttled",
            Self::Unavailable { .. } => "unavailable",
            Self::TimedOut { .. } => "timed_out",
            Self::Authentication { .. } => "authentication",
            Self::Rejected { .. } => "rejected",
            Self::Midway(error) => error.code(),
        }
    }

    /// What an admin can do about it, e.g. the command that grants the missing role.
    pub(crate) fn remedy(&self) -> Option<String> {
        match self {
            Self::Forbidden { remedy, .. } | Self::IdentityRefused { remedy, .. } => remedy.clone(),
            Self::Blocked { remedy, .. } => Some(remedy.clone()),
            Self::Midway(error) => error.remedy(),
            _ => None,
        }
    }
}

impl fmt::Display for ThrottleScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Subscription => "subscription",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{id, vm};
    use super::*;

    /// One of each, and whether it says that nothing was changed.
    fn all() -> Vec<(ArmError, bool)> {
        let (code, message) = ("Code".to_owned(), "words".to_owned());
        let (wait, remedy) = (Duration::from_secs(7), Some("do".to_owned()));
        let retry_after = Some(wait);
        let refused = ArmError::IdentityRefused {
            identities: vec![id("a")],
            code: code.clone(),
            message: message.clone(),
            remedy: remedy.clone(),
        };
        let (text, words) = (code.clone(), message.clone());
        let blocked = ArmError::Blocked { code: text, message: words, remedy: "do".to_owned() };
        let conflict =
            ArmError::Conflict { code: code.clone(), message: message.clone(), retry_after };
        vec![
            (ArmError::HostNotFound { host: vm() }, true),
            (ArmError::HostDeleting { host: vm() }, true),
            (ArmError::Forbidden { message: message.clone(), remedy }, true),
            (refused, true),
            (blocked, true),
            (conflict, true),
            (ArmError::Throttled { scope: ThrottleScope::Host, retry_after }, true),
            (ArmError::Unavailable { message: message.clone(), retry_after }, false),
            (ArmError::TimedOut { after: wait }, false),
            (ArmError::Authentication { message: message.clone() }, true),
            (ArmError::Rejected { code, message }, true),
        ]
    }

    #[test]
    fn only_a_refusal_before_the_change_began_changed_nothing() {
        for (error, certain) in all() {
            assert_eq!(error.changed_nothing(), certain, "{error:?}");
            assert!(!error.clone().midway().changed_nothing(), "{error:?}");
        }
    }

    #[test]
    fn what_went_wrong_is_told_the_same_whenever_it_did() {
        for (error, _) in all() {
            let midway = error.clone().midway().midway();
            assert_eq!(midway.cause(), &error);
            assert_eq!(midway.to_string(), error.to_string());
            assert_eq!(midway.code(), error.code());
            assert_eq!(midway.remedy(), error.remedy());
            assert_eq!(midway.retry_after(), error.retry_after());
            assert_eq!(midway.is_transient(), error.is_transient());
        }
    }
}
