//! The world on disk: what was changed survives a restart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::azure::Azure;
use crate::files::{self, Access};
use crate::world::World;

/// Changes within this time are written together.
const GATHER: Duration = Duration::from_millis(200);

/// The state file. It holds the client secrets of the fake's apps, so only its owner reads it.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    path: PathBuf,
}

/// Why the state file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read or written.
    #[error("{0} cannot be read or written")]
    File(PathBuf, #[source] io::Error),
    /// The file is not a world.
    #[error("{0} is not a world: remove it to start from the seed")]
    Content(PathBuf, #[source] serde_json::Error),
}

impl Store {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { path: dir.join("state.json") }
    }

    /// The saved world, if there is one.
    pub(crate) fn load(&self) -> Result<Option<World>, StoreError> {
        let content =
            files::read(&self.path).map_err(|error| StoreError::File(self.path.clone(), error))?;
        let Some(content) = content else { return Ok(None) };
        let mut world: World = serde_json::from_slice(&content)
            .map_err(|error| StoreError::Content(self.path.clone(), error))?;
        world.settle();
        Ok(Some(world))
    }

    pub(crate) fn save(&self, world: &World) -> Result<(), StoreError> {
        let content = serde_json::to_vec_pretty(world)
            .map_err(|error| StoreError::Content(self.path.clone(), error))?;
        files::replace(&self.path, &content, Access::Owner)
            .map_err(|error| StoreError::File(self.path.clone(), error))
    }

    /// Saves after changes, and once more at the end.
    pub(crate) async fn follow(self, azure: Arc<Azure>, stop: CancellationToken) {
        let mut stopped = false;
        while !stopped {
            tokio::select! {
                () = azure.changed.notified() => {
                    tokio::select! {
                        () = tokio::time::sleep(GATHER) => {}
                        () = stop.cancelled() => stopped = true,
                    }
                }
                () = stop.cancelled() => stopped = true,
            }
            let world = azure.world.read().clone();
            if let Err(error) = self.save(&world) {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "Cannot save the world");
            }
        }
    }
}
