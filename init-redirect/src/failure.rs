//! Why the pod must not start: the exit status, and one line with the reason and the remedy.

use std::error::Error as StdError;
use std::io;

use netfilter::Backend;

use crate::host::HostNamespace;
use crate::verify::VerifyError;

/// Longer lines are cut: a termination message has 4096 bytes for all containers of a pod.
const MAX_LINE: usize = 2000;

/// Every way to fail.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An argument is missing or wrong.
    Usage(String),
    /// This is not a pod's own network namespace.
    HostNamespace(HostNamespace),
    /// Something that should always work did not.
    Internal(&'static str, io::Error),
    /// No backend led to a verified redirect; what each of them said.
    NotSet(Vec<(Backend, AttemptError)>),
}

/// How far one backend got.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// It does not even list rules.
    Unusable(netfilter::Error),
    /// The rules could not be written, or read back otherwise.
    Apply(netfilter::Error),
    /// The rules are there and connections go elsewhere.
    Verify(VerifyError),
}

// === impl Failure ===

impl Failure {
    /// One of the statuses in the table at the top of `main.rs`.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::HostNamespace(_) => 78,
            Self::Internal(..) => 70,
            Self::NotSet(attempts) => attempts
                .iter()
                .map(|(_, error)| error)
                .max_by_key(|error| error.progress())
                .map_or(69, AttemptError::exit_status),
        }
    }

    /// The reason and the remedy, in one line.
    pub(crate) fn line(&self) -> String {
        let line = format!("{}. Remedy: {}", self.reason(), self.remedy());
        // clap's messages have several lines
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        line.chars().take(MAX_LINE).collect()
    }

    fn reason(&self) -> String {
        match self {
            Self::Usage(reason) => reason.trim_end().to_owned(),
            Self::HostNamespace(found) => format!("Refused to intercept: {found}"),
            Self::Internal(what, error) => format!("Could not {what}: {error}"),
            Self::NotSet(attempts) => {
                let attempts = attempts.iter().map(|(backend, error)| match error {
                    AttemptError::Unusable(error) => chain(error),
                    AttemptError::Apply(error) => format!("rules not set: {}", chain(error)),
                    AttemptError::Verify(error) => {
                        format!("rules of {backend} without effect: {}", chain(error))
                    }
                });
                let attempts = attempts.collect::<Vec<_>>().join("; ");
                format!("No verified redirect of the metadata address: {attempts}")
            }
        }
    }

    fn remedy(&self) -> &'static str {
        match self.exit_status() {
            64 => "correct the arguments that the injector gives this container",
            69 => {
                "use an image with iptables-nft and iptables-legacy, and a node whose kernel has \
                 nf_tables or x_tables with nat, REDIRECT, REJECT and comment; or do what a \
                 message above says"
            }
            74 => "remove what else writes these chains, or choose another --backend",
            75 => {
                "look for another interception in this pod (a service mesh, a CNI plugin) and for \
                 a route to the metadata address"
            }
            77 => {
                "run this container as uid 0 with the capability NET_ADMIN (for iptables-legacy \
                 NET_RAW too), which the namespace's Pod Security level must allow"
            }
            78 => {
                "pods with hostNetwork cannot be injected, because the rules would take the whole \
                 node's traffic; set the annotation aadpodidentity.k8s.io/inject: \"false\" on \
                 the pod, or remove hostNetwork"
            }
            _ => "report this with the node's kernel version",
        }
    }
}

// === impl AttemptError ===

impl AttemptError {
    /// Whether the process lacks a right.
    pub(crate) fn is_not_permitted(&self) -> bool {
        match self {
            Self::Unusable(error) | Self::Apply(error) => error.is_not_permitted(),
            Self::Verify(_) => false,
        }
    }

    /// The furthest attempt decides what the user is told to do.
    fn progress(&self) -> u8 {
        match self {
            Self::Verify(_) => 3,
            _ if self.is_not_permitted() => 1,
            Self::Apply(_) => 2,
            Self::Unusable(_) => 0,
        }
    }

    fn exit_status(&self) -> u8 {
        match self.progress() {
            3 => 75,
            2 => 74,
            1 => 77,
            _ => 69,
        }
    }
}

/// An error with all its causes.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(backend: Backend) -> netfilter::Error {
        netfilter::Error::NotPermitted { backend, detail: "you must be root".to_owned() }
    }

    fn missing(backend: Backend) -> netfilter::Error {
        netfilter::Error::NotInstalled { backend }
    }

    #[test]
    fn the_furthest_attempt_decides_the_status() {
        use AttemptError::{Apply, Unusable, Verify};
        use Backend::{Legacy, Nft};
        for (expected, attempts) in [
            (69, vec![Unusable(missing(Nft)), Unusable(missing(Legacy))]),
            (77, vec![Unusable(denied(Nft))]),
            (77, vec![Unusable(missing(Nft)), Unusable(denied(Legacy))]),
            (77, vec![Apply(denied(Nft))]),
            (74, vec![Apply(missing(Nft)), Unusable(denied(Legacy))]),
            (75, vec![Verify(VerifyError::Elsewhere { port: 1 }), Unusable(denied(Legacy))]),
            (69, vec![]),
        ] {
            let attempts: Vec<_> = [Nft, Legacy].into_iter().zip(attempts).collect();
            let failure = Failure::NotSet(attempts);
            assert_eq!(failure.exit_status(), expected, "{}", failure.line());
        }
    }

    #[test]
    fn a_failure_is_one_line_with_every_cause_and_a_remedy() {
        let source = io::Error::other("fork failed");
        let start = netfilter::Error::Start { backend: Backend::Nft, source };
        let failure = Failure::NotSet(vec![
            (Backend::Nft, AttemptError::Unusable(start)),
            (Backend::Legacy, AttemptError::Unusable(missing(Backend::Legacy))),
        ]);
        let line = failure.line();
        assert!(line.contains("iptables-nft could not be run: fork failed; iptables-legacy"));
        assert!(line.contains(". Remedy: use an image"), "{line}");
        assert!(!Failure::Usage("a\n\n  b\n".to_owned()).line().contains('\n'));
    }

    #[test]
    fn a_line_fits_into_a_termination_message() {
        assert_eq!(Failure::Usage("x".repeat(9000)).line().len(), MAX_LINE);
    }
}
