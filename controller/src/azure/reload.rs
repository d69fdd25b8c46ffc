//! A credential that is made from files, as the files are now: whoever rotates what is in them needs
//! no restart.

use std::error::Error;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use super::AzureError;

/// How often files are compared with what is in use, at most.
pub(super) const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Stands for the content of a file, which holds secrets and is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(u64);

/// Reads files of a few kilobytes at most; `None`: the credential in use is still the right one.
type Look = dyn FnMut() -> Result<Option<Arc<dyn TokenCredential>>, AzureError> + Send;

/// The credential of files. Those that are broken or gone leave the last good one in use.
pub(super) struct Reloading {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    look: Box<Look>,
    looked: Instant,
    credential: Arc<dyn TokenCredential>,
    /// Why it was not reloaded, the last time.
    failure: Option<String>,
    failing: Gauge,
}

// === impl Fingerprint ===

impl Fingerprint {
    pub(super) fn of<T: Hash + ?Sized>(content: &T) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Self(hasher.finish())
    }
}

// === impl Reloading ===

impl Reloading {
    /// Begins with the `credential` that was made of what the file at `path` held; `look` looks
    /// there again. `failing` is 1 while that fails.
    pub(super) fn new(
        path: &Path,
        credential: Arc<dyn TokenCredential>,
        failing: Gauge,
        look: impl FnMut() -> Result<Option<Arc<dyn TokenCredential>>, AzureError> + Send + 'static,
    ) -> Self {
        failing.set(0);
        let (look, looked) = (Box::new(look), Instant::now());
        let state = State { look, looked, credential, failure: None, failing };
        Self { path: path.to_owned(), state: Mutex::new(state) }
    }

    fn current(&self) -> Arc<dyn TokenCredential> {
        let mut state = self.state.lock();
        if state.looked.elapsed() >= RELOAD_INTERVAL {
            state.looked = Instant::now();
            self.reload(&mut state);
        }
        Arc::clone(&state.credential)
    }

    fn reload(&self, state: &mut State) {
        let file = self.path.display();
        match (state.look)() {
            Ok(new) => {
                state.note(None);
                if let Some(credential) = new {
                    state.credential = credential;
                    tracing::info!(%file, "Credential reloaded");
                }
            }
            Err(error) => {
                let reason = error.source().map(ToString::to_string);
                if state.note(Some(format!("{error}: {reason:?}"))) {
                    tracing::warn!(%file, %error, reason, "Credential was not reloaded");
                }
            }
        }
    }
}

impl fmt::Debug for Reloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloading").field("path", &self.path).finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    /// Whether this is news: a failure can last for days.
    fn note(&mut self, failure: Option<String>) -> bool {
        self.failing.set(i64::from(failure.is_some()));
        let is_news = failure != self.failure;
        self.failure = failure;
        is_news
    }
}

/// Nothing of the file is in use any more.
impl Drop for State {
    fn drop(&mut self) {
        self.failing.set(0);
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

    use super::super::file;
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

    /// Reads the file: if it is empty it is broken, and upper case means the same.
    fn echo(path: &Path) -> Result<Option<Arc<dyn TokenCredential>>, AzureError> {
        let text = String::from_utf8(file::read(path)?).unwrap();
        match text.as_str() {
            "" => Err(AzureError::Empty { path: path.to_owned() }),
            upper if upper == text.to_uppercase() => Ok(None),
            _ => Ok(Some(Arc::new(Echo(text)))),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_new_in_the_file_is_used_and_what_is_broken_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let write = |content: &str| std::fs::write(file.path(), content).unwrap();
        write("old");
        let (first, failing) = (echo(&path).unwrap().unwrap(), Gauge::default());
        let credential = Reloading::new(file.path(), first, failing.clone(), move || echo(&path));
        let token = async || {
            let token = credential.get_token(&["scope"], None).await.unwrap();
            token.token.secret().to_owned()
        };

        write("new");
        assert_eq!(token().await, "old", "the file is not read for every request");
        for (content, expected, broken) in [
            ("new", "new", 0),
            ("", "new", 1),
            ("NEW", "new", 0),
            ("newer", "newer", 0),
            ("", "newer", 1),
        ] {
            write(content);
            tokio::time::advance(RELOAD_INTERVAL).await;
            assert_eq!((token().await.as_str(), failing.get()), (expected, broken), "{content:?}");
        }
        std::fs::remove_file(file.path()).unwrap();
        tokio::time::advance(RELOAD_INTERVAL).await;
        assert_eq!((token().await.as_str(), failing.get()), ("newer", 1));
        drop(credential);
        assert_eq!(failing.get(), 0, "nobody looks at that file any more");
    }

    #[test]
    fn a_failure_is_news_once() {
        let credential: Arc<dyn TokenCredential> = Arc::new(Echo(String::new()));
        let look = Box::new(|| Ok(None));
        let (looked, failing) = (Instant::now(), Gauge::default());
        let mut state = State { look, looked, credential, failure: None, failing };
        let mut note = |text: &str| state.note(Some(text.to_owned()));
        assert_eq!(["gone", "gone", "empty"].map(&mut note), [true, false, true]);
        assert!(state.note(None) && !state.note(None));
    }
}
