//! When the process is asked to end.

use tokio_util::sync::CancellationToken;

/// A token that SIGTERM and SIGINT cancel. Clones see the same cancellation.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

/// The process could not listen for signals.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for signals")]
pub struct SignalError(#[source] std::io::Error);

impl Shutdown {
    /// A shutdown that only [`Shutdown::begin`] triggers: for tests and nested lifetimes.
    pub fn manual() -> Self {
        Self::default()
    }

    /// A shutdown that SIGTERM or SIGINT triggers.
    pub fn on_signals() -> Result<Self, SignalError> {
        use tokio::signal::unix::{SignalKind, signal};

        let mut terminate = signal(SignalKind::terminate()).map_err(SignalError)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(SignalError)?;
        let shutdown = Self::default();
        let token = shutdown.0.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "Shutting down"),
                _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "Shutting down"),
            }
            token.cancel();
        });
        Ok(shutdown)
    }

    /// Ends the process's work.
    pub fn begin(&self) {
        self.0.cancel();
    }

    /// Whether the end has been asked for.
    pub fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when the end has been asked for.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}
