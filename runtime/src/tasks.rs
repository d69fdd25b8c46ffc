//! Supervised tasks: none ends unnoticed. One that fails, panics or returns before shutdown takes
//! the process down with its name, so that Kubernetes restarts it.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinSet};

use crate::shutdown::Shutdown;

/// The tasks of a process.
pub struct Tasks {
    shutdown: Shutdown,
    set: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
}

/// Why the process has to end.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task returned an error.
    #[error("task {name} failed: {reason}")]
    Failed {
        /// The task.
        name: &'static str,
        /// Its error.
        reason: String,
    },
    /// A task panicked.
    #[error("task {name} panicked")]
    Panicked {
        /// The task.
        name: &'static str,
    },
    /// A task returned although nobody asked it to.
    #[error("task {name} ended by itself")]
    Ended {
        /// The task.
        name: &'static str,
    },
    /// Tasks did not end in time after shutdown.
    #[error("tasks still running {0:?} after shutdown: {1}")]
    Stuck(Duration, String),
}

impl Tasks {
    /// No tasks yet.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, set: JoinSet::new(), names: HashMap::new() }
    }

    /// Starts a task that runs until shutdown.
    pub fn spawn<E: Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle =
            self.set.spawn(async move { task.await.map_err(|error| format!("{error:#}")) });
        self.names.insert(handle.id(), name);
    }

    /// Waits for shutdown, then for every task at most `grace` long.
    pub async fn supervise(mut self, grace: Duration) -> Result<(), TaskError> {
        while let Some(ended) = self.next_before_shutdown().await {
            self.check(ended, false)?;
        }
        let deadline = tokio::time::sleep(grace);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                ended = self.set.join_next_with_id() => match ended {
                    Some(ended) => self.check(ended, true)?,
                    None => return Ok(()),
                },
                () = &mut deadline => {
                    let mut names: Vec<_> = self.names.values().copied().collect();
                    names.sort_unstable();
                    return Err(TaskError::Stuck(grace, names.join(", ")));
                }
            }
        }
    }

    async fn next_before_shutdown(&mut self) -> Option<Ended> {
        if self.set.is_empty() {
            self.shutdown.begun().await;
            return None;
        }
        tokio::select! {
            biased;
            () = self.shutdown.begun() => None,
            ended = self.set.join_next_with_id() => ended,
        }
    }

    fn check(&mut self, ended: Ended, shutting_down: bool) -> Result<(), TaskError> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Some(result)),
            Err(error) => (error.id(), None),
        };
        let name = self.names.remove(&id).unwrap_or("unnamed");
        match result {
            None => Err(TaskError::Panicked { name }),
            Some(Err(reason)) => Err(TaskError::Failed { name, reason }),
            Some(Ok(())) if shutting_down || self.shutdown.has_begun() => Ok(()),
            Some(Ok(())) => Err(TaskError::Ended { name }),
        }
    }
}

type Ended = Result<(Id, Result<(), String>), tokio::task::JoinError>;

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(50);

    async fn run(task: impl Future<Output = Result<(), String>> + Send + 'static) -> TaskError {
        let mut tasks = Tasks::new(Shutdown::manual());
        tasks.spawn("idle", std::future::pending::<Result<(), String>>());
        tasks.spawn("it", task);
        tasks.supervise(GRACE).await.unwrap_err()
    }

    #[tokio::test]
    async fn every_early_end_is_named() {
        let failed = run(async { Err("no disk".to_owned()) }).await;
        assert_eq!(failed.to_string(), "task it failed: no disk");
        let ended = run(async { Ok(()) }).await;
        assert_eq!(ended.to_string(), "task it ended by itself");
        let panicked = run(async { panic!("boom") }).await;
        assert_eq!(panicked.to_string(), "task it panicked");
    }

    #[tokio::test]
    async fn after_shutdown_tasks_may_end_but_not_linger() {
        let shutdown = Shutdown::manual();
        let mut tasks = Tasks::new(shutdown.clone());
        let wait = shutdown.clone();
        tasks.spawn("polite", async move {
            wait.begun().await;
            Ok::<_, String>(())
        });
        shutdown.begin();
        tasks.supervise(GRACE).await.unwrap();

        let mut tasks = Tasks::new(shutdown);
        tasks.spawn("stubborn", std::future::pending::<Result<(), String>>());
        let error = tasks.supervise(GRACE).await.unwrap_err();
        assert!(error.to_string().ends_with("stubborn"), "{error}");
    }
}
