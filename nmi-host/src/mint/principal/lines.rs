//! The ways to Entra's authorities, each with a pace and a memory of its own: one that does not
//! answer keeps nobody from the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::http::request::options::ClientRequestId;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{EntraError, Question};
use crate::metrics::{HostMetrics, Issuer};
use crate::mint::gate::Pace;
use crate::mint::upstream::{Manner, NotCalled, Upstream};

/// The ways to all authorities.
#[derive(Debug)]
pub(super) struct Lines {
    /// By authority. Few: the admin says which there may be.
    upstreams: Mutex<HashMap<String, Upstream>>,
    metrics: HostMetrics,
}

type Answer = Result<AccessToken, EntraError>;

/// For one question to Entra.
const CALL_TIMEOUT: Duration = Duration::from_secs(8);

// === impl Lines ===

impl Lines {
    pub(super) fn new(metrics: HostMetrics) -> Self {
        Self { upstreams: Mutex::default(), metrics }
    }

    /// Asks one question.
    pub(super) async fn ask(
        &self,
        question: &Question<'_>,
        credential: &Arc<dyn TokenCredential>,
    ) -> Result<Answer, NotCalled> {
        // Verbatim: Entra tells resources with and without a slash at the end apart.
        let scope = format!("{}/.default", question.resource);
        let trace = question.call.trace.clone();
        let call = || {
            let (credential, scope, trace) = (credential.clone(), scope.clone(), trace.clone());
            async move {
                let mut options = TokenRequestOptions::default();
                if let Some(trace) = trace {
                    let id = ClientRequestId::new(trace.to_string());
                    options.method_options.context.insert(id);
                }
                match timeout(CALL_TIMEOUT, credential.get_token(&[&scope], Some(options))).await {
                    Ok(Ok(token)) => Ok(token),
                    Ok(Err(error)) => Err(EntraError::of(&error)),
                    Err(_) => Err(EntraError::Unavailable("no answer in time".to_owned())),
                }
            }
        };
        // Whatever else it says, it answers.
        let failed = |answer: &Answer| matches!(answer, Err(EntraError::Unavailable(_)));
        let manner = Manner { urgent: question.call.urgent, failed };
        self.to(question.authority).call(call, manner).await
    }

    fn to(&self, authority: &str) -> Upstream {
        let mut upstreams = self.upstreams.lock();
        let new = || Upstream::new(Issuer::Entra, Pace::ENTRA, self.metrics.clone());
        upstreams.entry(authority.to_owned()).or_insert_with(new).clone()
    }
}
