//! The pod's own token for Entra: read when the agent asks for it, and never kept.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use api::node_api::{Assertion, NodeError, NodeErrorCode};

use super::failure::Failure;

/// The file that the kubelet keeps the token in.
#[derive(Debug)]
pub struct AssertionFile {
    path: PathBuf,
    /// Whether the agent said that it will need the token soon.
    wanted: AtomicBool,
}

// === impl AssertionFile ===

impl AssertionFile {
    /// The token in the file `path`, which need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path, wanted: AtomicBool::new(false) }
    }

    /// Takes note of whether the next request is to bring the token.
    pub(super) fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// The token, if the agent said that it will need it and if there is one.
    pub(super) fn if_wanted(&self) -> Option<Assertion> {
        if !self.wanted.load(Ordering::Relaxed) {
            return None;
        }
        // The token that this is to renew is still there: no request fails for it.
        self.read()
            .inspect_err(|failure| tracing::warn!(error = %failure, "Cannot send the pod's token"))
            .ok()
    }

    /// The token as it is now: the kubelet replaces it every hour.
    pub(super) fn read(&self) -> Result<Assertion, Failure> {
        let why = match std::fs::read_to_string(&self.path) {
            Ok(token) if !token.trim().is_empty() => return Ok(Assertion::new(token.trim())),
            Ok(_) => "it is empty".to_owned(),
            Err(error) => error.to_string(),
        };
        let message = format!(
            "the identity is federated by the pod, and the sidecar has no token for that in {} \
             ({why}): have an admin set the chart's value sidecar.federatedToken to true, then \
             recreate the pod",
            self.path.display()
        );
        Err(NodeError::new(NodeErrorCode::AssertionRequired, message).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_each_time_and_only_when_the_agent_wants_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = AssertionFile::new(folder.path().join("federated-token"));
        for token in ["one", "two"] {
            std::fs::write(&file.path, format!("{token}\n")).unwrap();
            assert_eq!(file.read().unwrap().secret(), token);
        }
        assert_eq!(file.if_wanted(), None);
        file.want(true);
        assert_eq!(file.if_wanted(), Some(Assertion::new("two")));
        file.want(false);
        assert_eq!(file.if_wanted(), None);
    }

    #[test]
    fn without_a_token_the_error_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = AssertionFile::new(folder.path().join("federated-token"));
        file.want(true);
        for content in [None, Some(""), Some(" \n")] {
            if let Some(content) = content {
                std::fs::write(&file.path, content).unwrap();
            }
            assert_eq!(file.if_wanted(), None, "{content:?}");
            let error = file.read().unwrap_err().to_string();
            for part in ["sidecar.federatedToken", "recreate the pod", "federated-token"] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}
