//! A credential that is made from a file, as the file is now: whoever rotates what is in it needs no
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

use super::{AzureError, file};

/// How often the file is compared with what is in use, at most.
pub(super) const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Stands for the content of a file, which holds secrets and is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

/// Makes a credential of a file's new content; `None`: the one in use is still the right one.
type Make =
    dyn FnMut(&[u8]) -> Result<Option<Arc<dyn TokenCredential>>, AzureError> + Send + 'static;

/// The credential of a file. A file that is broken or gone leaves the last good one in use.
pub(super) struct Reloading {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    make: Box<Make>,
    /// Of the content that is in use.
    fingerprint: Fingerprint,
    checked: Instant,
    credential: Arc<dyn TokenCredential>,
}

// === impl Fingerprint ===

impl Fingerprint {
    pub(super) fn of(content: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Self(hasher.finish())
    }
}

// === impl Reloading ===

impl Reloading {
    /// Begins with the `credential` that was made of what the file at `path` held.
    pub(super) fn new(
        path: &Path,
        fingerprint: Fingerprint,
        credential: Arc<dyn TokenCredential>,
        make: impl FnMut(&[u8]) -> Result<Option<Arc<dyn TokenCredential>>, AzureError> + Send + 'static,
    ) -> Self {
        let checked = Instant::now();
        let state = State { make: Box::new(make), fingerprint, checked, credential };
        Self { path: path.to_owned(), state: Mutex::new(state) }
    }

    fn current(&self) -> Arc<dyn TokenCredential> {
        let mut state = self.state.lock();
        if state.checked.elapsed() >= RELOAD_INTERVAL {
            state.checked = Instant::now();
            if let Err(error) = self.reload(&mut state) {
                let reason = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, reason, "Credential was not reloaded");
            }
        }
        Arc::clone(&state.credential)
    }

    /// Reads the file, a few kilobytes at most, and takes over what changed.
    fn reload(&self, state: &mut State) -> Result<(), AzureError> {
        let content = file::read(&self.path)?;
        let now = Fingerprint::of(&content);
        if now == state.fingerprint {
            return Ok(());
        }
        if let Some(credential) = (state.make)(&content)? {
            state.credential = credential;
            tracing::info!(file = %self.path.display(), "Credential reloaded");
        }
        state.fingerprint = now;
        Ok(())
    }
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("path", &self.path).finish_non_exhaustive()
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

    /// Its token is what the file held.
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

    /// An empty file is broken, and upper case means the same.
    fn echo(content: &[u8]) -> Result<Option<Arc<dyn TokenCredential>>, AzureError> {
        let text = String::from_utf8(content.to_vec()).unwrap();
        match text.as_str() {
            "" => Err(AzureError::Invalid { path: "empty".into(), line: 1, column: 1 }),
            upper if upper == text.to_uppercase() => Ok(None),
            _ => Ok(Some(Arc::new(Echo(text)))),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_new_in_the_file_is_used_and_what_is_broken_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |content: &str| std::fs::write(file.path(), content).unwrap();
        write("old");
        let first = echo(b"old").unwrap().unwrap();
        let credential = Reloading::new(file.path(), Fingerprint::of(b"old"), first, echo);
        let token = async || {
            let token = credential.get_token(&["scope"], None).await.unwrap();
            token.token.secret().to_owned()
        };

        write("new");
        assert_eq!(token().await, "old", "the file is not read for every request");
        for (content, expected) in
            [("new", "new"), ("", "new"), ("NEW", "new"), ("newer", "newer"), ("", "newer")]
        {
            write(content);
            tokio::time::advance(RELOAD_INTERVAL).await;
            assert_eq!(token().await, expected, "{content:?}");
        }
        std::fs::remove_file(file.path()).unwrap();
        tokio::time::advance(RELOAD_INTERVAL).await;
        assert_eq!(token().await, "newer");
    }
}
