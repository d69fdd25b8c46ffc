//! Tokens of service principals: the application's credential, as its Secret holds it, is shown to
//! Entra. When to ask again is the token cache's business.

mod authority;
mod certificate;
mod credential;
mod entra;
mod secrets;
#[cfg(test)]
mod tests;

use std::time::Duration;

use api::Guid;
use azure_core::credentials::AccessToken;
use azure_core::http::Transport;
use tokio::time::timeout;

pub(crate) use authority::{Authorities, BadAuthority, Host, NotAHost};
use certificate::Unpacker;
pub(crate) use certificate::unpack_for_parent;
use credential::{BadCredential, Credential};
pub(crate) use entra::EntraError;
use secrets::{SecretData, SecretError, Secrets};

use crate::watched::ObjectKey;

/// An application whose token is asked for. It is part of what tokens are cached by, and the
/// `AzureIdentity` with it: who names the same application in another namespace must have its
/// credential too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Principal {
    /// The `AzureIdentity`.
    pub(crate) identity: ObjectKey,
    /// How the application proves itself.
    pub(crate) proof: Proof,
    /// The application's tenant, by id or domain.
    pub(crate) tenant: String,
    /// The application.
    pub(crate) client_id: Guid,
    /// `spec.adEndpoint`, if there is one.
    pub(crate) ad_endpoint: Option<String>,
    /// Name of the Secret, in the identity's namespace.
    pub(crate) secret: String,
}

/// How an application proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Proof {
    /// By a client secret: type 1.
    Secret,
    /// By a certificate: type 2.
    Certificate,
}

/// Gets the tokens of applications.
#[derive(Debug)]
pub(crate) struct Principals {
    secrets: Secrets,
    authorities: Authorities,
    transport: Transport,
    unpacker: Unpacker,
}

/// Why an application has no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PrincipalError {
    /// The admin does not want it.
    #[error(
        "this installation reads no Secrets of other namespaces: for identities of types 1 and 2, set the chart value nmiHost.allowAccessToSecrets to true"
    )]
    NotAllowed,
    /// The endpoint.
    #[error(transparent)]
    Authority(#[from] BadAuthority),
    /// The Secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What the Secret holds.
    #[error("the Secret {secret} cannot be used: {reason}")]
    Credential {
        /// The Secret.
        secret: ObjectKey,
        /// Why.
        reason: BadCredential,
    },
    /// Entra's answer.
    #[error(transparent)]
    Entra(#[from] EntraError),
}

/// For one question to Entra.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

// === impl Principals ===

impl Principals {
    /// A source of tokens that reads Secrets with `client`.
    pub(crate) fn new(
        client: kube::Client,
        authorities: Authorities,
        transport: Transport,
    ) -> Self {
        let secrets = Secrets::new(client);
        Self { secrets, authorities, transport, unpacker: Unpacker::new() }
    }

    /// The same, unpacking certificates in this process.
    #[cfg(test)]
    fn unpacking_here(self) -> Self {
        Self { unpacker: Unpacker::here(), ..self }
    }

    /// Asks for a token of `principal` for `resource`. A credential that is known for a while and
    /// does not work any more is looked up once more: it may just have been replaced.
    pub(crate) async fn token(
        &self,
        principal: &Principal,
        resource: &str,
    ) -> Result<AccessToken, PrincipalError> {
        let authority = self.authorities.of(principal.ad_endpoint.as_deref())?;
        let key = ObjectKey::new(&principal.identity.namespace, &principal.secret);
        let Some(kept) = self.secrets.kept(&key) else {
            let state = self.secrets.read(&key).await?;
            return self.ask(principal, &authority, resource, &state.data).await;
        };
        let outcome = self.ask(principal, &authority, resource, &kept.data).await;
        match outcome {
            Err(error) if error.is_about_the_credential() => {
                let state = self.secrets.read(&key).await?;
                if state.version == kept.version {
                    return Err(error);
                }
                self.ask(principal, &authority, resource, &state.data).await
            }
            outcome => outcome,
        }
    }

    async fn ask(
        &self,
        principal: &Principal,
        authority: &str,
        resource: &str,
        data: &SecretData,
    ) -> Result<AccessToken, PrincipalError> {
        let unusable = |reason| PrincipalError::Credential {
            secret: ObjectKey::new(&principal.identity.namespace, &principal.secret),
            reason,
        };
        let credential =
            Credential::read(principal.proof, data, &self.unpacker).await.map_err(unusable)?;
        let library =
            credential.for_library(principal, authority, &self.transport).map_err(unusable)?;
        // Verbatim: Entra tells resources with and without a slash at the end apart.
        let scope = format!("{resource}/.default");
        match timeout(CALL_TIMEOUT, library.get_token(&[&scope], None)).await {
            Ok(Ok(token)) => Ok(token),
            Ok(Err(error)) => Err(credential.hidden_in(EntraError::of(&error)).into()),
            Err(_) => Err(EntraError::Unavailable("no answer in time".to_owned()).into()),
        }
    }
}

// === impl PrincipalError ===

impl PrincipalError {
    fn is_about_the_credential(&self) -> bool {
        match self {
            Self::Credential { .. } | Self::Entra(EntraError::Refused { credential: true, .. }) => {
                true
            }
            Self::NotAllowed | Self::Authority(_) | Self::Secret(_) | Self::Entra(_) => false,
        }
    }
}
