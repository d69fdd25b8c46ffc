//! The serving certificate, as the Secret that the webhook process writes holds it. Read by watch
//! and not from a volume: the Secret may be filled after the pod starts, and a renewal is served at
//! once.

use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::watcher::Event;
use runtime::{Latch, ServingCert, Shutdown};

use crate::metrics::{HostMetrics, Watch};
use crate::watched;

/// Follows a Secret into a [`ServingCert`].
pub(crate) struct CertificateTask {
    /// Where the Secret is.
    pub(crate) secrets: Api<Secret>,
    /// Its name.
    pub(crate) name: String,
    /// What is served.
    pub(crate) serving: ServingCert,
    /// Set once there is a certificate.
    pub(crate) ready: Latch,
    /// Where broken watches are counted.
    pub(crate) metrics: HostMetrics,
}

const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";

// === impl CertificateTask ===

impl CertificateTask {
    /// Follows the Secret until shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let Self { secrets, name, serving, ready, metrics } = self;
        let config = watched::config().fields(&format!("metadata.name={name}"));
        watched::follow(secrets, config, (Watch::Certificate, metrics), shutdown, |event| {
            if let Event::Apply(secret) | Event::InitApply(secret) = event
                && take(&secret, &serving)
            {
                ready.set(true);
            }
        })
        .await;
    }
}

/// Serves what the Secret holds; whether it holds a usable pair. If not, what was served stays.
fn take(secret: &Secret, serving: &ServingCert) -> bool {
    let part = |key| secret.data.as_ref()?.get(key).filter(|bytes| !bytes.0.is_empty());
    let (Some(chain), Some(key)) = (part(CHAIN), part(KEY)) else {
        tracing::info!("The certificate is not there yet: the webhook process writes it");
        return false;
    };
    match serving.set(&chain.0, &key.0) {
        Ok(()) => {
            tracing::info!("Certificate loaded");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "The Secret holds no usable certificate");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use serde_json::json;

    use super::*;

    fn secret(chain: &str, key: &str) -> Secret {
        use base64::Engine;
        use base64::engine::general_purpose::STANDARD;

        let data = json!({CHAIN: STANDARD.encode(chain), KEY: STANDARD.encode(key)});
        serde_json::from_value(json!({"metadata": {"name": "s"}, "data": data})).unwrap()
    }

    #[test]
    fn an_empty_or_broken_secret_leaves_what_is_served() {
        runtime::crypto::install_provider();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["x".to_owned()]).unwrap();
        let serving = ServingCert::default();
        assert!(!take(&Secret::default(), &serving));
        assert!(!take(&secret("", ""), &serving));
        assert!(!take(&secret(&cert.pem(), "no key"), &serving));
        assert!(!serving.is_set());
        assert!(take(&secret(&cert.pem(), &signing_key.serialize_pem()), &serving));
        assert!(!take(&secret("", ""), &serving));
        assert!(serving.is_set());
    }
}
