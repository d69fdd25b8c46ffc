//! An HTTP transport for tests: answers from a script, keeps what was asked.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::{Error, ErrorKind};
use azure_core::http::headers::Headers;
use azure_core::http::{AsyncRawResponse, Body, HttpClient, Method, Request, Transport};
use azure_core::time::{Duration, OffsetDateTime};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

/// Plays its answers in order, whatever is asked; a request beyond the last is a failed test.
#[derive(Debug)]
pub(crate) struct Script {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<Asked>>,
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Reply { status: u16, headers: Vec<(&'static str, String)>, body: String },
    Refused,
    Silence,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) body: String,
    pub(crate) at: Instant,
    headers: Headers,
}

/// A credential that always has a token.
#[derive(Debug)]
pub(crate) struct Token;

impl Script {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        let answers = Mutex::new(answers.into_iter().collect());
        Arc::new(Self { answers, asked: Mutex::default() })
    }

    pub(crate) fn transport(self: &Arc<Self>) -> Transport {
        Transport::new(Arc::clone(self) as Arc<dyn HttpClient>)
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    /// The bodies of all PATCH requests.
    pub(crate) fn patches(&self) -> Vec<Value> {
        let asked = self.asked();
        let patches = asked.iter().filter(|asked| asked.method == Method::Patch);
        patches.map(|asked| serde_json::from_str(&asked.body).unwrap()).collect()
    }

    /// `GET` or `PATCH` of each request.
    pub(crate) fn methods(&self) -> Vec<String> {
        self.asked().iter().map(|asked| asked.method.to_string()).collect()
    }
}

impl Answer {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::Reply { status, headers: Vec::new(), body: body.to_string() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Reply { headers, .. } = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

impl Asked {
    pub(crate) fn header(&self, name: &'static str) -> Option<String> {
        self.headers.get_optional_string(&name.into())
    }
}

#[async_trait]
impl HttpClient for Script {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let Body::Bytes(body) = request.body() else { panic!("a streaming body") };
        self.asked.lock().push(Asked {
            method: request.method(),
            url: request.url().to_string(),
            body: String::from_utf8(body.to_vec()).unwrap(),
            at: Instant::now(),
            headers: request.headers().clone(),
        });
        let answer = self.answers.lock().pop_front();
        match answer.unwrap_or_else(|| panic!("unexpected {} {}", request.method(), request.url()))
        {
            Answer::Reply { status, headers, body } => {
                let mut all = Headers::new();
                for (name, value) in headers {
                    all.insert(name, value);
                }
                Ok(AsyncRawResponse::from_bytes(status.into(), all, body))
            }
            Answer::Refused => Err(Error::with_message(ErrorKind::Connection, "refused")),
            Answer::Silence => std::future::pending().await,
        }
    }
}

#[async_trait]
impl TokenCredential for Token {
    async fn get_token(
        &self,
        scopes: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let token = format!("token for {}", scopes.join(" "));
        Ok(AccessToken::new(token, OffsetDateTime::now_utc() + Duration::hours(1)))
    }
}
