//! One token call to the metadata service: by resource id, straight to the configured endpoint,
//! with no proxy and no redirects. When to call again is the token cache's business.

use std::time::Duration;

use api::node_api::CORRELATION_HEADER;
use api::{IdentityId, TokenHash};
use form_urlencoded::Serializer;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, timeout};

use super::answer::{self, ImdsError, ImdsToken};
use super::gate::Pace;
use super::upstream::{Manner, NotCalled, Upstream};
use crate::metrics::{HostMetrics, Issuer};

/// A client of the metadata service.
#[derive(Debug)]
pub(crate) struct Imds {
    client: Client<HttpConnector, Empty<Bytes>>,
    endpoint: String,
    upstream: Upstream,
}

/// What a call asks for.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    /// The identity whose token is wanted.
    pub(crate) identity: &'a IdentityId,
    /// The audience of the token.
    pub(crate) resource: &'a str,
    /// A token that is to be replaced, not repeated.
    pub(crate) rejected: Option<TokenHash>,
    /// The correlation id.
    pub(crate) trace: Option<&'a str>,
    /// Whether somebody waits for the answer.
    pub(crate) urgent: bool,
}

/// How a call ended, and how long it took.
pub(crate) type Answered = (Result<ImdsToken, ImdsError>, Duration);

const API_VERSION: &str = "2018-02-01";
const USER_AGENT: &str = concat!("pod-identity-sidecar/nmi-host/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// For one call, once its turn has come.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Tokens with many group claims come near 8 kB.
const MAX_ANSWER_BYTES: usize = 128 * 1024;

// === impl Imds ===

impl Imds {
    /// A client of the service at `endpoint`, an http URL without path.
    pub(crate) fn new(endpoint: &str, metrics: HostMetrics) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        // Link-local and answering in milliseconds: connections are kept just for bursts.
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(10))
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(connector);
        let upstream = Upstream::new(Issuer::Imds, Pace::IMDS, metrics);
        Self { client, endpoint: endpoint.trim_end_matches('/').to_owned(), upstream }
    }

    /// Asks for a token, when it is this call's turn.
    pub(crate) async fn token(&self, question: Question<'_>) -> Result<Answered, NotCalled> {
        let uri = self.uri(&question);
        let call = || {
            let asking = call(self.client.clone(), uri.clone(), question.trace.map(str::to_owned));
            async move {
                let begun = Instant::now();
                let answer = timeout(CALL_TIMEOUT, asking).await;
                let late = |_| Err(ImdsError::Unavailable("no answer in time".to_owned()));
                (answer.unwrap_or_else(late), begun.elapsed())
            }
        };
        // Whatever else it says, it answers.
        let failed = |(answer, _): &Answered| matches!(answer, Err(ImdsError::Unavailable(_)));
        self.upstream.call(call, Manner { urgent: question.urgent, failed }).await
    }

    fn uri(&self, question: &Question<'_>) -> String {
        let mut query = Serializer::new(String::new());
        query
            .append_pair("api-version", API_VERSION)
            .append_pair("resource", question.resource)
            .append_pair("msi_res_id", question.identity.as_str());
        if let Some(hash) = &question.rejected {
            query.append_pair("token_sha256_to_refresh", &hash.to_string());
        }
        format!("{}/metadata/identity/oauth2/token?{}", self.endpoint, query.finish())
    }
}

async fn call(
    client: Client<HttpConnector, Empty<Bytes>>,
    uri: String,
    trace: Option<String>,
) -> Result<ImdsToken, ImdsError> {
    let unavailable = |error: &dyn std::fmt::Display| ImdsError::Unavailable(error.to_string());
    let mut request =
        Request::get(uri).header("metadata", "true").header(header::USER_AGENT, USER_AGENT);
    if let Some(trace) = trace {
        request = request.header(CORRELATION_HEADER, trace);
    }
    let request = request.body(Empty::new()).map_err(|error| unavailable(&error))?;
    let response = client.request(request).await.map_err(|error| unavailable(&error))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES)
        .collect()
        .await
        .map_err(|error| unavailable(&error))?
        .to_bytes();
    answer::read(head.status, &head.headers, &body)
}

/// Whether `endpoint` can be a metadata service: plain http, a host, no path.
pub(crate) fn is_endpoint(endpoint: &str) -> bool {
    endpoint.parse::<Uri>().is_ok_and(|uri| {
        uri.scheme_str() == Some("http")
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.path() == "/"
            && uri.query().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assigned::testing::resource_id;

    #[test]
    fn the_request_names_the_identity_and_the_resource_and_nothing_else() {
        let imds = Imds::new("http://127.0.0.1:1/", HostMetrics::detached());
        let identity = resource_id("db");
        let question = Question {
            identity: &identity,
            resource: "https://x.y/?a=b&c#d",
            rejected: None,
            trace: None,
            urgent: true,
        };
        let uri = imds.uri(&question);
        assert_eq!(
            uri,
            "http://127.0.0.1:1/metadata/identity/oauth2/token?api-version=2018-02-01\
             &resource=https%3A%2F%2Fx.y%2F%3Fa%3Db%26c%23d\
             &msi_res_id=%2Fsubscriptions%2Fs%2FresourceGroups%2Fg%2Fproviders\
             %2FMicrosoft.ManagedIdentity%2FuserAssignedIdentities%2Fdb"
        );
        assert!(uri.parse::<Uri>().is_ok());
        let rejected = Some(TokenHash::of("t"));
        let more = imds.uri(&Question { rejected, ..question });
        assert_eq!(more, format!("{uri}&token_sha256_to_refresh={}", TokenHash::of("t")));
    }

    #[test]
    fn an_endpoint_is_plain_http_without_path() {
        for good in ["http://169.254.169.254", "http://169.254.169.254/", "http://127.0.0.1:8000"] {
            assert!(is_endpoint(good), "{good}");
        }
        for bad in
            ["", "169.254.169.254", "https://x", "http://x/y", "http://u@x", "http://x/?y", "/x"]
        {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }
}
