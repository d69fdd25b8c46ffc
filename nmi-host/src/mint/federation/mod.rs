//! Workload identity federation: whose service-account token Entra is shown instead of a
//! credential. How Entra is asked is the business of `principal`.

mod agent;
mod claims;
mod pods;
mod remedy;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use api::node_api::Assertion;
use async_trait::async_trait;
use azure_core::http::ClientMethodOptions;
use azure_identity::ClientAssertion;

use agent::AgentAssertion;
pub(crate) use agent::AgentError;
use claims::Claims;
pub(crate) use pods::PodAssertions;
pub(crate) use remedy::Remedy;

/// The assertions that the agent has.
#[derive(Debug)]
pub(crate) struct Federation {
    /// Those of pods.
    pub(crate) pods: PodAssertions,
    agent: AgentAssertion,
    audience: String,
}

/// How it is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FederationSettings {
    /// Of all assertions.
    pub(crate) audience: String,
    /// The agent's own, if it has one.
    pub(crate) file: Option<PathBuf>,
}

/// An assertion to show, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(super) assertion: Assertion,
    pub(super) claims: Claims,
}

// === impl Federation ===

impl Federation {
    /// With no assertions of pods yet.
    pub(crate) fn new(settings: FederationSettings) -> Self {
        let FederationSettings { audience, file } = settings;
        Self {
            pods: PodAssertions::new(audience.clone()),
            agent: AgentAssertion::new(audience.clone(), file),
            audience,
        }
    }

    /// The agent's own assertion.
    pub(super) async fn of_agent(&self) -> Result<Shown, AgentError> {
        self.agent.read().await
    }

    /// The audience of all assertions.
    pub(super) fn audience(&self) -> &str {
        &self.audience
    }
}

// === impl Shown ===

#[async_trait]
impl ClientAssertion for Shown {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.assertion.secret().to_owned())
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::time::SystemTime;

    use serde_json::json;

    use super::*;
    use crate::caller::ServiceAccount;
    use crate::jwt::testing::unsigned;
    use crate::mint::unix;

    pub(crate) const AUDIENCE: &str = "api://AzureADTokenExchange";
    pub(crate) const ISSUER: &str = "https://issuer.example/cluster/";

    /// A service account of `team`.
    pub(crate) fn account(name: &str) -> ServiceAccount {
        ServiceAccount { namespace: "team".to_owned(), name: name.to_owned() }
    }

    /// An assertion of a service account of `team` that expires in so many seconds.
    pub(crate) fn assertion(name: &str, seconds: u64) -> Assertion {
        assertion_for(name, AUDIENCE, seconds)
    }

    /// The same with an audience.
    pub(crate) fn assertion_for(name: &str, audience: &str, seconds: u64) -> Assertion {
        let expiry = unix(SystemTime::now()) + seconds;
        let subject = account(name).to_string();
        Assertion::new(unsigned(
            &json!({"iss": ISSUER, "sub": subject, "aud": [audience], "exp": expiry}),
        ))
    }
}
