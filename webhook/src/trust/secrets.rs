//! The Secrets that hold the certificates: read, and written back with optimistic locking.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;

use super::authority::Pair;
use super::plan::Trust;
use super::{TrustConfig, TrustError};

const CERT: &str = "tls.crt";
const KEY: &str = "tls.key";

/// The three Secrets of a release, as the chart created them.
pub(super) struct Secrets {
    api: Api<Secret>,
    authority: String,
    webhook: String,
    nmi_host: String,
    /// As they were last read: what a write is compared with by the API server.
    seen: Mutex<BTreeMap<String, Secret>>,
}

impl Secrets {
    pub(super) fn new(client: &Client, config: &TrustConfig) -> Self {
        let TrustConfig { namespace, fullname } = config;
        Self {
            api: Api::namespaced(client.clone(), namespace),
            authority: format!("{fullname}-ca"),
            webhook: format!("{fullname}-webhook-tls"),
            nmi_host: format!("{fullname}-nmi-host-tls"),
            seen: Mutex::default(),
        }
    }

    pub(super) async fn read(&self) -> Result<Trust, TrustError> {
        let authority = self.get(&self.authority).await?;
        let next = pair(&authority, "next.crt", "next.key");
        let since = text(&authority, "next.since").parse().unwrap_or(i64::MAX);
        let previous = text(&authority, "previous.crt");
        Ok(Trust {
            authority: pair(&authority, "ca.crt", "ca.key"),
            next: (next != Pair::default()).then_some((next, since)),
            previous: (!previous.is_empty()).then_some(previous),
            webhook: pair(&self.get(&self.webhook).await?, CERT, KEY),
            nmi_host: pair(&self.get(&self.nmi_host).await?, CERT, KEY),
        })
    }

    /// Writes what differs; the authority before what it signed.
    pub(super) async fn write_changes(&self, old: &Trust, new: &Trust) -> Result<(), TrustError> {
        let signs =
            |trust: &Trust| (trust.authority.clone(), trust.next.clone(), trust.previous.clone());
        if signs(old) != signs(new) {
            self.put(&self.authority, authority_data(new)).await?;
            tracing::info!(secret = %self.authority, "Renewed the certificate authority");
        }
        for (name, before, after) in [
            (&self.webhook, &old.webhook, &new.webhook),
            (&self.nmi_host, &old.nmi_host, &new.nmi_host),
        ] {
            if before != after {
                let data = [(CERT, after.cert.clone()), (KEY, after.key.clone())];
                self.put(name, data.into()).await?;
                tracing::info!(secret = %name, "Renewed a server certificate");
            }
        }
        Ok(())
    }

    async fn get(&self, name: &str) -> Result<Secret, TrustError> {
        let secret = self.api.get_opt(name).await.map_err(|source| TrustError::Api {
            verb: "read",
            what: format!("Secret {name}"),
            source: Box::new(source),
        })?;
        let secret = secret.ok_or_else(|| TrustError::Missing(format!("Secret {name}")))?;
        self.seen.lock().insert(name.to_owned(), secret.clone());
        Ok(secret)
    }

    async fn put(
        &self,
        name: &str,
        data: BTreeMap<&'static str, String>,
    ) -> Result<(), TrustError> {
        let mut secret = self.seen.lock().get(name).cloned().unwrap_or_default();
        secret.managed_fields_mut().clear();
        secret.data = Some(
            data.into_iter()
                .map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())))
                .collect(),
        );
        match self.api.replace(name, &PostParams::default(), &secret).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                Err(TrustError::Conflict(format!("Secret {name}")))
            }
            Err(source) => Err(TrustError::Api {
                verb: "write",
                what: format!("Secret {name}"),
                source: Box::new(source),
            }),
        }
    }
}

fn authority_data(trust: &Trust) -> BTreeMap<&'static str, String> {
    let mut data = BTreeMap::from([
        ("ca.crt", trust.authority.cert.clone()),
        ("ca.key", trust.authority.key.clone()),
    ]);
    if let Some((next, since)) = &trust.next {
        data.insert("next.crt", next.cert.clone());
        data.insert("next.key", next.key.clone());
        data.insert("next.since", since.to_string());
    }
    if let Some(previous) = &trust.previous {
        data.insert("previous.crt", previous.clone());
    }
    data
}

fn pair(secret: &Secret, cert: &str, key: &str) -> Pair {
    Pair { cert: text(secret, cert), key: text(secret, key) }
}

fn text(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
}
