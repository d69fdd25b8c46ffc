//! The pod's own token for Entra: read when the agent asks for it, and never kept.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use api::node_api::{Assertion, NodeError, NodeErrorCode};

use super::failure::Failure;

/// The file that the kubelet keeps the token in.
#[derive(Debug)]
pub struct AssertionFile {
    path: PathBuf,
    /// Whether the agent said that it will need the token soon, and has not got it yet.
    wanted: AtomicBool,
    /// Whether it was said already that there is none.
    complained: AtomicBool,
}

// === impl AssertionFile ===

impl AssertionFile {
    /// The token in the file `path`, which need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path, wanted: AtomicBool::new(false), complained: AtomicBool::new(false) }
    }

    /// Takes note that the next request is to bring the token.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Takes note that the agent has it.
    pub(super) fn was_taken(&self) {
        self.wanted.store(false, Ordering::Relaxed);
        self.complained.store(false, Ordering::Relaxed);
    }

    /// The token, if the agent said that it will need it and if there is one.
    pub(super) fn if_wanted(&self) -> Option<Assertion> {
        if !self.wanted.load(Ordering::Relaxed) {
            return None;
        }
        match self.read() {
            Ok(assertion) => Some(assertion),
            // The token that this is to renew is still there: no request fails for it.
            Err(failure) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    tracing::warn!(error = %failure, "Cannot send the pod's token");
                }
                None
            }
        }
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
        file.want();
        for _ in 0..2 {
            assert_eq!(file.if_wanted(), Some(Assertion::new("two")), "until the agent has it");
        }
        file.was_taken();
        assert_eq!(file.if_wanted(), None);
    }

    #[test]
    fn without_a_token_the_error_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = AssertionFile::new(folder.path().join("federated-token"));
        file.want();
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
