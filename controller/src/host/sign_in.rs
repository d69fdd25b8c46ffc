//! Whether ARM lets this replica in. One that runs where its credential is of no use, such as on a
//! node without the managed identity, has to give way to another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::compute::ArmError;

/// Since when the replica is not let in; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct SignIn(Arc<watch::Sender<Option<Instant>>>);

impl Default for SignIn {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

// === impl SignIn ===

impl SignIn {
    /// A call to ARM ended so.
    pub(super) fn note(&self, error: Option<&ArmError>) {
        let failed = match error.map(ArmError::cause) {
            Some(ArmError::Authentication { .. }) => true,
            // Nobody was asked as whom.
            Some(ArmError::Unavailable { .. } | ArmError::TimedOut { .. }) => return,
            _ => false,
        };
        self.0.send_if_modified(|since| {
            let changed = since.is_some() != failed;
            if changed {
                *since = failed.then(Instant::now);
            }
            changed
        });
    }

    /// Waits until the replica has not been let in for so long, without a single exception.
    pub(crate) async fn fails_for(&self, patience: Duration) {
        let mut since = self.0.subscribe();
        loop {
            let failing = *since.borrow_and_update();
            let remaining = match failing {
                Some(first) => patience.saturating_sub(first.elapsed()),
                None => Duration::MAX,
            };
            // The sender lives as long as this.
            if timeout(remaining, since.changed()).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    fn refused() -> ArmError {
        ArmError::Authentication { message: "no such identity".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_unbroken_row_of_refusals_counts() {
        let sign_in = SignIn::default();
        let watcher = sign_in.clone();
        let started = Instant::now();
        let given_up = tokio::spawn(async move {
            watcher.fails_for(PATIENCE).await;
            started.elapsed().as_secs()
        });
        let pass = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        sign_in.note(Some(&refused()));
        pass(100).await;
        sign_in.note(Some(&ArmError::TimedOut { after: PATIENCE }));
        sign_in.note(Some(&refused()));
        pass(10).await;
        sign_in.note(None);
        pass(300).await;
        assert!(!given_up.is_finished(), "it was let in once");
        sign_in.note(Some(&refused()));
        assert_eq!(given_up.await.unwrap(), 100 + 10 + 300 + 120);
    }
}
