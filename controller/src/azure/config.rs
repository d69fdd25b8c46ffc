//! What the settings for Azure mean together, and the ARM client that they describe.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::cloud::Cloud;
use azure_core::credentials::TokenCredential;
use azure_core::http::Transport;
use azure_http::transport;
use runtime::Metrics;

use super::cloud::{cloud, path_given};
use super::credential::Means;
use super::file::{self, AzureJson, EnvironmentFile};
use super::metrics::{CredentialFile, Reloads};
use super::reload::Reloading;
use super::selection::{identity_of_args, identity_of_file};
use super::{AzureArgs, AzureError, ControllerIdentity, CredentialKind};
use crate::compute::ArmClient;
use crate::host::Immutable;

/// Where Azure is, and as whom the controller talks to it.
#[derive(Clone, Debug)]
pub(crate) struct AzureConfig {
    /// The cloud's endpoints.
    pub(crate) cloud: Cloud,
    /// As whom.
    pub(crate) identity: ControllerIdentity,
    /// The `azure.json` that the identity came from.
    source: Option<PathBuf>,
    ca_bundle: Option<PathBuf>,
    reloads: Reloads,
}

// === impl AzureConfig ===

impl AzureConfig {
    /// Validates `args` and reads the files that they name.
    pub(crate) fn load(args: &AzureArgs) -> Result<Self, AzureError> {
        let mut json = AzureJson::default();
        let mut source = None;
        if let Some(path) = args.cloudconfig.as_deref().and_then(path_given) {
            json = file::parse(path, &file::read(path)?)?;
            source = Some(path.to_owned());
        }
        let environment = match args.azure_environment.as_deref().and_then(path_given) {
            Some(path) => file::parse(path, &file::read(path)?)?,
            None => EnvironmentFile::default(),
        };
        let cloud = cloud(args, &json, &environment)?;
        let from_file = source.is_some() && args.azure_credential == CredentialKind::Auto;
        let identity = if from_file { identity_of_file(&json)? } else { identity_of_args(args)? };
        let source = source.filter(|_| from_file);
        let ca_bundle = args.ca_bundle.as_deref().and_then(path_given).map(Path::to_owned);
        Ok(Self { cloud, identity, source, ca_bundle, reloads: Reloads::default() })
    }

    /// Has the metrics tell which of the credential's files cannot be used.
    pub(crate) fn register(&self, metrics: &Metrics) {
        self.reloads.register(metrics);
    }

    /// The client for this cloud with this identity. A managed identity that comes in its place is
    /// `immutable` before it is used.
    pub(crate) fn arm_client(&self, immutable: &Immutable) -> Result<ArmClient, AzureError> {
        let transport = transport(self.ca_bundle.as_deref())?;
        let credential = self.credential(&transport, immutable)?;
        Ok(ArmClient::new(&self.cloud, credential, transport)?)
    }

    fn credential(
        &self,
        transport: &Transport,
        immutable: &Immutable,
    ) -> Result<Arc<dyn TokenCredential>, AzureError> {
        let (cloud, transport) = (self.cloud.clone(), transport.clone());
        let means = Means { cloud, transport, reloads: self.reloads.clone(), is_set };
        let credential = self.identity.credential(&means)?;
        let Some(path) = &self.source else { return Ok(credential) };
        let (file, mut current) = (path.clone(), self.identity.clone());
        let (failing, immutable) =
            (self.reloads.of(CredentialFile::CloudConfig), immutable.clone());
        Ok(Arc::new(Reloading::new(path, credential, failing, move || {
            let identity = identity_of_file(&file::parse(&file, &file::read(&file)?)?)?;
            if identity == current {
                return Ok(None);
            }
            let credential = identity.credential(&means)?;
            identity.keep(&immutable);
            tracing::info!(%identity, "The cloud config names another credential");
            current = identity;
            Ok(Some(credential))
        })))
    }
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use parking_lot::Mutex;
    use serde_json::json;
    use tempfile::NamedTempFile;

    use super::super::reload::RELOAD_INTERVAL;
    use super::*;
    use crate::compute::Compute;
    use crate::compute::scripted::{Answer, Script};
    use crate::testing;

    fn file(content: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    fn principal() -> NamedTempFile {
        file(
            r#"{"cloud": "AzureChinaCloud", "tenantId": "t", "aadClientId": "c", "aadClientSecret": "p4ssw0rd"}"#,
        )
    }

    #[test]
    fn the_cloud_config_gives_cloud_and_identity() {
        let json = principal();
        let args = AzureArgs {
            cloudconfig: Some(json.path().to_owned()),
            use_msi: Some("true".to_owned()),
            ..AzureArgs::default()
        };
        let config = AzureConfig::load(&args).unwrap();
        assert_eq!(config.cloud.resource_manager, "https://management.chinacloudapi.cn");
        assert_eq!(config.identity.to_string(), "service principal c", "the file comes first");
        assert!(config.source.is_some());
        assert!(!format!("{config:#?}").contains("p4ssw0rd"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_new_in_the_cloud_config_is_used_and_what_is_broken_is_not() {
        let file = NamedTempFile::new().unwrap();
        let write = |content: &str| std::fs::write(file.path(), content).unwrap();
        let with = |secret: &str, more: &str| {
            let (tenant, client) = ("t", "c");
            json!({"tenantId": tenant, "aadClientId": client, "aadClientSecret": secret,
                "location": more})
            .to_string()
        };
        write(&with("old", ""));
        let args = AzureArgs { cloudconfig: Some(file.path().to_owned()), ..AzureArgs::default() };
        let config = AzureConfig::load(&args).unwrap();
        let token = json!({"token_type": "Bearer", "expires_in": 3600, "expires_on": "4102444800",
            "access_token": "t0ken", "resource": "r", "client_id": "c"});
        let script = Script::new(vec![Answer::json(200, &token); 3]);
        let credential = config.credential(&script.transport(), &Immutable::default()).unwrap();
        // A credential that is kept has its token.
        let ask = async |content: &str| {
            write(content);
            tokio::time::advance(RELOAD_INTERVAL).await;
            credential.get_token(&["https://arm/.default"], None).await.unwrap();
            let asked = script.asked();
            (asked.len(), asked.last().unwrap().clone())
        };
        let (count, asked) = ask(&with("old", "")).await;
        assert!(count == 1 && asked.body.contains("client_secret=old"), "{asked:?}");
        let (count, asked) = ask(&with("new", "")).await;
        assert!(count == 2 && asked.body.contains("client_secret=new"), "{asked:?}");
        for same in ["{", "{}", &with("", ""), &with("new", "elsewhere")] {
            assert_eq!(ask(same).await.0, 2, "{same}");
        }
        let (count, asked) = ask(r#"{"useManagedIdentityExtension": true}"#).await;
        assert!(count == 3 && asked.url.starts_with("http://169.254.169.254/"), "{asked:?}");
    }

    /// The cloud config of an application whose client id is its secret, too.
    fn of_application(client_id: &str) -> String {
        json!({"tenantId": "t", "aadClientId": client_id, "aadClientSecret": client_id}).to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_to_arm_are_made_as_whom_the_file_names_now() {
        let file = file(&of_application("old"));
        let args = AzureArgs { cloudconfig: Some(file.path().to_owned()), ..AzureArgs::default() };
        let config = AzureConfig::load(&args).unwrap();
        let token = |text: &str| {
            let life = 86_400;
            Answer::json(
                200,
                &json!({"token_type": "Bearer", "expires_in": life, "access_token": text}),
            )
        };
        let (arm, refused) = (
            Answer::json(403, &json!({"error": {"code": "AuthorizationFailed", "message": ""}})),
            Answer::json(401, &json!({"error": "invalid_client", "error_description": "no"})),
        );
        let script = Script::new([
            token("of-old"),
            arm.clone(),
            arm.clone(),
            arm.clone(),
            token("of-new"),
            arm.clone(),
            arm.clone(),
            refused,
            arm,
        ]);
        let credential = config.credential(&script.transport(), &Immutable::default()).unwrap();
        let client = ArmClient::new(&config.cloud, credential, script.transport()).unwrap();
        let host = testing::host("vm");
        // As whom ARM was asked, and what Entra was asked on the way there.
        let seen = Mutex::new(0);
        let ask = async || {
            client.get(&host).await.unwrap_err();
            let asked = script.asked();
            let news = asked[std::mem::replace(&mut *seen.lock(), asked.len())..].to_vec();
            let (arm, entra) = news.split_last().unwrap();
            let entra: Vec<String> = entra.iter().map(|asked| asked.body.clone()).collect();
            (arm.header("authorization").unwrap(), entra.join(" "))
        };
        let (who, entra) = ask().await;
        assert!(who == "Bearer of-old" && entra.contains("client_id=old"), "{who} {entra}");
        tokio::time::advance(RELOAD_INTERVAL).await;
        for _ in 0..2 {
            assert_eq!(ask().await, ("Bearer of-old".to_owned(), String::new()), "of the cache");
        }
        std::fs::write(file.path(), of_application("new")).unwrap();
        tokio::time::advance(RELOAD_INTERVAL).await;
        let (who, entra) = ask().await;
        assert!(who == "Bearer of-new" && entra.contains("client_id=new"), "{who} {entra}");
        assert_eq!(ask().await, ("Bearer of-new".to_owned(), String::new()), "of the cache");
        std::fs::write(file.path(), of_application("unknown")).unwrap();
        tokio::time::advance(RELOAD_INTERVAL).await;
        let (who, entra) = ask().await;
        assert!(who == "Bearer of-new" && entra.contains("client_id=unknown"), "{who} {entra}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_managed_identity_that_comes_by_the_file_stays_where_it_is_attached() {
        let id = |last: u8| format!("00000000-0000-0000-0000-00000000000{last}");
        let text = |client_id: &str| {
            json!({"useManagedIdentityExtension": true, "userAssignedIdentityID": client_id})
                .to_string()
        };
        let file = file(&text(&id(1)));
        let args = AzureArgs { cloudconfig: Some(file.path().to_owned()), ..AzureArgs::default() };
        let config = AzureConfig::load(&args).unwrap();
        let immutable = Immutable::default();
        config.identity.keep(&immutable);
        let token = json!({"token_type": "Bearer", "expires_on": "4102444800",
            "access_token": "t0ken", "resource": "r", "client_id": "c"});
        let script = Script::new([Answer::json(200, &token)]);
        let credential = config.credential(&script.transport(), &immutable).unwrap();
        let held = || {
            [1, 2, 3]
                .map(|last| immutable.holds(&testing::id("x"), Some(&id(last).parse().unwrap())))
        };
        assert_eq!(held(), [true, false, false]);
        std::fs::write(file.path(), text(&id(2))).unwrap();
        tokio::time::advance(RELOAD_INTERVAL).await;
        credential.get_token(&["https://arm/.default"], None).await.unwrap();
        assert!(script.asked()[0].url.contains(&id(2)), "{:?}", script.asked());
        assert_eq!(held(), [true, true, false]);
    }

    #[test]
    fn an_explicit_kind_leaves_the_file_its_cloud_only() {
        let json = principal();
        let args = AzureArgs {
            cloudconfig: Some(json.path().to_owned()),
            azure_credential: CredentialKind::ManagedIdentity,
            ..AzureArgs::default()
        };
        let config = AzureConfig::load(&args).unwrap();
        assert_eq!(config.cloud.resource_manager, "https://management.chinacloudapi.cn");
        assert_eq!(config.identity, ControllerIdentity::Managed(None));
        assert!(config.source.is_none(), "nothing of the file's to reload");
    }

    #[test]
    fn an_endpoints_file_makes_a_custom_cloud() {
        let endpoints = file(
            r#"{"name": "AzureStackCloud", "activeDirectoryEndpoint": "https://login.stack/adfs/", "resourceManagerEndpoint": "https://management.stack/", "tokenAudience": "https://management.stack/guid"}"#,
        );
        let args = AzureArgs {
            cloud: Some("AzureStackCloud".to_owned()),
            azure_environment: Some(endpoints.path().to_owned()),
            use_msi: Some("true".to_owned()),
            ..AzureArgs::default()
        };
        let cloud = AzureConfig::load(&args).unwrap().cloud;
        assert_eq!(cloud.authority_host, "https://login.stack/adfs");
        assert_eq!(cloud.resource_manager_audience, "https://management.stack/guid");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let args =
            AzureArgs { cloudconfig: Some("/nonexistent/azure.json".into()), ..Default::default() };
        let error = AzureConfig::load(&args).unwrap_err().to_string();
        assert_eq!(error, "cannot read /nonexistent/azure.json");
    }
}
