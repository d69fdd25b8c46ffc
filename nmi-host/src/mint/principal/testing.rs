//! An Entra on loopback, over TLS, that remembers what it was asked.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use api::cloud::{Cloud, CloudName, CustomEndpoints};
use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use azure_core::http::{AsyncRawResponse, HttpClient};
use http::{StatusCode, Uri};
use parking_lot::Mutex;
use runtime::{ServingCert, Shutdown};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Authorities, Principals};
use crate::jwt::testing::unsigned;
use crate::metrics::HostMetrics;
use crate::mint::FederationSettings;
use crate::mint::federation::testing::AUDIENCE;
use crate::serve::{Limits, Server};

pub(crate) const TENANT: &str = "10000000-0000-0000-0000-00000000000a";

/// What is asked, as a form.
pub(crate) type Form = HashMap<String, String>;

/// An Entra that remembers what it was asked.
pub(crate) struct Entra {
    pub(crate) authority: String,
    pub(crate) ca: tempfile::NamedTempFile,
    pub(crate) asked: Arc<Mutex<Vec<(String, Form)>>>,
}

/// One that answers by what it is asked.
pub(crate) async fn entra(
    answer: impl Fn(&Form) -> Response + Clone + Send + Sync + 'static,
) -> Entra {
    entra_by_path(move |_, form| answer(form)).await
}

/// One that answers by what it is asked, and where.
pub(crate) async fn entra_by_path(
    answer: impl Fn(&str, &Form) -> Response + Clone + Send + Sync + 'static,
) -> Entra {
    runtime::crypto::install_provider();
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let serving = ServingCert::default();
    serving.set(own.cert.pem().as_bytes(), own.signing_key.serialize_pem().as_bytes()).unwrap();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), own.cert.pem()).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let router = Router::new().fallback(move |uri: Uri, body: Bytes| {
        let form: Form = form_urlencoded::parse(&body).into_owned().collect();
        let response = answer(uri.path(), &form);
        seen.lock().push((uri.path().to_owned(), form));
        async move { response }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = format!("https://{}", listener.local_addr().unwrap());
    let server = Server {
        listener,
        tls: Some(TlsAcceptor::from(Arc::new(serving.server_config()))),
        router,
        limits: Limits { connections: 100, per_peer: 100 },
        metrics: HostMetrics::detached(),
    };
    tokio::spawn(server.run(Shutdown::default()));
    Entra { authority, ca, asked }
}

impl Entra {
    /// What asks this Entra, with the node agent's own token in a file.
    pub(crate) fn principals(&self, agents_token: Option<PathBuf>) -> Principals {
        let endpoints = CustomEndpoints {
            authority_host: Some(self.authority.clone()),
            resource_manager: Some("https://arm.example".to_owned()),
            resource_manager_audience: None,
        };
        let cloud = Cloud::new(CloudName::Custom, endpoints).unwrap();
        let transport = azure_http::transport(Some(self.ca.path())).unwrap();
        let federation = FederationSettings { audience: AUDIENCE.to_owned(), file: agents_token };
        Principals::new(
            Authorities::new(&cloud, []),
            transport,
            federation,
            HostMetrics::detached(),
        )
    }

    /// How often it was asked.
    pub(crate) fn count(&self) -> usize {
        self.asked.lock().len()
    }
}

/// There is no way to anywhere.
#[derive(Debug)]
pub(crate) struct NoNetwork;

#[async_trait]
impl HttpClient for NoNetwork {
    async fn execute_request(
        &self,
        _: &azure_core::http::Request,
    ) -> azure_core::Result<AsyncRawResponse> {
        let kind = azure_core::error::ErrorKind::Connection;
        Err(azure_core::Error::with_message(kind, "there is no network"))
    }
}

/// The answer with a token.
pub(crate) fn token(client_id: &str, tenant: &str) -> Response {
    token_with(&json!({"aud": "r", "appid": client_id, "tid": tenant, "nbf": 7}), 3600)
}

/// The answer with a token with these claims that lives so long.
pub(crate) fn token_with(claims: &Value, seconds: u64) -> Response {
    let token = unsigned(claims);
    let body = json!({"token_type": "Bearer", "expires_in": seconds, "access_token": token});
    axum::Json(body).into_response()
}

/// A refusal.
pub(crate) fn refusal(status: u16, error: &str, description: &str) -> Response {
    let body = json!({"error": error, "error_description": description, "error_codes": [1]});
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}
