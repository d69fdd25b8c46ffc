//! What several tests need: a metadata service on loopback, and one HTTP exchange in plain sight.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::jwt::testing::unsigned;

pub(crate) const CLIENT: &str = "00000000-0000-0000-0000-00000000000a";

/// A metadata service that answers as the test says and remembers what it was asked.
pub(crate) struct FakeImds {
    pub(crate) endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// Answers the n-th request (from 0 on).
pub(crate) async fn imds(
    answer: impl Fn(usize) -> Response + Clone + Send + Sync + 'static,
) -> FakeImds {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    let router = Router::new().fallback(move |request: Request| {
        let number = {
            let mut seen = seen.lock();
            seen.push(request);
            seen.len() - 1
        };
        let answer = answer.clone();
        async move { answer(number) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    FakeImds { endpoint, requests }
}

impl FakeImds {
    pub(crate) fn count(&self) -> usize {
        self.requests.lock().len()
    }

    /// The target of the n-th request, if it carried the metadata header.
    pub(crate) fn target(&self, number: usize) -> String {
        let requests = self.requests.lock();
        let request = &requests[number];
        assert_eq!(request.headers()["metadata"], "true");
        request.uri().to_string()
    }
}

impl FakeImds {
    /// The correlation id of the n-th request.
    pub(crate) fn correlation_id(&self, number: usize) -> Option<String> {
        let requests = self.requests.lock();
        let value = requests[number].headers().get(api::node_api::CORRELATION_HEADER)?;
        Some(value.to_str().unwrap().to_owned())
    }
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An answer with a token of the identity with this client id, valid for an hour.
pub(crate) fn token_answer(client_id: &str) -> Response {
    let expires_on = unix_now() + 3600;
    let claims = json!({"aud": "r", "appid": client_id, "exp": expires_on});
    let body = json!({
        "access_token": unsigned(&claims),
        "client_id": client_id,
        "expires_in": "3599",
        "expires_on": expires_on.to_string(),
        "not_before": "7",
        "resource": "r",
        "token_type": "Bearer",
    });
    axum::Json(body).into_response()
}

/// An error as the metadata service words it.
pub(crate) fn error_answer(status: u16, description: &str) -> Response {
    let body = json!({"error": "invalid_request", "error_description": description});
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}

/// Sends a request, head and body as they are, and reads the answer to the end of the connection.
pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> (u16, String, Value) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// An address on loopback where nothing listens.
pub(crate) fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
