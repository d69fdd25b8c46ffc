//! The flags and environment variables for Azure, as they are given. Their meaning is in `config`.
//!
//! Variables have the names that aad-pod-identity's MIC and the workload identity webhook use.

use std::convert::Infallible;
use std::path::PathBuf;

use azure_core::credentials::Secret;
use clap::{Args, ValueEnum};

/// Where Azure is and as whom the controller talks to it.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Azure")]
pub(crate) struct AzureArgs {
    /// The `azure.json` of the cluster's nodes: cloud and credential are read from it, again when
    /// it changes.
    #[arg(long, env = "CLOUDCONFIG", value_name = "FILE")]
    pub(crate) cloudconfig: Option<PathBuf>,

    /// The cloud: `AzurePublicCloud`, `AzureUSGovernmentCloud`, `AzureChinaCloud` or `Custom`.
    #[arg(long, env = "CLOUD", value_name = "NAME")]
    pub(crate) cloud: Option<String>,

    /// Cloud Custom: the https URL of Entra.
    #[arg(long, env = "AUTHORITY_HOST", value_name = "URL")]
    pub(crate) authority_host: Option<String>,

    /// Cloud Custom: the https URL of the resource manager (ARM).
    #[arg(long, env = "RESOURCE_MANAGER", value_name = "URL")]
    pub(crate) resource_manager: Option<String>,

    /// Cloud Custom: the audience of ARM tokens, if it is not the URL of ARM.
    #[arg(long, env = "RESOURCE_MANAGER_AUDIENCE", value_name = "URL")]
    pub(crate) resource_manager_audience: Option<String>,

    /// Cloud Custom: a JSON file with the endpoints, as Azure Stack Hub provides it.
    #[arg(long, env = "AZURE_ENVIRONMENT_FILEPATH", value_name = "FILE")]
    pub(crate) azure_environment: Option<PathBuf>,

    /// PEM certificates to trust besides the system's, for ARM and Entra.
    #[arg(long, env = "CA_BUNDLE", value_name = "FILE")]
    pub(crate) ca_bundle: Option<PathBuf>,

    /// The kind of credential; `auto` takes the first that is configured, in the order of
    /// --cloudconfig, managed identity, service principal, workload identity.
    #[arg(long, env = "AZURE_CREDENTIAL", value_name = "KIND", default_value = "auto")]
    pub(crate) azure_credential: CredentialKind,

    /// Use a managed identity of the node: true or false.
    #[arg(long, env = "USE_MSI", value_name = "BOOL")]
    pub(crate) use_msi: Option<String>,

    /// The managed identity to use, by client id or ARM id; the system-assigned one if not given.
    #[arg(long, env = "USER_ASSIGNED_MSI_CLIENT_ID", value_name = "ID")]
    pub(crate) user_assigned_msi_client_id: Option<String>,

    /// Service principal: its tenant.
    #[arg(long, env = "TENANT_ID", value_name = "ID")]
    pub(crate) tenant_id: Option<String>,

    /// Service principal: its client id.
    #[arg(long, env = "CLIENT_ID", value_name = "ID")]
    pub(crate) client_id: Option<String>,

    /// Service principal: its secret. Give it in the environment: arguments can be seen by others.
    #[arg(long, env = "CLIENT_SECRET", hide_env_values = true, value_parser = secret)]
    pub(crate) client_secret: Option<Secret>,

    /// Service principal: a file with its secret, in place of giving it. It is read again when it
    /// changes; line ends at its end are not part of the secret.
    #[arg(long, env = "CLIENT_SECRET_PATH", value_name = "FILE")]
    pub(crate) client_secret_path: Option<PathBuf>,

    /// Service principal: a file with its certificate and private key, PKCS#12 or PEM, in place of
    /// the secret. It is read again when it changes.
    #[arg(long, env = "CLIENT_CERTIFICATE_PATH", value_name = "FILE")]
    pub(crate) client_certificate_path: Option<PathBuf>,

    /// Service principal: the password of the PKCS#12 file. Give it in the environment.
    #[arg(long, env = "CLIENT_CERTIFICATE_PASSWORD", hide_env_values = true, value_parser = secret)]
    pub(crate) client_certificate_password: Option<Secret>,

    /// Service principal: a file with that password, in place of giving it. It is read again when
    /// it changes; if it does not exist there is no password.
    #[arg(long, env = "CLIENT_CERTIFICATE_PASSWORD_PATH", value_name = "FILE")]
    pub(crate) client_certificate_password_path: Option<PathBuf>,

    /// Workload identity: the file with the service account's token.
    #[arg(long, env = "AZURE_FEDERATED_TOKEN_FILE", value_name = "FILE")]
    pub(crate) federated_token_file: Option<PathBuf>,

    /// Workload identity: the client id of the identity.
    #[arg(long, env = "AZURE_CLIENT_ID", value_name = "ID")]
    pub(crate) federated_client_id: Option<String>,

    /// Workload identity: the tenant of the identity.
    #[arg(long, env = "AZURE_TENANT_ID", value_name = "ID")]
    pub(crate) federated_tenant_id: Option<String>,
}

/// The kinds of credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CredentialKind {
    /// Whatever is configured.
    #[default]
    Auto,
    /// A managed identity of the node.
    ManagedIdentity,
    /// A service principal with a secret or a certificate.
    ServicePrincipal,
    /// A federated service account token.
    WorkloadIdentity,
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of a value parser")]
fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        azure: AzureArgs,
    }

    #[test]
    fn the_secret_is_shown_neither_by_debug_nor_by_help() {
        let mut command = Cli::command();
        let help = command.render_long_help().to_string();
        assert!(help.contains("CLIENT_SECRET]"), "only the variable's name: {help}");
        assert!(help.contains("CLIENT_CERTIFICATE_PASSWORD]"), "{help}");
        let password = "--client-certificate-password=p4ssw0rd";
        let cli = Cli::try_parse_from(["c", "--client-secret", "p4ssw0rd", password]).unwrap();
        assert!(!format!("{cli:#?}").contains("p4ssw0rd"));
        assert_eq!(cli.azure.client_secret.unwrap().secret(), "p4ssw0rd");
    }

    #[test]
    fn kinds_are_strict() {
        let parse = |kind: &str| Cli::try_parse_from(["c", "--azure-credential", kind]);
        let kind = parse("workload-identity").unwrap().azure.azure_credential;
        assert_eq!(kind, CredentialKind::WorkloadIdentity);
        assert!(parse("msi").is_err());
    }
}
