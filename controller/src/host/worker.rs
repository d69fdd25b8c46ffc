//! Executes the steps of one host, one after the other, and shows others how far it is.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use api::{Host, IdentityId};
use tokio::sync::watch;
use tracing::Instrument;

use super::model::{HostModel, HostSettings, Step};
use super::record::{Entries, RecordError, Records};
use super::sign_in::SignIn;
use super::telling::Status;
use super::throttles::Throttles;
use super::view::HostView;
use crate::adoption::Claims;
use crate::clock::Clock;
use crate::compute::{Compute, HostIdentities, IdentityDelta};
use crate::fault::fault_point;
use crate::lease::Leadership;
use crate::metrics::{ArmCall, ControllerMetrics};
use crate::watch::Dirty;

/// How long a change takes before the record says that it is under way.
const PATIENCE: Duration = Duration::from_secs(5);

/// What all workers share.
pub(crate) struct HostContext<C, R> {
    pub(crate) compute: Arc<C>,
    pub(crate) records: R,
    pub(crate) settings: Arc<HostSettings>,
    pub(crate) claims: watch::Receiver<Arc<Claims>>,
    pub(crate) leadership: Leadership,
    pub(crate) sign_in: SignIn,
    pub(crate) throttles: Throttles,
    pub(crate) metrics: ControllerMetrics,
    pub(crate) clock: Clock,
    pub(crate) dirty: Dirty,
}

/// The worker of one host.
pub(super) struct Worker<C, R> {
    pub(super) host: Host,
    pub(super) context: Arc<HostContext<C, R>>,
    pub(super) needed: watch::Receiver<BTreeSet<IdentityId>>,
    pub(super) view: watch::Sender<Arc<HostView>>,
}

// === impl Worker ===

impl<C: Compute, R: Records> Worker<C, R> {
    /// Works until nothing is needed and nothing is ours, or leadership ends.
    pub(super) async fn run(mut self) -> Host {
        let span = tracing::info_span!("host", host = %self.host);
        let mut model = HostModel::new(self.context.settings.clone());
        let mut claims = self.context.claims.clone();
        async {
            loop {
                model.set_needed(self.needed.borrow_and_update().clone());
                let claimed = claims.borrow_and_update().get(&self.host).cloned();
                model.set_claimed(claimed.unwrap_or_default());
                self.publish(&model);
                let now = self.context.clock.now();
                match model.next(now) {
                    Step::Done => break,
                    Step::Wait(until) => {
                        let alarm = tokio::time::sleep_until(self.context.clock.instant(until));
                        tokio::select! {
                            changed = self.needed.changed() => if changed.is_err() { break },
                            Ok(()) = claims.changed() => {}
                            () = alarm => {}
                        }
                    }
                    // Whoever is not the leader any more calls nobody: another replica does.
                    _ if self.context.leadership.remaining().is_none() => break,
                    Step::Get | Step::Patch(..)
                        if let Some(until) = self.context.throttles.until(&self.host, now) =>
                    {
                        model.on_held(until);
                    }
                    step => self.execute(&mut model, step).await,
                }
            }
        }
        .instrument(span)
        .await;
        self.host
    }

    fn publish(&self, model: &HostModel) {
        let view = model.view();
        let changed = self.view.send_if_modified(|shown| {
            let changed = **shown != view;
            if changed {
                *shown = Arc::new(view);
            }
            changed
        });
        if changed {
            self.context.dirty.touch_host(&self.host);
        }
    }

    async fn execute(&self, model: &mut HostModel, step: Step) {
        match step {
            Step::Load => self.load(model).await,
            Step::Save(entries, version) => self.save(model, entries, version).await,
            Step::Get => self.get(model).await,
            Step::Patch(current, delta) => self.patch(model, &current, &delta).await,
            Step::Tell(status, version) => self.tell(model, (*status).clone(), version).await,
            Step::Wait(_) | Step::Done => {}
        }
    }

    async fn load(&self, model: &mut HostModel) {
        match self.context.records.load(&self.host).await {
            Ok(record) => model.on_loaded(record, self.context.clock.now()),
            Err(error) => {
                tracing::warn!(%error, "Cannot read the record of the host");
                model.on_record_error(&error, self.context.clock.now());
            }
        }
    }

    async fn save(&self, model: &mut HostModel, entries: Entries, version: Option<String>) {
        let name = if entries.is_empty() { "record_remove" } else { "record_save" };
        fault_point!(name, "before");
        let saved = self.context.records.save(&self.host, &entries, version.as_deref());
        let Some(result) = self.context.leadership.fenced(saved).await else { return };
        fault_point!(name, "after");
        self.context.metrics.wrote(name, result.as_ref().map_or_else(RecordError::name, |_| "ok"));
        match result {
            Ok(record) => model.on_saved(record),
            Err(error) => {
                tracing::warn!(%error, "Cannot write the record of the host");
                model.on_record_error(&error, self.context.clock.now());
            }
        }
    }

    async fn get(&self, model: &mut HostModel) {
        let result = self.context.compute.get(&self.host).await;
        self.context.metrics.arm_call(ArmCall::Get, result.as_ref().err());
        self.context.sign_in.note(result.as_ref().err());
        let now = self.context.clock.now();
        match result {
            Ok(identities) => model.on_identities(identities, now),
            Err(error) => {
                tracing::warn!(%error, "Cannot read the identities of the host");
                model.on_get_error(&error, now);
                self.context.throttles.note(&self.host, &error, model.not_before);
            }
        }
    }

    async fn patch(&self, model: &mut HostModel, current: &HostIdentities, delta: &IdentityDelta) {
        fault_point!(if delta.detach.is_empty() { "attach" } else { "detach" }, "before");
        let patched = self.context.compute.patch(&self.host, current, delta);
        let patched = self.context.leadership.fenced(patched);
        let Some(result) = self.patiently(model, patched).await else { return };
        fault_point!(if delta.detach.is_empty() { "attach" } else { "detach" }, "after");
        self.context.metrics.arm_call(ArmCall::Patch, result.as_ref().err());
        self.context.sign_in.note(result.as_ref().err());
        let now = self.context.clock.now();
        let (attach, detach) = (list(&delta.attach), list(&delta.detach));
        match result {
            Ok(patched) => {
                tracing::info!(attach, detach, "Changed the identities of the host");
                model.on_patched(patched, delta, now);
            }
            Err(error) => {
                tracing::warn!(%error, attach, detach, "Cannot change the identities of the host");
                model.on_patch_error(&error, delta, now);
                self.context.throttles.note(&self.host, &error, model.not_before);
            }
        }
    }

    /// Waits for ARM, and says so in the record when that takes long.
    async fn patiently<T>(&self, model: &mut HostModel, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        if let Ok(result) = tokio::time::timeout(PATIENCE, &mut call).await {
            return result;
        }
        let Some((status, version)) = model.say_meanwhile(self.context.clock.now()) else {
            return call.await;
        };
        let told = self.tell(model, status, version);
        tokio::join!(call, told).0
    }

    async fn tell(&self, model: &mut HostModel, status: Status, version: String) {
        fault_point!("record_status", "before");
        let told = self.context.records.tell(&self.host, &status, &version);
        let Some(result) = self.context.leadership.fenced(told).await else { return };
        fault_point!("record_status", "after");
        match result {
            Ok(version) => model.on_told(status, version),
            Err(error) => {
                tracing::warn!(%error, "Cannot say in the record how the host stands");
                model.on_tell_error(&error, self.context.clock.now());
            }
        }
    }
}

fn list(ids: &BTreeSet<IdentityId>) -> String {
    ids.iter().map(IdentityId::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
