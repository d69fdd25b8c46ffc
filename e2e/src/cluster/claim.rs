//! There is one cluster on a machine: its namespaces and ports have fixed names. Says whose it is,
//! and keeps two commands from changing it at once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::files::{self, Access};
use crate::lock::Lock;
use crate::paths::State;
use crate::progress::Progress;

/// Forgotten at boot, like the namespaces.
const FOLDER: &str = "/run/pod-identity-sidecar";

/// The right to change this machine's cluster, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    owner_file: PathBuf,
    _lock: Lock,
}

impl Claim {
    /// Waits until no other command changes the cluster; refuses if there is one in another folder.
    pub(super) async fn take(state: &State, progress: &Progress) -> Result<Self> {
        Self::take_in(Path::new(FOLDER), state, progress).await
    }

    async fn take_in(folder: &Path, state: &State, progress: &Progress) -> Result<Self> {
        let lock = folder.join("lock");
        let lock = Lock::take(&lock, "changing the cluster", progress).await?;
        let owner_file = folder.join("state");
        let owner = fs::read_to_string(&owner_file).unwrap_or_default();
        let owner = Path::new(owner.trim());
        if owner != state.root() {
            if owner.join("cluster.json").exists() {
                bail!(
                    "the cluster of this machine has its state in {0}: use --state-dir {0}, or take it down first",
                    owner.display()
                );
            }
            check_folder(state)?;
        }
        let root = state.root().to_string_lossy();
        files::write(&owner_file, root.as_bytes(), Access::Public)?;
        Ok(Self { owner_file, _lock: lock })
    }

    /// There is no cluster any more.
    pub(super) fn release(self) -> Result<()> {
        files::remove(&self.owner_file).context("cannot remove the cluster's claim")
    }
}

/// The folder of a cluster is removed in the end: it must hold nothing else.
fn check_folder(state: &State) -> Result<()> {
    let is_empty = fs::read_dir(state.root()).map_or(true, |mut entries| entries.next().is_none());
    if is_empty || state.record().exists() {
        return Ok(());
    }
    bail!(
        "{} is not empty and holds no cluster: choose another --state-dir, or empty it",
        state.root().display()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_with_something_else_in_it_is_refused_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let state = State::new(&dir.path().join("mine")).unwrap();
        files::write(&state.root().join("thesis.txt"), "", Access::Public).unwrap();
        for _ in 0..2 {
            let refused = Claim::take_in(&folder, &state, &Progress::silent()).await.unwrap_err();
            assert!(refused.to_string().contains("holds no cluster"), "{refused}");
        }
        files::write(&state.record(), "{}", Access::Public).unwrap();
        Claim::take_in(&folder, &state, &Progress::silent()).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_lost_its_record_by_hand_is_still_ours() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let state = State::new(&dir.path().join("mine")).unwrap();
        drop(Claim::take_in(&folder, &state, &Progress::silent()).await.unwrap());
        files::write(&state.root().join("node1/left"), "", Access::Public).unwrap();
        Claim::take_in(&folder, &state, &Progress::silent()).await.unwrap();
    }

    #[tokio::test]
    async fn a_living_cluster_in_another_folder_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let (one, two) = (State::new(&one).unwrap(), State::new(&two).unwrap());
        let quiet = Progress::silent();
        files::write(&one.record(), "{}", Access::Public).unwrap();
        drop(Claim::take_in(&folder, &one, &quiet).await.unwrap());
        let refused = Claim::take_in(&folder, &two, &quiet).await.unwrap_err().to_string();
        assert!(refused.contains("take it down first"), "{refused}");
        Claim::take_in(&folder, &one, &quiet).await.unwrap().release().unwrap();
        Claim::take_in(&folder, &two, &quiet).await.unwrap();
    }

    #[tokio::test]
    async fn the_claim_of_a_folder_that_is_gone_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let gone = State::new(&dir.path().join("gone")).unwrap();
        let here = State::new(&dir.path().join("here")).unwrap();
        drop(Claim::take_in(&folder, &gone, &Progress::silent()).await.unwrap());
        Claim::take_in(&folder, &here, &Progress::silent()).await.unwrap();
    }
}
