//! Tokens that Entra issues: the application's credential, as its Secret holds it, is shown to it,
//! or the assertion of a service account in its place. When to ask again is the token cache's
//! business.

mod authority;
mod credential;
mod entra;
mod lines;
mod secrets;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use api::{Guid, IdentityId, Tenant};
use azure_core::credentials::AccessToken;
use azure_core::http::Transport;
use client_certificate::Unpacker;
use token_cache::Call;

pub(crate) use authority::{Authorities, BadAuthority, Host, NotAHost};
pub(crate) use client_certificate::unpack_for_parent;
use credential::{BadCredential, Credential};
pub(crate) use entra::EntraError;
use lines::Lines;
use secrets::{SecretError, SecretState, Secrets};

use crate::caller::ServiceAccount;
use crate::metrics::HostMetrics;
use crate::mint::Token;
use crate::mint::federation::{AgentError, Federation, FederationSettings, Remedy};
use crate::mint::upstream::NotCalled;
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
    /// The application's tenant.
    pub(crate) tenant: Tenant,
    /// Type 1: further tenants, whose tokens come with that of `tenant`.
    pub(crate) auxiliary: Vec<Tenant>,
    /// The application, or the managed identity.
    pub(crate) client_id: Guid,
    /// `spec.adEndpoint`, if there is one.
    pub(crate) ad_endpoint: Option<String>,
}

/// How an application proves itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Proof {
    /// By a client secret, which the Secret of this name in the identity's namespace holds: type 1.
    Secret(String),
    /// By a certificate, likewise: type 2.
    Certificate(String),
    /// By the assertion of a service account: type 3.
    Assertion {
        /// Whose.
        by: Assertor,
        /// What the author calls the managed identity; for remedies only.
        resource_id: Option<IdentityId>,
    },
}

/// Whose assertion Entra is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Assertor {
    /// The asking pod's service account. Its tokens are for pods of this account only.
    Pod(ServiceAccount),
    /// The node agent, after it authenticated the pod.
    NodeAgent,
}

/// Gets the tokens of applications.
#[derive(Debug)]
pub(crate) struct Principals {
    secrets: Option<Secrets>,
    federation: Federation,
    authorities: Authorities,
    transport: Transport,
    lines: Lines,
    unpacker: Unpacker,
}

/// What Entra is asked.
struct Question<'a> {
    principal: &'a Principal,
    tenant: &'a Tenant,
    resource: &'a str,
    authority: &'a str,
    call: &'a Call<Token>,
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
    /// No pod of the account has shown what it takes.
    #[error(
        "a token of this identity takes the pod's own service account token, which was not sent: injected pods have it if the chart value sidecar.federatedToken is true and they were created since"
    )]
    AssertionRequired,
    /// The agent has nothing to show.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Entra trusts nobody to speak for the identity, or somebody else.
    #[error("{refusal}; {remedy}")]
    Unmatched {
        /// In Entra's words.
        refusal: EntraError,
        /// What to do.
        remedy: Box<Remedy>,
    },
    /// Entra's answer.
    #[error(transparent)]
    Entra(#[from] EntraError),
    /// Entra was not asked.
    #[error(transparent)]
    NotCalled(#[from] NotCalled),
}

// === impl Principals ===

impl Principals {
    /// A source of tokens that reads no Secrets.
    pub(crate) fn new(
        authorities: Authorities,
        transport: Transport,
        federation: FederationSettings,
        metrics: HostMetrics,
    ) -> Self {
        let (federation, lines) = (Federation::new(federation), Lines::new(metrics));
        let unpacker = Unpacker::new();
        Self { secrets: None, federation, authorities, transport, lines, unpacker }
    }

    /// The same, reading Secrets with `client`.
    pub(crate) fn reading_secrets(self, client: kube::Client) -> Self {
        Self { secrets: Some(Secrets::new(client)), ..self }
    }

    /// Without a way to Entra.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        let cloud = api::cloud::Cloud::new(
            api::cloud::CloudName::AzurePublicCloud,
            api::cloud::CustomEndpoints::default(),
        );
        let audience = crate::mint::federation::testing::AUDIENCE.to_owned();
        Self::new(
            Authorities::new(&cloud.unwrap(), []),
            Transport::new(std::sync::Arc::new(testing::NoNetwork)),
            FederationSettings { audience, file: None },
            HostMetrics::detached(),
        )
    }

    /// The same, unpacking certificates in this process.
    #[cfg(test)]
    fn unpacking_here(self) -> Self {
        Self { unpacker: Unpacker::here(), ..self }
    }

    /// The assertions that it shows.
    pub(crate) fn federation(&self) -> &Federation {
        &self.federation
    }

    /// Asks for a token of `principal` for `resource` in one of its tenants.
    pub(crate) async fn token(
        &self,
        principal: &Principal,
        tenant: &Tenant,
        resource: &str,
        call: &Call<Token>,
    ) -> Result<AccessToken, PrincipalError> {
        let authority = self.authorities.of(principal.ad_endpoint.as_deref())?;
        let question = Question { principal, tenant, resource, authority: &authority, call };
        match &principal.proof {
            Proof::Secret(name) | Proof::Certificate(name) => self.by_secret(&question, name).await,
            Proof::Assertion { by, resource_id } => {
                self.by_assertion(&question, by, resource_id.as_ref()).await
            }
        }
    }

    /// A credential that is known for a while and does not work any more is looked up once more: it
    /// may just have been replaced.
    async fn by_secret(
        &self,
        question: &Question<'_>,
        name: &str,
    ) -> Result<AccessToken, PrincipalError> {
        let secrets = self.secrets.as_ref().ok_or(PrincipalError::NotAllowed)?;
        let key = ObjectKey::new(&question.principal.identity.namespace, name);
        let Some(kept) = secrets.kept(&key) else {
            let state = secrets.read(&key).await?;
            return self.ask_with(question, &key, &state).await;
        };
        let outcome = self.ask_with(question, &key, &kept).await;
        match outcome {
            Err(error) if error.is_about_the_credential() => {
                let state = secrets.read(&key).await?;
                if state.version == kept.version {
                    return Err(error);
                }
                self.ask_with(question, &key, &state).await
            }
            outcome => outcome,
        }
    }

    async fn ask_with(
        &self,
        question: &Question<'_>,
        key: &ObjectKey,
        state: &SecretState,
    ) -> Result<AccessToken, PrincipalError> {
        let unusable = |reason| PrincipalError::Credential { secret: key.clone(), reason };
        let proof = &question.principal.proof;
        let credential =
            Credential::read(proof, &state.data, &self.unpacker).await.map_err(unusable)?;
        let library = credential.for_library(question, &self.transport).map_err(unusable)?;
        let answer = self.lines.ask(question, &library).await?;
        answer.map_err(|error| credential.hidden_in(error).into())
    }

    async fn by_assertion(
        &self,
        question: &Question<'_>,
        by: &Assertor,
        resource_id: Option<&IdentityId>,
    ) -> Result<AccessToken, PrincipalError> {
        let shown = match by {
            Assertor::Pod(account) => {
                self.federation.pods.of(account).ok_or(PrincipalError::AssertionRequired)?
            }
            Assertor::NodeAgent => self.federation.of_agent().await?,
        };
        let credential = Credential::Assertion(shown.clone());
        // Client id and tenant have been checked: the library has nothing left to refuse.
        let library = credential.for_library(question, &self.transport);
        let library = library.map_err(|_| EntraError::Unavailable("malformed".to_owned()))?;
        let refusal = match self.lines.ask(question, &library).await? {
            Ok(token) => return Ok(token),
            Err(error) => credential.hidden_in(error),
        };
        if let (Assertor::Pod(account), true) = (by, refusal.is_about_the_credential()) {
            self.federation.pods.forget(account, &shown.assertion);
        }
        let of = (&question.principal.client_id, resource_id);
        match Remedy::of(refusal.words(), &shown, self.federation.audience(), of) {
            Some(remedy) => Err(PrincipalError::Unmatched { refusal, remedy: Box::new(remedy) }),
            None => Err(refusal.into()),
        }
    }
}

// === impl PrincipalError ===

impl PrincipalError {
    /// Whether it is Entra's answer, or the lack of one.
    pub(crate) fn is_of_entra(&self) -> bool {
        matches!(self, Self::Entra(_) | Self::Unmatched { .. })
    }

    fn is_about_the_credential(&self) -> bool {
        match self {
            Self::Credential { .. } => true,
            Self::Entra(error) => error.is_about_the_credential(),
            Self::NotAllowed
            | Self::Authority(_)
            | Self::Secret(_)
            | Self::AssertionRequired
            | Self::Agent(_)
            | Self::Unmatched { .. }
            | Self::NotCalled(_) => false,
        }
    }
}
