//! One token call to the metadata service: by resource id, straight to the configured endpoint,
//! with no proxy and no redirects. When to call again is the token cache's business.

use std::time::Duration;

use api::IdentityId;
use form_urlencoded::Serializer;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;

use super::answer::{self, ImdsError, ImdsToken};
use super::gate::Gate;

/// A client of the metadata service.
#[derive(Debug)]
pub(crate) struct Imds {
    client: Client<HttpConnector, Empty<Bytes>>,
    endpoint: String,
    gate: Gate,
}

const API_VERSION: &str = "2018-02-01";
const USER_AGENT: &str = concat!("pod-identity-sidecar/nmi-host/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// For one call, once its turn has come.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// For the turn: who is not let through by then would only answer a caller that has left.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// Tokens with many group claims come near 8 kB.
const MAX_ANSWER_BYTES: usize = 128 * 1024;

// === impl Imds ===

impl Imds {
    /// A client of the service at `endpoint`, an http URL without path.
    pub(crate) fn new(endpoint: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        // Link-local and answering in milliseconds: connections are kept just for bursts.
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(10))
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .build(connector);
        Self { client, endpoint: endpoint.trim_end_matches('/').to_owned(), gate: Gate::new() }
    }

    /// Asks for a token, when it is this call's turn; the second value is how long the call took.
    pub(crate) async fn token(
        &self,
        identity: &IdentityId,
        resource: &str,
    ) -> (Result<ImdsToken, ImdsError>, Duration) {
        let Ok(_turn) = tokio::time::timeout(TURN_TIMEOUT, self.gate.turn()).await else {
            return (Err(ImdsError::Throttled(None)), Duration::ZERO);
        };
        let begun = Instant::now();
        let answer = tokio::time::timeout(CALL_TIMEOUT, self.call(identity, resource)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(ImdsError::Unavailable("no answer in time".to_owned())));
        (answer, begun.elapsed())
    }

    async fn call(&self, identity: &IdentityId, resource: &str) -> Result<ImdsToken, ImdsError> {
        let unavailable = |error: &dyn std::fmt::Display| ImdsError::Unavailable(error.to_string());
        let request = Request::get(self.uri(identity, resource))
            .header("metadata", "true")
            .header(header::USER_AGENT, USER_AGENT)
            .body(Empty::new())
            .map_err(|error| unavailable(&error))?;
        let response = self.client.request(request).await.map_err(|error| unavailable(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| unavailable(&error))?
            .to_bytes();
        answer::read(head.status, &head.headers, &body)
    }

    fn uri(&self, identity: &IdentityId, resource: &str) -> String {
        let query = Serializer::new(String::new())
            .append_pair("api-version", API_VERSION)
            .append_pair("resource", resource)
            .append_pair("msi_res_id", identity.as_str())
            .finish();
        format!("{}/metadata/identity/oauth2/token?{query}", self.endpoint)
    }
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
        let uri = Imds::new("http://127.0.0.1:1/").uri(&resource_id("db"), "https://x.y/?a=b&c#d");
        assert_eq!(
            uri,
            "http://127.0.0.1:1/metadata/identity/oauth2/token?api-version=2018-02-01\
             &resource=https%3A%2F%2Fx.y%2F%3Fa%3Db%26c%23d\
             &msi_res_id=%2Fsubscriptions%2Fs%2FresourceGroups%2Fg%2Fproviders\
             %2FMicrosoft.ManagedIdentity%2FuserAssignedIdentities%2Fdb"
        );
        assert!(uri.parse::<Uri>().is_ok());
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
