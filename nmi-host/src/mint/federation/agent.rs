//! The node agent's own assertion: a projected token that the kubelet renews, read anew for every
//! exchange.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::SystemTime;

use api::node_api::Assertion;
use tokio::io::AsyncReadExt;

use super::Shown;
use super::claims::{Claims, Unfit};
use crate::mint::unix;

/// Where the agent's assertion is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AgentAssertion {
    audience: String,
    file: Option<PathBuf>,
}

/// Why the agent has none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AgentError {
    /// The admin does not want it.
    #[error(
        "this installation's node agents have no federated token: for identities with federatedBy: NodeAgent, set the chart value nmiHost.federatedToken to true"
    )]
    NotSet,
    /// The file.
    #[error(
        "the node agent's federated token cannot be read ({0}): set the chart value nmiHost.federatedToken to true, or correct --federated-token-file"
    )]
    Unreadable(ErrorKind),
    /// What the file holds.
    #[error("the node agent's federated token cannot be used: {0}")]
    Unfit(Unfit),
}

/// Longer than any projected token.
const MAX_BYTES: u64 = 16 * 1024;

// === impl AgentAssertion ===

impl AgentAssertion {
    /// For assertions with this audience, in this file.
    pub(super) fn new(audience: String, file: Option<PathBuf>) -> Self {
        Self { audience, file }
    }

    /// The assertion as it is now.
    pub(super) async fn read(&self) -> Result<Shown, AgentError> {
        let path = self.file.as_ref().ok_or(AgentError::NotSet)?;
        let unreadable = |error: std::io::Error| AgentError::Unreadable(error.kind());
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).await.map_err(unreadable)?;
        let token = text.trim();
        let claims = Claims::read(token, &self.audience, unix(SystemTime::now()));
        let claims = claims.map_err(AgentError::Unfit)?;
        Ok(Shown { assertion: Assertion::new(token), claims })
    }
}

// === impl AgentError ===

impl AgentError {
    /// Whether it may work in a moment: the kubelet renews what has expired.
    pub(crate) fn passes(&self) -> bool {
        matches!(self, Self::Unfit(Unfit::Expired))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{AUDIENCE, assertion, assertion_for};
    use super::*;

    fn reader(file: Option<PathBuf>) -> AgentAssertion {
        AgentAssertion::new(AUDIENCE.to_owned(), file)
    }

    #[tokio::test]
    async fn the_file_is_read_for_every_exchange() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let agent = reader(Some(file.path().to_owned()));
        for seconds in [600, 1200] {
            let current = assertion("nmi-host", seconds);
            std::fs::write(file.path(), format!("{}\n", current.secret())).unwrap();
            assert_eq!(agent.read().await.unwrap().assertion, current);
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_file_is_told_with_the_remedy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let agent = reader(Some(file.path().to_owned()));
        let other = assertion_for("nmi-host", "api://other", 600).secret().to_owned();
        for (content, expected) in [
            ("opaque".to_owned(), AgentError::Unfit(Unfit::NotAToken)),
            (other, AgentError::Unfit(Unfit::OtherAudience(AUDIENCE.to_owned()))),
            (assertion("nmi-host", 0).secret().to_owned(), AgentError::Unfit(Unfit::Expired)),
        ] {
            std::fs::write(file.path(), &content).unwrap();
            let error = agent.read().await.unwrap_err();
            assert_eq!(error.passes(), error == AgentError::Unfit(Unfit::Expired));
            assert_eq!(error, expected);
            assert!(!format!("{error} {error:?}").contains(&content));
        }
        let missing = reader(Some(file.path().join("missing"))).read().await.unwrap_err();
        assert!(matches!(missing, AgentError::Unreadable(_)), "{missing:?}");
        let unset = reader(None).read().await.unwrap_err();
        for error in [missing, unset] {
            assert!(error.to_string().contains("nmiHost.federatedToken"), "{error}");
            assert!(!error.passes());
        }
    }
}
