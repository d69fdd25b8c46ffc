//! As whom the controller talks to Azure, and the library's credential for it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::cloud::Cloud;
use api::{Guid, IdentityId};
use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::{Error, ErrorKind};
use azure_core::http::{ClientOptions, ExponentialRetryOptions, RetryOptions, Transport};
use azure_core::time::OffsetDateTime;
use azure_identity::{
    ClientAssertionCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions,
    UserAssignedId, WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};

use super::AzureError;
use super::application::Application;
use super::metrics::Reloads;
use super::secret::SecretSource;

/// The library itself tries IMDS for up to 72 s and cannot be told otherwise.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(20);

/// The pipeline asks for a token again five minutes before the one that it has ends. With this much
/// left it asks for every request, and has that one for a while when there is no other.
const HELD: azure_core::time::Duration = azure_core::time::Duration::minutes(5);

/// Variables that make the library look for managed identities elsewhere than at IMDS.
const DIVERSIONS: &[&str] = &["IDENTITY_ENDPOINT", "MSI_ENDPOINT"];

/// As whom the controller talks to Azure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ControllerIdentity {
    /// A managed identity of the node: the system-assigned one if none is named.
    Managed(Option<ManagedId>),
    /// An application with a secret.
    ServicePrincipal {
        /// Its tenant.
        tenant_id: String,
        /// Its client id.
        client_id: String,
        /// Its secret.
        secret: SecretSource,
    },
    /// An application with a certificate.
    Certificate {
        /// Its tenant.
        tenant_id: String,
        /// Its client id.
        client_id: String,
        /// The file with certificate and key.
        file: PathBuf,
        /// The file's password.
        password: SecretSource,
    },
    /// An application or managed identity that trusts the cluster's service account tokens.
    Workload {
        /// Its tenant.
        tenant_id: String,
        /// Its client id.
        client_id: String,
        /// The file with the service account's token.
        token_file: PathBuf,
    },
}

/// A user-assigned managed identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ManagedId {
    /// By client id.
    Client(Guid),
    /// By ARM resource id.
    Resource(IdentityId),
}

/// What credentials are made with.
#[derive(Clone, Debug)]
pub(super) struct Means {
    pub(super) cloud: Cloud,
    pub(super) transport: Transport,
    pub(super) reloads: Reloads,
    /// Whether an environment variable is set.
    pub(super) is_set: fn(&str) -> bool,
}

/// The library's credential, but its calls have an end, and nobody but itself keeps its tokens:
/// a credential that was replaced would live on in the last one, for a day if it is a managed
/// identity's.
#[derive(Debug)]
struct Bounded(Arc<dyn TokenCredential>);

// === impl ControllerIdentity ===

impl ControllerIdentity {
    /// The library's credential.
    pub(super) fn credential(&self, means: &Means) -> Result<Arc<dyn TokenCredential>, AzureError> {
        let client_options = options(&means.cloud, &means.transport);
        let application = |tenant_id: &String, client_id: &String| Application {
            tenant_id: tenant_id.clone(),
            client_id: client_id.clone(),
            authority: means.cloud.authority_host.clone(),
            client_options: client_options.clone(),
        };
        let credential: Arc<dyn TokenCredential> = match self {
            Self::Managed(id) => {
                if let Some(name) = DIVERSIONS.iter().find(|name| (means.is_set)(name)) {
                    return Err(AzureError::DivertedManagedIdentity(name));
                }
                let user_assigned_id = id.as_ref().map(|id| match id {
                    ManagedId::Client(id) => UserAssignedId::ClientId(id.to_string()),
                    ManagedId::Resource(id) => UserAssignedId::ResourceId(id.to_string()),
                });
                let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options };
                ManagedIdentityCredential::new(Some(options)).map_err(AzureError::Credential)?
            }
            Self::ServicePrincipal { tenant_id, client_id, secret } => {
                application(tenant_id, client_id).with_secret(secret, &means.reloads)?
            }
            Self::Certificate { tenant_id, client_id, file, password } => {
                Arc::new(application(tenant_id, client_id).with_certificate(
                    file,
                    password,
                    &means.reloads,
                )?)
            }
            Self::Workload { tenant_id, client_id, token_file } => {
                let options = WorkloadIdentityCredentialOptions {
                    credential_options: ClientAssertionCredentialOptions { client_options },
                    client_id: Some(client_id.clone()),
                    tenant_id: Some(tenant_id.clone()),
                    token_file_path: Some(token_file.clone()),
                };
                WorkloadIdentityCredential::new(Some(options)).map_err(AzureError::Credential)?
            }
        };
        Ok(Arc::new(Bounded(credential)))
    }
}

/// For logs.
impl fmt::Display for ControllerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Managed(None) => f.write_str("system-assigned managed identity"),
            Self::Managed(Some(ManagedId::Client(id))) => write!(f, "managed identity {id}"),
            Self::Managed(Some(ManagedId::Resource(id))) => write!(f, "managed identity {id}"),
            Self::ServicePrincipal { client_id, .. } | Self::Certificate { client_id, .. } => {
                write!(f, "service principal {client_id}")
            }
            Self::Workload { client_id, .. } => write!(f, "workload identity {client_id}"),
        }
    }
}

fn options(cloud: &Cloud, transport: &Transport) -> ClientOptions {
    let retry = RetryOptions::exponential(ExponentialRetryOptions {
        max_retries: 3,
        ..ExponentialRetryOptions::default()
    });
    azure_http::client_options(&cloud.authority_host, transport, retry)
}

// === impl Bounded ===

#[async_trait]
impl TokenCredential for Bounded {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        match tokio::time::timeout(TOKEN_TIMEOUT, self.0.get_token(scopes, options)).await {
            Ok(Ok(AccessToken { token, expires_on })) => {
                let held = OffsetDateTime::now_utc() + HELD;
                Ok(AccessToken { token, expires_on: expires_on.min(held) })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let silence = Error::with_message(
                    ErrorKind::Io,
                    format!("no answer within {} s", TOKEN_TIMEOUT.as_secs()),
                );
                Err(Error::with_error(ErrorKind::Credential, silence, "cannot get a token"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use api::Host;
    use api::cloud::{CloudName, CustomEndpoints};
    use azure_core::credentials::Secret;
    use serde_json::json;

    use super::*;
    use crate::compute::scripted::{Answer, Asked, Script};
    use crate::compute::{ArmClient, ArmError, Compute};

    const SCOPE: &str = "https://management.usgovcloudapi.net/.default";

    fn cloud() -> Cloud {
        Cloud::new(CloudName::AzureUsGovernmentCloud, CustomEndpoints::default()).unwrap()
    }

    fn means(script: &Arc<Script>) -> Means {
        let (cloud, transport) = (cloud(), script.transport());
        Means { cloud, transport, reloads: Reloads::default(), is_set: |_| false }
    }

    fn principal() -> ControllerIdentity {
        ControllerIdentity::ServicePrincipal {
            tenant_id: "contoso".to_owned(),
            client_id: "client".to_owned(),
            secret: SecretSource::Given(Secret::new("p4ss w0rd")),
        }
    }

    fn entra_token() -> Answer {
        let body = json!({"token_type": "Bearer", "expires_in": 3600, "access_token": "t0ken"});
        Answer::json(200, &body)
    }

    fn imds_token() -> Answer {
        let body = json!({
            "access_token": "t0ken", "expires_on": "4102444800", "token_type": "Bearer",
            "resource": "r", "client_id": "c",
        });
        Answer::json(200, &body)
    }

    /// The one request that a token for ARM costs.
    async fn asked(identity: &ControllerIdentity, answer: Answer) -> Asked {
        let script = Script::new([answer]);
        let credential = identity.credential(&means(&script)).unwrap();
        for _ in 0..2 {
            let token = credential.get_token(&[SCOPE], None).await.unwrap();
            assert_eq!(token.token.secret(), "t0ken");
        }
        let [asked] = &script.asked()[..] else { panic!("the second is from the cache") };
        asked.clone()
    }

    #[tokio::test]
    async fn a_service_principal_asks_the_clouds_entra() {
        let asked = asked(&principal(), entra_token()).await;
        assert_eq!(asked.url, "https://login.microsoftonline.us/contoso/oauth2/v2.0/token");
        assert!(asked.body.contains("client_id=client&client_secret=p4ss+w0rd"), "{}", asked.body);
        assert!(asked.body.contains("scope=https%3A%2F%2Fmanagement.usgovcloudapi.net%2F.default"));
    }

    #[tokio::test]
    async fn a_managed_identity_asks_imds_for_exactly_that_one() {
        let client = "aaaaaaaa-0000-0000-0000-000000000001";
        let resource = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/own";
        let endpoint = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2019-08-01&resource=https%3A%2F%2Fmanagement.usgovcloudapi.net";
        for (id, query) in [
            (None, String::new()),
            (Some(ManagedId::Client(client.parse().unwrap())), format!("&client_id={client}")),
            (
                Some(ManagedId::Resource(resource.parse().unwrap())),
                format!("&msi_res_id={}", resource.replace('/', "%2F")),
            ),
        ] {
            let asked = asked(&ControllerIdentity::Managed(id), imds_token()).await;
            assert_eq!(asked.url, format!("{endpoint}{query}"));
            assert_eq!(asked.header("metadata").as_deref(), Some("true"));
        }
    }

    #[tokio::test]
    async fn a_workload_identity_sends_the_accounts_token() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"assertion").unwrap();
        let identity = ControllerIdentity::Workload {
            tenant_id: "contoso".to_owned(),
            client_id: "workload".to_owned(),
            token_file: file.path().to_owned(),
        };
        let asked = asked(&identity, entra_token()).await;
        assert_eq!(asked.url, "https://login.microsoftonline.us/contoso/oauth2/v2.0/token");
        assert!(asked.body.contains("client_assertion=assertion"), "{}", asked.body);
        assert!(asked.body.contains("client_id=workload"), "{}", asked.body);
    }

    #[test]
    fn a_missing_token_file_and_a_diverted_identity_are_found_at_the_start() {
        let script = Script::new([]);
        let workload = ControllerIdentity::Workload {
            tenant_id: "contoso".to_owned(),
            client_id: "workload".to_owned(),
            token_file: "/nonexistent/token".into(),
        };
        let error = workload.credential(&means(&script)).unwrap_err();
        let AzureError::Credential(source) = &error else { panic!("{error:?}") };
        assert!(source.to_string().contains("/nonexistent/token"), "{source}");
        let managed = ControllerIdentity::Managed(None);
        let set = Means { is_set: |name| name == "MSI_ENDPOINT", ..means(&script) };
        let error = managed.credential(&set).unwrap_err();
        assert!(error.to_string().contains("MSI_ENDPOINT"), "{error}");
    }

    // === as the controller sees it ===

    async fn refusal(identity: &ControllerIdentity, answers: Vec<Answer>) -> ArmError {
        let script = Script::new(answers);
        let credential = identity.credential(&means(&script)).unwrap();
        let client = ArmClient::new(&cloud(), credential, script.transport()).unwrap();
        let host = Host::from_provider_id(
            "azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/v",
        );
        client.get(&host.unwrap()).await.unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_secret_is_told_in_entras_words() {
        let body = json!({
            "error": "invalid_client",
            "error_description": "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1",
            "error_codes": [7_000_215],
        });
        let error = refusal(&principal(), vec![Answer::json(401, &body)]).await;
        assert_eq!(
            error.to_string(),
            "cannot authenticate to ARM: ClientSecretCredential authentication failed. AADSTS7000215: Invalid client secret provided."
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreachable_entra_and_a_silent_imds_pass() {
        let error = refusal(&principal(), vec![Answer::Refused; 4]).await;
        assert!(error.is_transient(), "{error:?}");
        let error = refusal(&ControllerIdentity::Managed(None), vec![Answer::Silence]).await;
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(
            error.to_string(),
            "ARM is not available: no token for ARM: no answer within 20 s"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_identity_that_the_node_does_not_have_is_no_outage() {
        let body = json!({"error": "invalid_request", "error_description": "Identity not found"});
        let error =
            refusal(&ControllerIdentity::Managed(None), vec![Answer::json(400, &body)]).await;
        assert_eq!(error.code(), "authentication");
        assert!(error.to_string().contains("has not been assigned"), "{error}");
    }
}
