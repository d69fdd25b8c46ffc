//! The settings for identities of types 1, 2 and 3: where Entra is, whom else a credential may be
//! sent to, and what credentials there are. Named as the controller's.

use std::path::PathBuf;

use api::cloud::{Cloud, CloudError, CloudName, CustomEndpoints};
use clap::{ArgAction, Args};

use crate::mint::{Authorities, FederationSettings, Host, NotAHost};

/// As they are given.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Service principals and federation")]
pub(crate) struct EntraArgs {
    /// Read the Secrets that identities of types 1 and 2 name, in the identities' namespaces: true
    /// or false. Without it these identities get no tokens.
    #[arg(
        long,
        env = "ALLOW_ACCESS_TO_SECRETS",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true"
    )]
    allow_access_to_secrets: bool,

    /// The cloud: `AzurePublicCloud`, `AzureUSGovernmentCloud`, `AzureChinaCloud` or `Custom`.
    #[arg(long, env = "CLOUD", value_name = "NAME")]
    cloud: Option<String>,

    /// Cloud Custom: the https URL of Entra.
    #[arg(long, env = "AUTHORITY_HOST", value_name = "URL")]
    authority_host: Option<String>,

    /// Cloud Custom: the https URL of the resource manager (ARM).
    #[arg(long, env = "RESOURCE_MANAGER", value_name = "URL")]
    resource_manager: Option<String>,

    /// Cloud Custom: the audience of ARM tokens, if it is not the URL of ARM.
    #[arg(long, env = "RESOURCE_MANAGER_AUDIENCE", value_name = "URL")]
    resource_manager_audience: Option<String>,

    /// Hosts besides those of Azure's clouds that an identity's spec.adEndpoint may name, separated
    /// by commas. Credentials are sent there.
    #[arg(long, env = "ALLOWED_AUTHORITY_HOSTS", value_delimiter = ',', value_name = "HOSTS")]
    allowed_authority_hosts: Vec<String>,

    /// PEM certificates to trust besides the system's, for Entra.
    #[arg(long, env = "CA_BUNDLE", value_name = "FILE")]
    ca_bundle: Option<PathBuf>,

    /// Audience of the service account tokens that Entra takes for identities of type 3; by default
    /// that of the cloud.
    #[arg(long, env = "FEDERATION_AUDIENCE", value_name = "AUDIENCE")]
    federation_audience: Option<String>,

    /// The node agent's own service account token with that audience, for identities with
    /// federatedBy: NodeAgent. It may be missing until such an identity is used.
    #[arg(long, env = "FEDERATED_TOKEN_FILE", value_name = "FILE")]
    federated_token_file: Option<PathBuf>,
}

/// What they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntraSettings {
    /// Where credentials may be sent.
    pub(crate) authorities: Authorities,
    /// Whom to trust besides the system's roots.
    pub(crate) ca_bundle: Option<PathBuf>,
    /// Whether to read Secrets for identities of types 1 and 2.
    pub(crate) secrets: bool,
    /// For identities of type 3.
    pub(crate) federation: FederationSettings,
}

/// Settings that do not make sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntraArgsError {
    /// The cloud.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// An allowed host.
    #[error("--allowed-authority-hosts: {0}")]
    Host(#[from] NotAHost),
}

// === impl EntraSettings ===

impl EntraSettings {
    /// What the arguments mean.
    pub(crate) fn load(args: EntraArgs) -> Result<Self, EntraArgsError> {
        let name: CloudName = given(args.cloud).unwrap_or_default().parse()?;
        let endpoints = CustomEndpoints {
            authority_host: given(args.authority_host),
            resource_manager: given(args.resource_manager),
            resource_manager_audience: given(args.resource_manager_audience),
        };
        let cloud = Cloud::new(name, endpoints)?;
        let hosts = args.allowed_authority_hosts.iter().map(|host| host.trim());
        let hosts = hosts.filter(|host| !host.is_empty()).map(str::parse);
        let hosts = hosts.collect::<Result<Vec<Host>, _>>()?;
        let audience = given(args.federation_audience);
        let audience = audience.unwrap_or_else(|| name.federation_audience().to_owned());
        let file = args.federated_token_file;
        Ok(Self {
            authorities: Authorities::new(&cloud, hosts),
            ca_bundle: args.ca_bundle.filter(|path| !path.as_os_str().is_empty()),
            secrets: args.allow_access_to_secrets,
            federation: FederationSettings { audience, file },
        })
    }
}

/// An empty value is none: charts and pod specs often set variables to nothing.
fn given(value: Option<String>) -> Option<String> {
    value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        entra: EntraArgs,
    }

    fn load(args: &[&str]) -> Result<EntraSettings, String> {
        let cli = Cli::try_parse_from(["c"].iter().chain(args)).map_err(|e| e.to_string())?;
        EntraSettings::load(cli.entra).map_err(|error| error.to_string())
    }

    #[test]
    fn secrets_are_read_only_where_somebody_said_so() {
        for (args, expected) in [
            (&[][..], false),
            (&["--allow-access-to-secrets=false"], false),
            (&["--allow-access-to-secrets"], true),
            (&["--allow-access-to-secrets=true"], true),
        ] {
            assert_eq!(load(args).unwrap().secrets, expected, "{args:?}");
        }
        for bad in ["yes", "True", "1", ""] {
            assert!(load(&[&format!("--allow-access-to-secrets={bad}")]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_cloud_says_where_entra_is() {
        let of = |args: &[&str]| load(args).map(|settings| settings.authorities.of(None).unwrap());
        assert_eq!(of(&["--cloud="]).unwrap(), "https://login.microsoftonline.com");
        assert_eq!(of(&["--cloud=AzureChinaCloud"]).unwrap(), "https://login.chinacloudapi.cn");
        let custom =
            ["--cloud=Custom", "--authority-host=https://a", "--resource-manager=https://b"];
        assert_eq!(of(&custom).unwrap(), "https://a");
        assert!(of(&["--cloud=Mars"]).unwrap_err().contains("unknown cloud"));
        assert!(of(&["--authority-host=https://a"]).unwrap_err().contains("only for cloud Custom"));
        let error = of(&["--allowed-authority-hosts=a.example,https://b.example"]).unwrap_err();
        assert!(error.contains("\"https://b.example\" is not a host"), "{error}");
    }

    #[test]
    fn the_audience_of_federated_tokens_is_the_clouds_or_the_admins() {
        let of = |args: &[&str]| load(args).unwrap().federation.audience;
        assert_eq!(of(&[]), "api://AzureADTokenExchange");
        assert_eq!(of(&["--cloud=AzureChinaCloud"]), "api://AzureADTokenExchangeChina");
        assert_eq!(of(&["--cloud=AzureUSGovernmentCloud"]), "api://AzureADTokenExchangeUSGov");
        assert_eq!(of(&["--federation-audience="]), "api://AzureADTokenExchange");
        assert_eq!(of(&["--federation-audience=api://mine"]), "api://mine");
    }

    #[test]
    fn a_missing_token_file_is_no_reason_not_to_start() {
        let of = |args: &[&str]| load(args).unwrap().federation.file;
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["--federated-token-file=missing"]), Some("missing".into()));
    }
}
