//! The certificates by which the API server trusts the webhook and sidecars trust nmi-host.
//!
//! One authority, kept in a Secret, signs a certificate for each of the two servers. Its own
//! certificate goes into the webhook configuration and into a ConfigMap of every opted-in
//! namespace. A new authority is published there for a day before anything is signed with it.

mod authority;
mod plan;
mod publish;
mod secrets;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kube::Client;
use runtime::{Latch, ServingCert, Shutdown};
use tokio::sync::watch;

use self::authority::IssueError;
use self::plan::{Names, Trust};
use self::publish::Publisher;
use self::secrets::Secrets;

/// How long an idle pass waits: the other replica may have changed something.
const INTERVAL: Duration = Duration::from_secs(30);

/// How long a failed pass waits.
const RETRY: Duration = Duration::from_secs(2);

/// Where the objects are.
#[derive(Clone, Debug)]
pub(crate) struct TrustConfig {
    /// The release namespace.
    pub(crate) namespace: String,
    /// The release's full name: prefix of the Secrets, name of the webhook configuration.
    pub(crate) fullname: String,
}

/// What the keeper of the certificates needs from the process around it.
pub(crate) struct Keeper {
    /// Where the objects are.
    pub(crate) config: TrustConfig,
    /// The API server.
    pub(crate) client: Client,
    /// Names of the namespaces that are opted in.
    pub(crate) namespaces: watch::Receiver<BTreeSet<String>>,
    /// The webhook's own certificate, to be set.
    pub(crate) serving: ServingCert,
    /// Met when the API server can trust the webhook.
    pub(crate) ready: Latch,
}

/// Why a pass failed; the next one tries again.
#[derive(Debug, thiserror::Error)]
enum TrustError {
    /// The API server refused or could not be asked.
    #[error("cannot {verb} {what}")]
    Api {
        verb: &'static str,
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The chart's Secret or webhook configuration is not there.
    #[error("{0} is missing: run `helm upgrade` to restore it")]
    Missing(String),
    /// Another replica was faster; the next pass sees what it wrote.
    #[error("another replica changed {0} at the same time")]
    Conflict(String),
    /// No certificate could be made.
    #[error("cannot issue a certificate")]
    Issue(#[from] IssueError),
    /// The certificate that was just made cannot be served.
    #[error("cannot use the webhook's certificate")]
    Unusable(#[source] runtime::tls::CertError),
}

/// Keeps the certificates valid and published until shutdown.
pub(crate) async fn run(mut keeper: Keeper, shutdown: Shutdown) {
    let names = Names::new(&keeper.config);
    let secrets = Secrets::new(&keeper.client, &keeper.config);
    let mut publisher = Publisher::new(&keeper.client, &keeper.config);
    loop {
        let namespaces = keeper.namespaces.borrow_and_update().clone();
        let pause = match pass(&keeper, &names, &secrets, &mut publisher, &namespaces).await {
            Ok(()) => INTERVAL,
            Err(error @ TrustError::Conflict(_)) => {
                tracing::debug!(%error, "Starting over");
                Duration::from_millis(200)
            }
            Err(error) => {
                let reason = chain(&error);
                tracing::warn!(error = %reason, "Could not keep the certificates");
                RETRY
            }
        };
        tokio::select! {
            () = shutdown.begun() => return,
            () = tokio::time::sleep(pause) => {}
            changed = keeper.namespaces.changed() => {
                if changed.is_err() {
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

async fn pass(
    keeper: &Keeper,
    names: &Names,
    secrets: &Secrets,
    publisher: &mut Publisher,
    namespaces: &BTreeSet<String>,
) -> Result<(), TrustError> {
    let stored = secrets.read().await?;
    let trust = Trust::advance(stored.clone(), names, unix_now())?;
    // The authority first: a certificate must never be in use that it did not sign.
    secrets.write_changes(&stored, &trust).await?;

    publisher.publish_webhook(&trust.bundle()).await?;
    let leaf = &trust.webhook;
    keeper.serving.set(leaf.cert.as_bytes(), leaf.key.as_bytes()).map_err(TrustError::Unusable)?;
    keeper.ready.set(true);
    publisher.publish_namespaces(&trust.bundle(), namespaces).await
}

fn unix_now() -> i64 {
    // A clock before 1970 would make every certificate look valid for long; 0 makes new ones.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
