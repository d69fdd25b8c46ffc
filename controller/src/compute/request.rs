//! One request to ARM: URL, token, deadline, headers, and the ids under which Azure's support finds
//! it. What an answer means is not decided here.

use std::sync::Arc;
use std::time::Duration;

use api::ArmId;
use api::cloud::Cloud;
use async_trait::async_trait;
use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{
    CONTENT_TYPE, ETAG, HeaderName, Headers, IF_MATCH, RETRY_AFTER, USER_AGENT,
};
use azure_core::http::policies::auth::BearerTokenAuthorizationPolicy;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{
    ClientOptions, Context, ExponentialRetryOptions, Method, Pipeline, PipelineOptions,
    PipelineSendOptions, Request, RetryOptions, StatusCode, Transport, Url,
};
use jiff::Timestamp;
use runtime::Metrics;

use super::ArmError;
use super::counting::{Purpose, RequestCounter};
use super::model::PatchBody;
use super::operation::Running;

/// How long one answer may take, tries and token included. ARM itself gives up after 60 s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

const AGENT: &str = concat!("pod-identity-sidecar/", env!("CARGO_PKG_VERSION"));

const ASYNC_OPERATION: HeaderName = HeaderName::from_static("azure-asyncoperation");
const LOCATION: HeaderName = HeaderName::from_static("location");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const CORRELATION_ID: HeaderName = HeaderName::from_static("x-ms-correlation-request-id");
const FAILURE_CAUSE: HeaderName = HeaderName::from_static("x-ms-failure-cause");

/// The endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the resource manager endpoint {0:?} is not an https URL")]
pub(crate) struct EndpointError(String);

/// Sends requests to one cloud's ARM.
#[derive(Debug)]
pub(super) struct Requests {
    endpoint: Url,
    reading: Pipeline,
    writing: Pipeline,
    counter: RequestCounter,
    running: Running,
}

/// An answer, whatever its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) etag: Option<String>,
    pub(super) retry_after: Option<Duration>,
    pub(super) async_operation: Option<String>,
    pub(super) location: Option<String>,
    /// ARM's front end refused, and the resource provider was not asked.
    pub(super) from_gateway: bool,
}

// === impl Requests ===

impl Requests {
    pub(super) fn new(
        cloud: &Cloud,
        credential: Arc<dyn TokenCredential>,
        transport: Transport,
    ) -> Result<Self, EndpointError> {
        let endpoint = Url::parse(&cloud.resource_manager)
            .ok()
            .filter(|url| url.scheme() == "https" && url.has_host())
            .ok_or_else(|| EndpointError(cloud.resource_manager.clone()))?;
        let scope = format!("{}/.default", cloud.resource_manager_audience);
        let authorize = BearerTokenAuthorizationPolicy::new(credential, [scope]);
        let counter = RequestCounter::default();
        let policies: Vec<Arc<dyn Policy>> =
            vec![Arc::new(authorize), Arc::new(Agent), Arc::new(counter.clone())];
        let twice = RetryOptions::exponential(ExponentialRetryOptions {
            max_retries: 2,
            ..ExponentialRetryOptions::default()
        });
        let reading = pipeline(transport.clone(), policies.clone(), twice);
        // A change is sent once. If it was made and only the answer is lost, a second try meets a
        // host that has changed, and takes what the first one did for the work of others.
        let writing = pipeline(transport, policies, RetryOptions::none());
        Ok(Self { endpoint, reading, writing, counter, running: Running::default() })
    }

    /// Makes known how many there were.
    pub(super) fn register(&self, metrics: &Metrics) {
        self.counter.register(metrics);
    }

    /// One more operation that is waited for.
    pub(super) fn running(&self) -> Running {
        self.running.clone()
    }

    /// The URL of a resource. Segments are escaped: an id cannot reach another path or host.
    pub(super) fn resource_url(&self, id: &ArmId, api_version: &str) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(id.as_str().split('/').skip(1));
        }
        url.set_query(None);
        url.query_pairs_mut().append_pair("api-version", api_version);
        url
    }

    /// A URL that ARM sent along, if it is ARM's own: the token goes nowhere else.
    pub(super) fn own_url(&self, text: &str) -> Option<Url> {
        let url = self.endpoint.join(text).ok()?;
        (url.origin() == self.endpoint.origin()).then_some(url)
    }

    /// Reads `url`.
    pub(super) async fn get(&self, url: &Url) -> Result<Reply, ArmError> {
        send(&self.reading, Request::new(url.clone(), Method::Get), Purpose::Get).await
    }

    /// Reads how far the change is that `url` tells of.
    pub(super) async fn poll(&self, url: &Url) -> Result<Reply, ArmError> {
        send(&self.reading, Request::new(url.clone(), Method::Get), Purpose::Poll).await
    }

    /// Changes `url`, if it still is the version `etag`.
    pub(super) async fn patch(
        &self,
        url: &Url,
        body: &PatchBody,
        etag: Option<&str>,
    ) -> Result<Reply, ArmError> {
        let mut request = Request::new(url.clone(), Method::Patch);
        request.insert_header(CONTENT_TYPE, "application/json");
        if let Some(etag) = etag {
            request.insert_header(IF_MATCH, etag.to_owned());
        }
        request.set_json(body).map_err(|error| ArmError::Rejected {
            code: "InvalidRequest".to_owned(),
            message: error.to_string(),
        })?;
        send(&self.writing, request, Purpose::Patch).await
    }
}

fn pipeline(transport: Transport, policies: Vec<Arc<dyn Policy>>, retry: RetryOptions) -> Pipeline {
    let options = ClientOptions { transport: Some(transport), retry, ..ClientOptions::default() };
    // Not in the list: 429 and 503 carry the time to wait, which is the caller's to plan; 500 can
    // be the honest answer to a request that will fail again.
    let retried = PipelineOptions {
        retry_status_codes: vec![StatusCode::BadGateway, StatusCode::GatewayTimeout],
        ..PipelineOptions::default()
    };
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    Pipeline::new(Some(name), Some(version), options, Vec::new(), policies, Some(retried))
}

async fn send(
    pipeline: &Pipeline,
    mut request: Request,
    purpose: Purpose,
) -> Result<Reply, ArmError> {
    let options = PipelineSendOptions { skip_checks: true, ..PipelineSendOptions::default() };
    let context = Context::new().with_value(purpose);
    let sent = pipeline.send(&context, &mut request, Some(options));
    // On the heap: the pipeline's future would be carried along by every caller's.
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, Box::pin(sent))
        .await
        .map_err(|_| ArmError::TimedOut { after: REQUEST_TIMEOUT })?
        .map_err(|error| unreachable(&error))?;
    let (status, headers, body) = answer.deconstruct();
    let reply = Reply::new(u16::from(status), &headers, body.as_ref());
    log(&request, &reply, &headers);
    Ok(reply)
}

/// The ids are what Azure's support asks for.
fn log(request: &Request, reply: &Reply, headers: &Headers) {
    let (method, path, status) = (request.method(), request.url().path(), reply.status);
    let request_id = headers.get_optional_str(&REQUEST_ID);
    let correlation_id = headers.get_optional_str(&CORRELATION_ID);
    if status >= 400 {
        tracing::warn!(%method, path, status, request_id, correlation_id, "ARM refused");
    } else {
        tracing::debug!(%method, path, status, request_id, correlation_id, "ARM answered");
    }
}

/// No answer: the network, or the token.
fn unreachable(error: &azure_core::Error) -> ArmError {
    if let Some(message) = credential_failure(error) {
        return message;
    }
    ArmError::Unavailable { message: chain(error), retry_after: None }
}

/// What is wrong with the credential, if that is why the request was not sent.
fn credential_failure(error: &azure_core::Error) -> Option<ArmError> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut found = false;
    while let Some(current) = next {
        if let Some(error) = current.downcast_ref::<azure_core::Error>() {
            found |= matches!(error.kind(), ErrorKind::Credential);
            let passes = match error.kind() {
                ErrorKind::HttpResponse { status, .. } => {
                    let status = u16::from(*status);
                    status == 429 || status >= 500
                }
                ErrorKind::Connection | ErrorKind::Io => true,
                _ => false,
            };
            if found && passes {
                let message = format!("no token for ARM: {}", chain(error));
                return Some(ArmError::Unavailable { message, retry_after: None });
            }
        }
        next = current.source();
    }
    found.then(|| ArmError::Authentication { message: chain(error) })
}

/// What the library says of its own retries: no help to anybody.
const NOISE: &[&str] = &["non-transport error occurred", "retry policy expired"];

/// The whole story in one line; causes that only repeat what was said are left out.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let line = first_line(&cause.to_string());
        let news = !text.contains(&line) && !NOISE.iter().any(|noise| line.starts_with(noise));
        if news && text.is_empty() {
            text = line;
        } else if news {
            text = format!("{text}: {line}");
        }
        next = cause.source();
    }
    text
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

// === impl Reply ===

impl Reply {
    fn new(status: u16, headers: &Headers, body: &[u8]) -> Self {
        let text = |name: &HeaderName| headers.get_optional_string(name);
        Self {
            status,
            body: body.to_vec(),
            etag: text(&ETAG),
            retry_after: text(&RETRY_AFTER).and_then(|text| retry_after(&text, Timestamp::now())),
            async_operation: text(&ASYNC_OPERATION),
            location: text(&LOCATION),
            from_gateway: text(&FAILURE_CAUSE)
                .is_some_and(|cause| cause.eq_ignore_ascii_case("gateway")),
        }
    }

    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Reads `Retry-After`: seconds, or an HTTP date.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// Names us instead of the library. A policy, because the library's own option takes no slash.
#[derive(Debug)]
struct Agent;

#[async_trait]
#[expect(elided_lifetimes_in_paths, reason = "as the trait has it, or async_trait binds it early")]
impl Policy for Agent {
    async fn send(
        &self,
        context: &Context,
        request: &mut Request,
        next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        request.insert_header(USER_AGENT, AGENT);
        match next {
            [first, rest @ ..] => first.send(context, request, rest).await,
            [] => Err(azure_core::Error::with_message(ErrorKind::Other, "no transport")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2024-05-01T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("0", Some(0)),
            (" 17 ", Some(17)),
            ("Wed, 01 May 2024 12:01:30 GMT", Some(90)),
            ("Wed, 01 May 2024 11:00:00 GMT", Some(0)),
            ("-5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(text, now), expected.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn a_story_is_told_once() {
        let inner = azure_core::Error::with_message(ErrorKind::Io, "refused\nat line 7");
        let outer = azure_core::Error::with_error(ErrorKind::Credential, inner, "no IMDS: refused");
        assert_eq!(chain(&outer), "no IMDS: refused");
        assert!(matches!(unreachable(&outer), ArmError::Unavailable { .. }));
    }

    #[test]
    fn a_refused_credential_is_not_an_outage() {
        let refused = |status: u16| {
            let kind = ErrorKind::HttpResponse {
                status: status.into(),
                error_code: None,
                raw_response: None,
            };
            let inner = azure_core::Error::with_message(kind, "AADSTS7000215: invalid secret");
            azure_core::Error::with_error(ErrorKind::Credential, inner, "authentication failed")
        };
        for (status, code) in [
            (400, "authentication"),
            (401, "authentication"),
            (429, "unavailable"),
            (503, "unavailable"),
        ] {
            assert_eq!(unreachable(&refused(status)).code(), code, "{status}");
        }
        let ArmError::Authentication { message } = unreachable(&refused(401)) else { panic!() };
        assert_eq!(message, "authentication failed: AADSTS7000215: invalid secret");
    }
}
