//! Sees from outside when identities are assigned to pods and when they are gone, by a watch of its
//! own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use api::{AssignedState, AzureAssignedIdentity};
use futures::StreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::world::NAMESPACE;

/// Follows the assignments from when it was made; stops when dropped.
pub(super) struct Follower {
    changes: UnboundedReceiver<(Instant, String, State)>,
    states: HashMap<String, State>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Assigned,
    Gone,
}

/// The API server ends watches when it pleases: of kinds that were defined a moment ago rather
/// soon. Then it goes on where it was.
async fn follow(
    api: &Api<AzureAssignedIdentity>,
    mut version: String,
    sender: &UnboundedSender<(Instant, String, State)>,
) -> Result<()> {
    loop {
        let Ok(events) = api.watch(&WatchParams::default().timeout(290), &version).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut events = events.boxed();
        while let Some(Ok(event)) = events.next().await {
            let now = Instant::now();
            let (object, state) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let assigned = object.state() == AssignedState::Assigned;
                    (object, if assigned { State::Assigned } else { State::Waiting })
                }
                WatchEvent::Deleted(object) => (object, State::Gone),
                WatchEvent::Bookmark(_) | WatchEvent::Error(_) => continue,
            };
            version = object.metadata.resource_version.unwrap_or(version);
            sender.send((now, object.spec.pod, state))?;
        }
    }
}

// === impl Follower ===

impl Follower {
    /// Begins to follow.
    pub(super) async fn start(client: &Client) -> Result<Self> {
        let api: Api<AzureAssignedIdentity> = Api::namespaced(client.clone(), NAMESPACE);
        let list = api.list_metadata(&ListParams::default().limit(1)).await?;
        let version = list.metadata.resource_version.context("a list without a version")?;
        let (sender, changes) = unbounded_channel();
        let task = tokio::spawn(async move { drop(follow(&api, version, &sender).await) });
        Ok(Self { changes, states: HashMap::new(), task })
    }

    /// Waits until `count` pods have their identity; returns when the last one got it.
    pub(super) async fn assigned(&mut self, count: usize, patience: Duration) -> Result<Instant> {
        self.until(count, State::Assigned, patience).await
    }

    /// Waits until the assignments of `count` pods are gone; returns when the last one went.
    pub(super) async fn gone(&mut self, count: usize, patience: Duration) -> Result<Instant> {
        self.until(count, State::Gone, patience).await
    }

    /// Forgets what it saw.
    pub(super) fn forget(&mut self) {
        self.states.clear();
    }

    async fn until(&mut self, count: usize, state: State, patience: Duration) -> Result<Instant> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut have = self.states.values().filter(|one| **one == state).count();
        let mut last = Instant::now();
        while have < count {
            let next = tokio::time::timeout_at(deadline, self.changes.recv()).await;
            let Ok(Some((at, pod, now))) = next else {
                bail!("{have} of {count} pods are {state:?} after {patience:?}");
            };
            let before = self.states.insert(pod, now);
            if now == state && before != Some(state) {
                have += 1;
                last = at;
            } else if before == Some(state) && now != state {
                have -= 1;
            }
        }
        Ok(last)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}
