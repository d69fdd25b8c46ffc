//! Claims, renews and vacates the lease, and runs the leader's work exactly while it is held.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use runtime::Shutdown;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::claim::{Claim, Decision, Leadership, Observed, claimed, vacated};
use crate::fault::fault_point;

/// How often a replica that waits looks at the lease; also bounds a clean hand-over.
const POLL: Duration = Duration::from_secs(2);
const CALL: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
/// How long a replica that resigned leaves the lease to others.
const RESIGNED: Duration = Duration::from_secs(30);

/// Which lease, and who claims it.
#[derive(Clone, Debug)]
pub(crate) struct LeaseSettings {
    /// Namespace of the lease.
    pub(crate) namespace: String,
    /// Name of the lease.
    pub(crate) name: String,
    /// This replica; different for each.
    pub(crate) holder: String,
    /// How long a claim holds.
    pub(crate) duration: Duration,
}

/// The leader's work ended although it was still the leader.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeadError {
    /// It returned an error.
    #[error("{0}")]
    Failed(String),
    /// It panicked.
    #[error("the leader's work panicked")]
    Panicked,
}

/// One replica's side of the election.
pub(crate) struct LeaseManager {
    api: Api<Lease>,
    settings: LeaseSettings,
    claim: watch::Sender<Option<Claim>>,
    observed: Option<Observed>,
}

// === impl LeaseManager ===

impl LeaseManager {
    /// A replica that has not asked yet.
    pub(crate) fn new(client: Client, settings: LeaseSettings) -> Self {
        let api = Api::namespaced(client, &settings.namespace);
        Self { api, settings, claim: watch::Sender::new(None), observed: None }
    }

    /// Runs `lead` whenever this replica holds the lease, and cancels it when it does not any
    /// more. Vacates the lease at shutdown, after the work has ended, and when the work ends by
    /// itself: then another replica is to try, and this one only after a while.
    pub(crate) async fn run<F, E>(
        mut self,
        shutdown: Shutdown,
        lead: impl Fn(Leadership) -> F,
    ) -> Result<(), LeadError>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        loop {
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                () = self.acquire() => {}
            }
            tracing::info!(holder = self.settings.holder, "Leading");
            let leadership = Leadership::new(self.claim.subscribe());
            let work = named(lead(leadership.clone()));
            let mut work = AbortOnDrop(tokio::spawn(async move { leadership.fenced(work).await }));
            let ended = tokio::select! {
                ended = &mut work.0 => Some(ended),
                () = self.hold() => None,
                () = shutdown.begun() => None,
            };
            self.claim.send_replace(None);
            match ended {
                None => work.end().await,
                // It saw that the claim has ended before `hold` did.
                Some(Ok(None)) => {}
                Some(ended) => {
                    self.vacate().await;
                    outcome(ended)?;
                    if timeout(RESIGNED, shutdown.begun()).await.is_ok() {
                        return Ok(());
                    }
                    continue;
                }
            }
            if shutdown.has_begun() {
                self.vacate().await;
                return Ok(());
            }
            tracing::warn!(holder = self.settings.holder, "Not leading any more");
        }
    }

    /// Waits until the lease is ours.
    async fn acquire(&mut self) {
        let mut failing = false;
        loop {
            match self.try_acquire().await {
                Ok(true) => return,
                Ok(false) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "Cannot ask for the lease");
                }
                Err(error) => tracing::debug!(%error, "Still cannot ask for the lease"),
            }
            sleep(self.poll()).await;
        }
    }

    async fn try_acquire(&mut self) -> Result<bool, LeaseError> {
        self.observe().await?;
        let decision = match &self.observed {
            Some(observed) => observed.decide(&self.settings.holder, Instant::now()),
            None => Decision::Claim,
        };
        match decision {
            Decision::Wait(_) => Ok(false),
            Decision::Claim => match self.write_claim(CALL).await {
                Ok(()) => Ok(true),
                // Another replica was faster.
                Err(LeaseError::Conflict) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    /// Renews the claim until it is lost; returns at its expiry at the latest.
    async fn hold(&mut self) {
        let mut pause = self.settings.duration / 3;
        loop {
            let Some(expiry) = self.expiry() else { return };
            if timeout_at(expiry, sleep(pause)).await.is_err() {
                return;
            }
            let result = timeout_at(expiry, self.renew()).await;
            pause = match result {
                Ok(Ok(true)) => self.settings.duration / 3,
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "Cannot renew the lease");
                    RETRY.min(self.settings.duration / 6)
                }
            };
        }
    }

    /// Whether the lease is still ours.
    async fn renew(&mut self) -> Result<bool, LeaseError> {
        let patience = CALL.min(self.settings.duration / 3);
        match self.write_claim(patience).await {
            Ok(()) => Ok(true),
            Err(LeaseError::Conflict) => {
                // Somebody edited it, or an answer of ours was lost. Both leave us the holder.
                self.observe().await?;
                let holder = self.observed.as_ref().map_or("", Observed::holder);
                if holder != self.settings.holder {
                    return Ok(false);
                }
                self.write_claim(patience).await.map(|()| true)
            }
            Err(error) => Err(error),
        }
    }

    async fn observe(&mut self) -> Result<(), LeaseError> {
        let found = call(CALL, self.api.get_opt(&self.settings.name)).await?;
        let before = self.observed.take();
        self.observed = found.map(|lease| Observed::update(before, lease, Instant::now()));
        Ok(())
    }

    async fn write_claim(&mut self, patience: Duration) -> Result<(), LeaseError> {
        let sent = Instant::now();
        let now = MicroTime(Timestamp::now());
        let base = self.observed.as_ref().map(|observed| observed.lease().clone());
        let exists = base.is_some();
        let base = base.unwrap_or_else(|| self.blank());
        let lease = claimed(base, &self.settings.holder, self.settings.duration, now);
        let params = PostParams::default();
        fault_point!(if exists { "lease_renew" } else { "lease_create" }, "before");
        let stored = if exists {
            call(patience, self.api.replace(&self.settings.name, &params, &lease)).await?
        } else {
            call(patience, self.api.create(&params, &lease)).await?
        };
        fault_point!(if exists { "lease_renew" } else { "lease_create" }, "after");
        self.observed = Some(Observed::update(None, stored, Instant::now()));
        let expiry = sent + self.settings.duration;
        self.claim.send_replace(Some(Claim { expiry }));
        Ok(())
    }

    /// Best effort: a lease that cannot be vacated expires.
    async fn vacate(&mut self) {
        let Some(observed) = self.observed.take() else { return };
        if observed.holder() != self.settings.holder {
            return;
        }
        fault_point!("lease_vacate", "before");
        let lease = vacated(observed.lease().clone(), MicroTime(Timestamp::now()));
        match call(CALL, self.api.replace(&self.settings.name, &PostParams::default(), &lease))
            .await
        {
            Ok(_) => tracing::info!(holder = self.settings.holder, "Gave the lease back"),
            Err(error) => tracing::warn!(%error, "Cannot give the lease back"),
        }
    }

    fn blank(&self) -> Lease {
        let metadata =
            ObjectMeta { name: Some(self.settings.name.clone()), ..ObjectMeta::default() };
        Lease { metadata, ..Lease::default() }
    }

    fn expiry(&self) -> Option<Instant> {
        self.claim.borrow().as_ref().map(|claim| claim.expiry)
    }

    fn poll(&self) -> Duration {
        POLL.min(self.settings.duration / 3)
    }
}

/// Why the lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("the lease has changed")]
    Conflict,
    #[error("{0}")]
    Api(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

async fn call<T>(
    patience: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, LeaseError> {
    match timeout(patience, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status)))
            if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
        {
            Err(LeaseError::Conflict)
        }
        Ok(Err(error)) => Err(LeaseError::Api(error.to_string())),
        Err(_) => Err(LeaseError::TimedOut(patience)),
    }
}

async fn named<E: Display>(work: impl Future<Output = Result<(), E>>) -> Result<(), String> {
    work.await.map_err(|error| format!("{error:#}"))
}

fn outcome(ended: Result<Option<Result<(), String>>, JoinError>) -> Result<(), LeadError> {
    match ended {
        Ok(None | Some(Ok(()))) => Ok(()),
        Ok(Some(Err(reason))) => Err(LeadError::Failed(reason)),
        Err(_) => Err(LeadError::Panicked),
    }
}

/// Work that does not outlive the claim under which it was started.
struct AbortOnDrop(tokio::task::JoinHandle<Option<Result<(), String>>>);

impl AbortOnDrop {
    async fn end(mut self) {
        self.0.abort();
        // Nothing of it may run when the lease is given back.
        drop((&mut self.0).await);
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
