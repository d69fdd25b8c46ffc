//! Who asks for a token: the pod, and the service account that it was authenticated as.

use std::fmt;

use crate::pods::PodRef;

/// Who asks for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The pod whose identities are meant.
    pub(crate) pod: PodRef,
    /// The pod's service account as the API server named it. None for a process of the node, which
    /// asks on behalf of a pod and shows no token of it.
    pub(crate) account: Option<ServiceAccount>,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ServiceAccount {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

const PREFIX: &str = "system:serviceaccount:";

// === impl Caller ===

impl Caller {
    /// A process of the node that asks on behalf of a pod.
    pub(crate) fn of_node(pod: PodRef) -> Self {
        Self { pod, account: None }
    }
}

// === impl ServiceAccount ===

impl ServiceAccount {
    /// Reads the user name that the API server gives a service account, which is also the subject
    /// of its tokens.
    pub(crate) fn from_subject(subject: &str) -> Option<Self> {
        let (namespace, name) = subject.strip_prefix(PREFIX)?.split_once(':')?;
        if namespace.is_empty() || name.is_empty() || name.contains(':') {
            return None;
        }
        Some(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// The subject of its tokens.
impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:{}", self.namespace, self.name)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// The pod `team/web-0` with the service account `default`.
    pub(crate) fn caller() -> Caller {
        let account = ServiceAccount { namespace: "team".to_owned(), name: "default".to_owned() };
        Caller { pod: crate::assigned::testing::pod(), account: Some(account) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_read_and_written_alike() {
        let account = ServiceAccount::from_subject("system:serviceaccount:team:web").unwrap();
        assert_eq!((account.namespace.as_str(), account.name.as_str()), ("team", "web"));
        assert_eq!(account.to_string(), "system:serviceaccount:team:web");
        for bad in [
            "",
            "system:node:node-1",
            "system:serviceaccount:team",
            "system:serviceaccount::web",
            "system:serviceaccount:team:",
            "system:serviceaccount:team:web:x",
            "system:serviceaccounts:team:web",
        ] {
            assert_eq!(ServiceAccount::from_subject(bad), None, "{bad}");
        }
    }
}
