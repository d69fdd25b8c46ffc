//! Putting the authority's certificate where it is looked for: the webhook configuration and a
//! ConfigMap of every opted-in namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::labels::CA_CONFIG_MAP;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::{TrustConfig, TrustError};

/// After this long every ConfigMap is looked at again: somebody may have deleted or changed one.
const RECHECK: Duration = Duration::from_secs(300);

/// Writes only what is not known to be there.
pub(super) struct Publisher {
    client: Client,
    webhook: String,
    /// The bundle that each namespace has, and when it was last seen.
    published: BTreeMap<String, (String, Instant)>,
}

impl Publisher {
    pub(super) fn new(client: &Client, config: &TrustConfig) -> Self {
        Self {
            client: client.clone(),
            webhook: config.fullname.clone(),
            published: BTreeMap::new(),
        }
    }

    pub(super) async fn publish_webhook(&self, bundle: &str) -> Result<(), TrustError> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let what = || format!("MutatingWebhookConfiguration {}", self.webhook);
        let failed =
            |verb| move |source| TrustError::Api { verb, what: what(), source: Box::new(source) };
        let found = api.get_opt(&self.webhook).await.map_err(failed("read"))?;
        let mut config = found.ok_or_else(|| TrustError::Missing(what()))?;

        let wanted = Some(ByteString(bundle.as_bytes().to_vec()));
        let mut changed = false;
        for webhook in config.webhooks.iter_mut().flatten() {
            changed |= webhook.client_config.ca_bundle != wanted;
            webhook.client_config.ca_bundle.clone_from(&wanted);
        }
        if !changed {
            return Ok(());
        }
        config.managed_fields_mut().clear();
        match api.replace(&self.webhook, &PostParams::default(), &config).await {
            Ok(_) => {
                tracing::info!(webhook = %self.webhook, "Published the certificate authority");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                Err(TrustError::Conflict(what()))
            }
            Err(source) => Err(failed("write")(source)),
        }
    }

    /// One namespace that cannot be written does not keep the others waiting.
    pub(super) async fn publish_namespaces(
        &mut self,
        bundle: &str,
        namespaces: &BTreeSet<String>,
    ) -> Result<(), TrustError> {
        self.published.retain(|namespace, _| namespaces.contains(namespace));
        let mut first_error = None;
        for namespace in namespaces {
            let known = self
                .published
                .get(namespace)
                .is_some_and(|(has, seen)| has == bundle && seen.elapsed() < RECHECK);
            if known {
                continue;
            }
            match self.publish_namespace(bundle, namespace).await {
                Ok(()) => {
                    let entry = (bundle.to_owned(), Instant::now());
                    self.published.insert(namespace.clone(), entry);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn publish_namespace(&self, bundle: &str, namespace: &str) -> Result<(), TrustError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let failed = |verb| {
            move |source| TrustError::Api {
                verb,
                what: format!("ConfigMap {namespace}/{CA_CONFIG_MAP}"),
                source: Box::new(source),
            }
        };
        let data = BTreeMap::from([("ca.crt".to_owned(), bundle.to_owned())]);
        match api.get_opt(CA_CONFIG_MAP).await.map_err(failed("read"))? {
            Some(found) if found.data.as_ref() == Some(&data) => Ok(()),
            Some(_) => {
                let patch = Patch::Merge(json!({"data": data}));
                let patched = api.patch(CA_CONFIG_MAP, &PatchParams::default(), &patch).await;
                patched.map(drop).map_err(failed("update"))
            }
            None => self.create(&api, data).await.map_err(failed("create")),
        }
    }

    async fn create(
        &self,
        api: &Api<ConfigMap>,
        data: BTreeMap<String, String>,
    ) -> Result<(), kube::Error> {
        let labels = [("app.kubernetes.io/part-of".to_owned(), "pod-identity-sidecar".to_owned())];
        let config_map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(CA_CONFIG_MAP.to_owned()),
                labels: Some(labels.into()),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        };
        match api.create(&PostParams::default(), &config_map).await {
            // The other replica was faster with the same content.
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            // A namespace that is being deleted takes nothing new.
            Err(kube::Error::Api(status)) if status.code == 403 && terminating(&status) => Ok(()),
            result => result.map(drop),
        }
    }
}

fn terminating(status: &kube::core::Status) -> bool {
    status.message.contains("being terminated")
}
