//! Takes over what MIC left behind, as long as this replica leads: claims what it attached, and
//! removes its objects when nobody needs them any more.
//!
//! What to do is `leftover`'s decision; that a claim is recorded is the host workers' work.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use api::matching::Scope;
use api::{AzureAssignedIdentity, Host, IdentityId};
use futures::StreamExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use tokio::sync::watch;

use super::leftover::{Keep, Removal, review};
use super::metrics::AdoptionMetrics;
use crate::fault::fault_point;
use crate::lease::Leadership;
use crate::snapshot::Snapshot;
use crate::watch::{Dirty, Stores};

/// How soon to look again while there is something to do, and while there is nothing.
const BUSY: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(30);

const IN_FLIGHT: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Identities that MIC attached, by host.
pub(crate) type Claims = BTreeMap<Host, BTreeSet<IdentityId>>;

/// Works for one term of leadership.
pub(crate) struct Adopter {
    pub(crate) client: Client,
    pub(crate) stores: Stores,
    pub(crate) scope: Scope,
    pub(crate) leadership: Leadership,
    pub(crate) claims: watch::Sender<Arc<Claims>>,
    pub(crate) dirty: Dirty,
    pub(crate) metrics: AdoptionMetrics,
}

// === impl Adopter ===

impl Adopter {
    /// Works until it is dropped.
    pub(crate) async fn run(self) {
        if self.stores.complete().await.is_err() {
            // The reconciler reports it.
            return std::future::pending().await;
        }
        let mut said = 0;
        loop {
            let snapshot = Snapshot::take(&self.stores);
            let review = review(&snapshot, self.scope);
            drop(snapshot);
            let count = review.removable.len() + review.kept.len();
            self.metrics.leftovers(count);
            self.claim(review.claims);
            if count != said {
                report(count, &review.kept);
                said = count;
            }
            self.remove(review.removable).await;
            tokio::time::sleep(if count == 0 { IDLE } else { BUSY }).await;
        }
    }

    fn claim(&self, now: Claims) {
        let changed = self.claims.send_if_modified(|claims| {
            let changed = **claims != now;
            if changed {
                *claims = Arc::new(now);
            }
            changed
        });
        if changed {
            self.dirty.ring();
        }
    }

    async fn remove(&self, removals: Vec<Removal>) {
        futures::stream::iter(removals)
            .for_each_concurrent(IN_FLIGHT, |removal| async move {
                if self.leadership.remaining().is_none() {
                    return;
                }
                let at = &removal.key;
                match tokio::time::timeout(TIMEOUT, remove_one(&self.client, &removal)).await {
                    Ok(Ok(())) => {
                        self.metrics.removed();
                        tracing::debug!(assigned = %at, "Removed what MIC left behind");
                    }
                    Ok(Err(error)) => {
                        tracing::warn!(assigned = %at, %error, "Cannot remove what MIC left behind");
                    }
                    Err(_) => tracing::warn!(assigned = %at, "No answer to a removal in time"),
                }
            })
            .await;
    }
}

/// First the finalizer, then the object: a crash in between leaves what is found again.
async fn remove_one(client: &Client, removal: &Removal) -> Result<(), kube::Error> {
    let (at, uid) = (&removal.key, Some(removal.uid.clone()));
    let api: Api<AzureAssignedIdentity> = Api::namespaced(client.clone(), &at.namespace);
    if removal.held {
        let patch = serde_json::json!({"metadata": {
            "resourceVersion": removal.version,
            "finalizers": removal.finalizers,
        }});
        let patch = Patch::Merge(patch);
        if !happened(api.patch(&at.name, &PatchParams::default(), &patch).await)? {
            return Ok(());
        }
    }
    fault_point!("leftover", "between");
    let precondition = Preconditions { uid, resource_version: None };
    let params = DeleteParams::default().preconditions(precondition);
    happened(api.delete(&at.name, &params).await).map(drop)
}
/// What is gone, or has changed by now, needs nothing; the next look will show.
fn happened<T>(result: Result<T, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(false),
        result => result.map(|_| true),
    }
}

fn report(count: usize, kept: &[(crate::snapshot::ObjectKey, Keep)]) {
    if count == 0 {
        tracing::info!("Nothing is left of aad-pod-identity's assignments");
        return;
    }
    let mut reasons: HashMap<Keep, usize> = HashMap::new();
    for (_, keep) in kept {
        *reasons.entry(*keep).or_default() += 1;
    }
    let of = |keep| reasons.get(&keep).copied().unwrap_or_default();
    let example = kept.iter().find(|(_, keep)| *keep == Keep::InUse).map(|(at, _)| at.to_string());
    tracing::info!(
        left = count,
        to_record = of(Keep::Unrecorded),
        in_use = of(Keep::InUse),
        example,
        "Taking over the assignments of aad-pod-identity"
    );
}

#[cfg(test)]
#[path = "adopter_tests.rs"]
mod tests;
