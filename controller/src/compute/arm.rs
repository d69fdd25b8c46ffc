//! [`Compute`] over ARM's REST interface: VMs and scale sets, `identity` only.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use api::cloud::Cloud;
use api::{Host, IdentityId};
use azure_core::credentials::TokenCredential;
use azure_core::http::{Transport, Url};
use parking_lot::Mutex;
use runtime::Metrics;
use tokio::time::Instant;

use super::model::{self, View};
use super::operation::{self, Track};
use super::refusal::{Refusal, classify};
use super::request::{EndpointError, Reply, Requests};
use super::{ArmError, Compute, HostIdentities, IdentityDelta, Patched};

/// `Microsoft.Compute/virtualMachines`. The first with ETags is 2024-03-01.
const VM_API_VERSION: &str = "2024-07-01";

/// `Microsoft.Compute/virtualMachineScaleSets`.
const SCALE_SET_API_VERSION: &str = "2024-07-01";

/// How old a view without ETag may be when it is the base of a change. The `type` that we send is
/// made from it, so that an old one could switch off a system-assigned identity.
const VIEW_LIFETIME: Duration = Duration::from_secs(300);

/// The same when the last user-assigned identity goes, which takes along what others attached.
const EMPTYING_VIEW_LIFETIME: Duration = Duration::from_secs(5);

/// Hosts come and go; what was not looked at for so long is forgotten, once there are many.
const SIGHTING_LIFETIME: Duration = Duration::from_secs(3600);
const MANY_SIGHTINGS: usize = 256;

/// The client of one cloud's ARM.
#[derive(Debug)]
pub(crate) struct ArmClient {
    requests: Requests,
    /// What a `HostIdentities` does not hold but the next change needs.
    sightings: Mutex<HashMap<Host, Sighting>>,
}

/// When and as which version a host was seen.
#[derive(Clone, Debug)]
struct Sighting {
    fingerprint: u64,
    unreadable: usize,
    etag: Option<String>,
    at: Instant,
}

/// Why a write did not happen.
enum WriteError {
    /// The host is not what it was seen as.
    Changed(ArmError),
    Arm(ArmError),
}

// === impl ArmClient ===

impl ArmClient {
    /// A client for `cloud` that identifies itself with `credential`.
    pub(crate) fn new(
        cloud: &Cloud,
        credential: Arc<dyn TokenCredential>,
        transport: Transport,
    ) -> Result<Self, EndpointError> {
        let requests = Requests::new(cloud, credential, transport)?;
        Ok(Self { requests, sightings: Mutex::default() })
    }

    /// Makes known how many requests are sent.
    pub(crate) fn register(&self, metrics: &Metrics) {
        self.requests.register(metrics);
    }

    fn url(&self, host: &Host) -> Url {
        let version = match host {
            Host::Vm(_) => VM_API_VERSION,
            Host::ScaleSet(_) => SCALE_SET_API_VERSION,
        };
        self.requests.resource_url(host.id(), version)
    }

    async fn read(&self, host: &Host) -> Result<View, ArmError> {
        let reply = self.requests.get(&self.url(host)).await?;
        if !reply.is_success() {
            let error = classify(Refusal::of(&reply), host, &[]);
            if matches!(error, ArmError::HostNotFound { .. }) {
                self.sightings.lock().remove(host);
            }
            return Err(error);
        }
        let mut view = View::parse(&reply.body).map_err(|error| ArmError::Unavailable {
            message: format!("the answer is no description of a host: {error}"),
            retry_after: None,
        })?;
        view.etag = view.etag.or(reply.etag);
        self.remember(host, &view);
        Ok(view)
    }

    /// Applies `delta`, once more where the host is not what it was seen as.
    async fn change(
        &self,
        host: &Host,
        current: &HostIdentities,
        delta: &IdentityDelta,
        made: &mut IdentityDelta,
    ) -> Result<Patched, ArmError> {
        let mut view = match self.recall(host, current, delta) {
            Some(view) => view,
            None => self.read(host).await?,
        };
        let mut may_look_again = true;
        loop {
            if view.is_deleting() {
                return Err(ArmError::HostDeleting { host: host.clone() });
            }
            let effective = view.effective(delta);
            let there = delta.attach.difference(&effective.attach);
            let found = there.filter(|id| !made.attach.contains(*id)).cloned().collect();
            if effective.is_empty() {
                return Ok(Patched { identities: view.identities, found });
            }
            match self.write(host, view, &effective, made).await {
                Ok(view) => return Ok(Patched { identities: view.identities, found }),
                Err(WriteError::Changed(_)) if may_look_again => {
                    may_look_again = false;
                    view = self.read(host).await?;
                }
                Err(WriteError::Changed(error) | WriteError::Arm(error)) => return Err(error),
            }
        }
    }

    /// Applies an effective delta to a host seen as `view`, and adds to `made` what ARM made of it.
    async fn write(
        &self,
        host: &Host,
        view: View,
        delta: &IdentityDelta,
        made: &mut IdentityDelta,
    ) -> Result<View, WriteError> {
        let mut view = view;
        for batch in model::batches(&view, delta) {
            self.sightings.lock().remove(host); // until the end is known, nothing is
            let answer = self.write_batch(host, &view, &batch).await?;
            view = view.after(&batch, answer);
            made.attach.extend(batch.attach);
            made.detach.extend(batch.detach);
        }
        if !view.details_all(&delta.attach) {
            view = self.read(host).await.map_err(WriteError::Arm)?;
        }
        self.remember(host, &view);
        Ok(view)
    }

    /// One PATCH and its end. Returns the host if the last answer described it.
    async fn write_batch(
        &self,
        host: &Host,
        view: &View,
        batch: &IdentityDelta,
    ) -> Result<Option<View>, WriteError> {
        let url = self.url(host);
        let body = model::body(view, batch);
        let sent: Vec<&IdentityId> = batch.attach.iter().chain(&batch.detach).collect();
        let patched = self.requests.patch(&url, &body, view.etag.as_deref()).await;
        let reply = patched.map_err(WriteError::Arm)?;
        if !reply.is_success() {
            let status = reply.status;
            let error = classify(Refusal::of(&reply), host, &sent);
            return Err(match status {
                412 => WriteError::Changed(error),
                _ => WriteError::Arm(error),
            });
        }
        let Some(track) = Track::of(&reply, &self.requests, &url) else {
            return Ok(described(&reply));
        };
        let finished = operation::finish(&self.requests, track, &url, (host, &sent)).await;
        let finished = finished.map_err(|error| WriteError::Arm(error.midway()))?;
        Ok(finished.filter(View::is_settled))
    }

    // === sightings ===

    fn remember(&self, host: &Host, view: &View) {
        let sighting = Sighting {
            fingerprint: fingerprint(&view.identities),
            unreadable: view.unreadable,
            etag: view.etag.clone(),
            at: Instant::now(),
        };
        let mut sightings = self.sightings.lock();
        if sightings.len() >= MANY_SIGHTINGS {
            sightings.retain(|_, seen| seen.at.elapsed() < SIGHTING_LIFETIME);
        }
        sightings.insert(host.clone(), sighting);
    }

    /// `current` as a base for `delta`, if it is what we saw last and still good.
    fn recall(&self, host: &Host, current: &HostIdentities, delta: &IdentityDelta) -> Option<View> {
        let seen = self.sightings.lock().get(host).cloned()?;
        if seen.fingerprint != fingerprint(current) {
            return None;
        }
        let view =
            View { identities: current.clone(), unreadable: seen.unreadable, etag: seen.etag };
        let lifetime = if view.is_emptied_by(&view.effective(delta)) {
            EMPTYING_VIEW_LIFETIME
        } else {
            VIEW_LIFETIME
        };
        (view.etag.is_some() || seen.at.elapsed() <= lifetime).then_some(view)
    }
}

impl Compute for ArmClient {
    async fn get(&self, host: &Host) -> Result<HostIdentities, ArmError> {
        Ok(self.read(host).await?.identities)
    }

    async fn patch(
        &self,
        host: &Host,
        current: &HostIdentities,
        delta: &IdentityDelta,
    ) -> Result<Patched, ArmError> {
        if delta.is_empty() {
            return Ok(current.clone().into());
        }
        let mut made = IdentityDelta::default();
        let changed = self.change(host, current, delta, &mut made).await;
        changed.map_err(|error| if made.is_empty() { error } else { error.midway() })
    }
}

/// The host as an answer describes it, if it does.
fn described(reply: &Reply) -> Option<View> {
    let mut view = View::parse(&reply.body).ok().filter(View::is_settled)?;
    view.etag = view.etag.or_else(|| reply.etag.clone());
    Some(view)
}

/// Stands for what the next change is made from, at a fraction of its size.
fn fingerprint(identities: &HostIdentities) -> u64 {
    let mut hasher = DefaultHasher::new();
    identities.system_assigned.hash(&mut hasher);
    for id in identities.attached.keys() {
        id.hash(&mut hasher);
    }
    hasher.finish()
}
