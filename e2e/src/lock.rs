//! Keeps two commands from doing the same at once.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::progress::Progress;

const RETRY: Duration = Duration::from_millis(100);

/// Held until dropped; the kernel drops it with the process.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Waits for the lock, and says so if it has to.
    ///
    /// It asks again and again instead of blocking, because the holder may be a task of this thread.
    pub async fn take(path: &Path, activity: &str, progress: &Progress) -> Result<Self> {
        let wait = async {
            let mut said = false;
            loop {
                if let Some(lock) = Self::try_take(path)? {
                    return Ok(lock);
                }
                if !said {
                    progress.step(format!("waiting for another command that is {activity}"));
                    said = true;
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        progress.watch(&format!("waiting for another command that is {activity}"), wait).await
    }

    fn try_take(path: &Path) -> Result<Option<Self>> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let file = File::create(path).with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first_even_on_the_same_thread() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/lock");
        let quiet = Progress::silent();
        let first = Lock::take(&path, "testing", &quiet).await.unwrap();
        let mut second = Box::pin(Lock::take(&path, "testing", &quiet));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        second.await.unwrap();
    }
}
