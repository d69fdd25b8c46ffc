//! An agent of the node that answers as it is told.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::node_api::{
    ASSIGNMENT_PATH, AssignedIdentitySummary, Assignment, AssignmentState, AuxiliaryToken,
    CORRELATION_HEADER, NodeError, NodeErrorCode, TOKEN_PATH, TokenRequest, TokenResponse,
};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtime::ServingCert;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::SERVER_NAME;

pub(crate) const CLIENT_ID: &str = "aaaaaaaa-1111-2222-3333-444444444444";

/// The agent.
pub(crate) struct FakeNode {
    pub(crate) address: SocketAddr,
    pub(crate) state: Arc<State>,
    ca: CertifiedIssuer<'static, KeyPair>,
    server: JoinHandle<()>,
}

pub(crate) struct State {
    /// How token calls are answered: with a life in seconds, or not.
    pub(crate) answer: Mutex<Result<u64, NodeError>>,
    pub(crate) delay: Mutex<Duration>,
    pub(crate) assertion: Mutex<AssertionPolicy>,
    /// So many token calls are not answered: their connections are closed.
    pub(crate) hang_ups: AtomicUsize,
    pub(crate) auxiliary: Mutex<Vec<AuxiliaryToken>>,
    pub(crate) assignment: watch::Sender<AssignmentState>,
    pub(crate) requests: Mutex<Vec<TokenRequest>>,
    /// The correlation ids of the token calls.
    pub(crate) correlations: Mutex<Vec<String>>,
    pub(crate) bearers: Mutex<Vec<String>>,
    pub(crate) connections: AtomicUsize,
}

/// What the agent does about the pod's own token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AssertionPolicy {
    /// It needs none.
    NotNeeded,
    /// It has one and wants a newer one.
    Wanted,
    /// It has none.
    Required,
}

impl FakeNode {
    pub(crate) async fn start() -> Self {
        Self::at(super::listener().await, new_ca())
    }

    /// An address at which nobody answers.
    pub(crate) fn down() -> Self {
        let ca = new_ca();
        let state = Arc::new(State::new());
        Self { address: super::free_address(), state, ca, server: tokio::spawn(async {}) }
    }

    /// Replaces the process behind the same address; all connections break.
    pub(crate) async fn restart(&mut self, new_ca: Option<CertifiedIssuer<'static, KeyPair>>) {
        self.stop().await;
        let listener = TcpListener::bind(self.address).await.unwrap();
        if let Some(ca) = new_ca {
            self.ca = ca;
        }
        self.server = tokio::spawn(serve(listener, certificate(&self.ca), self.state.clone()));
    }

    pub(crate) async fn stop(&mut self) {
        self.server.abort();
        if !self.server.is_finished() {
            drop((&mut self.server).await);
        }
    }

    fn at(listener: TcpListener, ca: CertifiedIssuer<'static, KeyPair>) -> Self {
        runtime::crypto::install_provider();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::new());
        let server = tokio::spawn(serve(listener, certificate(&ca), state.clone()));
        Self { address, state, ca, server }
    }

    pub(crate) fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    pub(crate) fn calls(&self) -> usize {
        self.state.requests.lock().len()
    }

    pub(crate) fn answers(&self, answer: Result<u64, NodeError>) {
        *self.state.answer.lock() = answer;
    }

    pub(crate) fn fails(&self, code: NodeErrorCode, message: &str) {
        self.answers(Err(NodeError::new(code, message)));
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn new() -> Self {
        Self {
            answer: Mutex::new(Ok(86_400)),
            delay: Mutex::new(Duration::ZERO),
            assertion: Mutex::new(AssertionPolicy::NotNeeded),
            hang_ups: AtomicUsize::new(0),
            auxiliary: Mutex::default(),
            assignment: watch::Sender::new(AssignmentState::Assigned),
            requests: Mutex::default(),
            correlations: Mutex::default(),
            bearers: Mutex::default(),
            connections: AtomicUsize::new(0),
        }
    }
}

pub(crate) fn new_ca() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn certificate(ca: &CertifiedIssuer<'static, KeyPair>) -> ServingCert {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([SERVER_NAME.to_owned()]).unwrap();
    let leaf = params.signed_by(&key, ca).unwrap();
    let cert = ServingCert::default();
    cert.set(leaf.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    cert
}

async fn serve(listener: TcpListener, cert: ServingCert, state: Arc<State>) {
    let acceptor = TlsAcceptor::from(Arc::new(cert.server_config()));
    // Dropped with this task, and the connections with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, state) = (acceptor.clone(), state.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            state.connections.fetch_add(1, Ordering::SeqCst);
            let service = service_fn(move |request| answer(state.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            drop(connection.await);
        });
    }
}

async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> io::Result<Response<Full<Bytes>>> {
    let bearer = request.headers()[header::AUTHORIZATION].to_str().unwrap().to_owned();
    state.bearers.lock().push(bearer);
    match request.uri().path() {
        TOKEN_PATH => {
            let hangs_up = |left: usize| left.checked_sub(1);
            let ordering = Ordering::SeqCst;
            if state.hang_ups.fetch_update(ordering, ordering, hangs_up).is_ok() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let id = request.headers()[CORRELATION_HEADER].to_str().unwrap().to_owned();
            state.correlations.lock().push(id);
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let request: TokenRequest = serde_json::from_slice(&body).unwrap();
            Ok(token(&state, request).await)
        }
        ASSIGNMENT_PATH => {
            let query = request.uri().query().unwrap();
            let wait = query.strip_prefix("wait=").unwrap().parse().unwrap();
            let mut watch = state.assignment.subscribe();
            let assigned = watch.wait_for(|state| *state == AssignmentState::Assigned);
            drop(tokio::time::timeout(Duration::from_secs(wait), assigned).await);
            let now = *state.assignment.borrow();
            let identities = vec![AssignedIdentitySummary {
                namespace: "team".to_owned(),
                name: "reader".to_owned(),
                assigned: now == AssignmentState::Assigned,
                message: None,
            }];
            Ok(json(StatusCode::OK, &Assignment { state: now, identities }))
        }
        other => panic!("unexpected call of {other}"),
    }
}

async fn token(state: &State, request: TokenRequest) -> Response<Full<Bytes>> {
    let number = {
        let mut requests = state.requests.lock();
        requests.push(request.clone());
        requests.len()
    };
    let delay = *state.delay.lock();
    tokio::time::sleep(delay).await;
    let policy = *state.assertion.lock();
    if policy == AssertionPolicy::Required && request.assertion.is_none() {
        let error = NodeError::new(NodeErrorCode::AssertionRequired, "send the pod's token");
        return json(StatusCode::PRECONDITION_REQUIRED, &error);
    }
    let answer = state.answer.lock().clone();
    match answer {
        Ok(expires_in) => {
            let response = TokenResponse {
                access_token: format!("secret-token-{number}"),
                token_type: "Bearer".to_owned(),
                resource: request.resource,
                client_id: CLIENT_ID.to_owned(),
                expires_on: 1_795_415_462,
                not_before: 1_795_329_062,
                expires_in,
                assertion_wanted: policy == AssertionPolicy::Wanted,
                auxiliary: state.auxiliary.lock().clone(),
            };
            json(StatusCode::OK, &response)
        }
        Err(error) => json(StatusCode::from_u16(error.code.status()).unwrap(), &error),
    }
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let body = Full::new(Bytes::from(serde_json::to_vec(value).unwrap()));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
