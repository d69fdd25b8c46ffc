//! Which Azure the controller talks to, and as whom: settings, credentials, transport.

use std::path::PathBuf;

use api::cloud::CloudError;
use azure_http::TransportError;

mod application;
mod args;
mod certificate;
mod cloud;
mod config;
mod credential;
mod file;
mod metrics;
mod own;
mod reload;
mod secret;
mod selection;

pub(crate) use args::{AzureArgs, CredentialKind};
pub(crate) use config::AzureConfig;
pub(crate) use credential::ControllerIdentity;
use credential::ManagedId;

use crate::compute::EndpointError;

/// The settings for Azure do not make sense, or name something that is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AzureError {
    /// The cloud's endpoints.
    #[error(transparent)]
    Cloud(#[from] CloudError),
    /// A settings file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The container sees a file that is not there any more.
    #[error(
        "{path} was replaced on the node, and this container keeps the old file: delete the pod, or mount the file's directory (chart value azure.cloudConfigMount=Directory)"
    )]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing in the file of a secret.
    #[error("{path} is empty: it has to hold the secret")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file of a secret holds bytes that are no text.
    #[error("{path} is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A settings file is not what it should be. The parser's words are left out on purpose: they
    /// may quote a secret.
    #[error("{path} is not valid {format} of the expected shape, at line {line} column {column}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What it begins like: JSON or YAML.
        format: &'static str,
        /// Where, counted from 1.
        line: u64,
        /// Where, counted from 1.
        column: u64,
    },
    /// A setting that the chosen credential needs is missing.
    #[error("{kind} needs {setting}")]
    Missing {
        /// The kind of credential, or the file it comes from.
        kind: &'static str,
        /// What to give.
        setting: &'static str,
    },
    /// Two settings of which one would be ignored.
    #[error("give {0} or {1}, not both")]
    Both(&'static str, &'static str),
    /// The certificate's file.
    #[error("{path} cannot be used")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: client_certificate::UnpackError,
    },
    /// Nothing says as whom to talk to Azure.
    #[error(
        "no Azure credential is configured: give --cloudconfig FILE (azure.json), USE_MSI=true for a managed identity, TENANT_ID with CLIENT_ID and CLIENT_SECRET, CLIENT_SECRET_PATH or CLIENT_CERTIFICATE_PATH for a service principal, or let the workload identity webhook set AZURE_FEDERATED_TOKEN_FILE"
    )]
    NoCredential,
    /// Neither true nor false.
    #[error("{name} must be true or false, not {value:?}")]
    NotABoolean {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// Names no managed identity.
    #[error(
        "{name} must be the client id or the ARM resource id of a managed identity, not {value:?}"
    )]
    NotAnIdentity {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: String,
    },
    /// The environment names another source of managed identity tokens than IMDS.
    #[error(
        "the environment variable {0} would send requests for the managed identity elsewhere: unset it"
    )]
    DivertedManagedIdentity(&'static str),
    /// The way to Azure.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The library did not accept the settings.
    #[error("cannot set up the credential")]
    Credential(#[source] azure_core::Error),
    /// The ARM endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
}
