//! The credential of an `azure.json` as it is now: whoever rotates the secret in the file needs no
//! restart.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::selection::identity_of_file;
use super::{AzureError, ControllerIdentity, file};

/// How often the file is compared with what is in use, at most.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// An `azure.json` and which content of it is in use.
#[derive(Clone, Debug)]
pub(super) struct CloudConfigFile {
    path: PathBuf,
    fingerprint: u64,
}

/// Makes the library's credential for an identity.
type Build =
    dyn Fn(&ControllerIdentity) -> Result<Arc<dyn TokenCredential>, AzureError> + Send + Sync;

/// The credential of the file. A file that is broken or gone leaves the last good one in use.
pub(super) struct Reloading {
    build: Box<Build>,
    state: Mutex<State>,
}

struct State {
    file: CloudConfigFile,
    checked: Instant,
    identity: ControllerIdentity,
    credential: Arc<dyn TokenCredential>,
}

// === impl CloudConfigFile ===

impl CloudConfigFile {
    /// The file at `path`, whose `content` is in use.
    pub(super) fn new(path: &Path, content: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Self { path: path.to_owned(), fingerprint: hasher.finish() }
    }
}

// === impl Reloading ===

impl Reloading {
    /// Begins with the `credential` of the `identity` that `file` held.
    pub(super) fn new(
        file: CloudConfigFile,
        identity: ControllerIdentity,
        credential: Arc<dyn TokenCredential>,
        build: impl Fn(&ControllerIdentity) -> Result<Arc<dyn TokenCredential>, AzureError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let state = State { file, checked: Instant::now(), identity, credential };
        Self { build: Box::new(build), state: Mutex::new(state) }
    }

    fn current(&self) -> Arc<dyn TokenCredential> {
        let mut state = self.state.lock();
        if state.checked.elapsed() >= RELOAD_INTERVAL {
            state.checked = Instant::now();
            if let Err(error) = self.reload(&mut state) {
                tracing::warn!(%error, "Cloud config was not reloaded");
            }
        }
        Arc::clone(&state.credential)
    }

    /// Reads the file, a few hundred bytes, and takes over what changed.
    fn reload(&self, state: &mut State) -> Result<(), AzureError> {
        let path = &state.file.path;
        let content = file::read(path)?;
        let now = CloudConfigFile::new(path, &content);
        if now.fingerprint == state.file.fingerprint {
            return Ok(());
        }
        let identity = identity_of_file(&file::parse(path, &content)?)?;
        if identity != state.identity {
            state.credential = (self.build)(&identity)?;
            tracing::info!(%identity, "Credential reloaded from the cloud config");
            state.identity = identity;
        }
        state.file = now;
        Ok(())
    }
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenCredential for Reloading {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let credential = self.current();
        credential.get_token(scopes, options).await
    }
}

#[cfg(test)]
mod tests {
    use azure_core::time::OffsetDateTime;

    use super::*;

    /// Its token is the identity's own description, or its secret.
    #[derive(Debug)]
    struct Echo(String);

    #[async_trait]
    impl TokenCredential for Echo {
        async fn get_token(
            &self,
            _: &[&str],
            _: Option<TokenRequestOptions<'_>>,
        ) -> azure_core::Result<AccessToken> {
            Ok(AccessToken::new(self.0.clone(), OffsetDateTime::now_utc()))
        }
    }

    fn echo(identity: &ControllerIdentity) -> Arc<dyn TokenCredential> {
        Arc::new(Echo(match identity {
            ControllerIdentity::ServicePrincipal { secret, .. } => secret.secret().to_owned(),
            other => other.to_string(),
        }))
    }

    fn principal(secret: &str) -> String {
        serde_json::json!({"tenantId": "t", "aadClientId": "c", "aadClientSecret": secret})
            .to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn a_rotated_secret_is_used_and_a_broken_file_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |content: &str| std::fs::write(file.path(), content).unwrap();
        write(&principal("old"));
        let content = file::read(file.path()).unwrap();
        let identity = identity_of_file(&file::parse(file.path(), &content).unwrap()).unwrap();
        let first = echo(&identity);
        let source = CloudConfigFile::new(file.path(), &content);
        let credential = Reloading::new(source, identity, first, |identity| Ok(echo(identity)));
        let token = async || {
            let token = credential.get_token(&["scope"], None).await.unwrap();
            token.token.secret().to_owned()
        };

        write(&principal("new"));
        assert_eq!(token().await, "old", "the file is not read for every request");
        tokio::time::advance(RELOAD_INTERVAL).await;
        assert_eq!(token().await, "new");

        for broken in ["{", "{}", &principal("")] {
            write(broken);
            tokio::time::advance(RELOAD_INTERVAL).await;
            assert_eq!(token().await, "new", "{broken}");
        }
        write(r#"{"useManagedIdentityExtension": true}"#);
        tokio::time::advance(RELOAD_INTERVAL).await;
        assert_eq!(token().await, "system-assigned managed identity");
        std::fs::remove_file(file.path()).unwrap();
        tokio::time::advance(RELOAD_INTERVAL).await;
        assert_eq!(token().await, "system-assigned managed identity");
    }
}
