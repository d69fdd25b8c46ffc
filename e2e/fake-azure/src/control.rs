//! The control API: what tests, the demo and people use to look into the fake and to change it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::arm_id::ArmId;
use crate::azure::Azure;
use crate::clock::now_ms;
use crate::faults::{Downs, Faults, FaultsError};
use crate::guid::Guid;
use crate::merge::merge;
use crate::reply;
use crate::world::{World, WorldError};

/// What the control API works on.
#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) azure: Arc<Azure>,
    /// What each listener has made of the `down` faults: a change is answered when it is in force.
    pub(crate) listening: Vec<watch::Receiver<Downs>>,
}

/// Why a control request is refused.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error("the body is not the JSON that this call needs")]
    Body(#[source] serde_json::Error),
    #[error("the faults make no sense")]
    Faults(#[source] FaultsError),
    #[error("the world cannot be changed so")]
    World(#[source] WorldError),
    #[error("there is no {0} with this key")]
    Absent(&'static str),
    #[error("the query needs {0}")]
    Query(&'static str),
    #[error("the faults are set, but a service cannot take its address again")]
    NotInForce,
}

/// How long a listener may take to go away or to come back.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = Result<Response<Body>, ControlError>;

/// The routes.
pub(crate) fn router(control: Control) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/_fake/state", get(state))
        .route("/_fake/jwks", get(jwks))
        .route("/_fake/journal", get(journal).delete(clear_journal))
        .route("/_fake/faults", get(faults).put(put_faults).patch(patch_faults))
        .route("/_fake/tenants", post(post_tenant))
        .route("/_fake/apps", post(post_app).delete(delete_app))
        .route("/_fake/identities", post(post_identity).delete(delete_identity))
        .route("/_fake/issuers", post(post_issuer).delete(delete_issuer))
        .route("/_fake/hosts", post(post_host).delete(delete_host))
        .route("/_fake/hosts/attach", post(attach))
        .route("/_fake/hosts/detach", post(detach))
        .route("/_fake/default-host", post(default_host))
        .route("/_fake/vaults", post(post_vault).delete(delete_vault))
        .route("/_fake/stats", get(stats).delete(clear_stats))
        .route("/_fake/reset", post(reset))
        .fallback(async || {
            let help = "see GET /_fake/state, /_fake/journal, /_fake/faults and the README";
            reply::json(StatusCode::NOT_FOUND, &json!({"error": help}))
        })
        .with_state(control)
}

impl IntoResponse for ControlError {
    fn into_response(self) -> Response<Body> {
        let status = match &self {
            Self::Absent(_) => StatusCode::NOT_FOUND,
            Self::NotInForce => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(&self);
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        reply::json(status, &json!({"error": message}))
    }
}

fn ok(body: &Value) -> Response<Body> {
    reply::json(StatusCode::OK, body)
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(ControlError::Body)
}

// === looking ===

async fn state(State(control): State<Control>) -> Response<Body> {
    ok(&control.azure.world.read().view())
}

async fn jwks(State(control): State<Control>) -> Response<Body> {
    ok(control.azure.signer.jwks())
}

#[derive(Deserialize)]
#[serde(default)]
struct JournalQuery {
    since: u64,
    limit: usize,
    service: Option<String>,
}

impl Default for JournalQuery {
    fn default() -> Self {
        Self { since: 0, limit: 10_000, service: None }
    }
}

async fn journal(
    State(control): State<Control>,
    query: Result<Query<JournalQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|_| ControlError::Query("numbers for since and limit"))?;
    let page =
        control.azure.journal.page(query.since, query.limit.max(1), query.service.as_deref());
    Ok(ok(&json!(page)))
}

async fn clear_journal(State(control): State<Control>) -> StatusCode {
    control.azure.journal.clear();
    StatusCode::NO_CONTENT
}

async fn stats(State(control): State<Control>) -> Response<Body> {
    ok(&json!({"imds": control.azure.imds_stats.view()}))
}

async fn clear_stats(State(control): State<Control>) -> StatusCode {
    control.azure.imds_stats.clear();
    StatusCode::NO_CONTENT
}

// === faults ===

async fn faults(State(control): State<Control>) -> Response<Body> {
    ok(&control.azure.faults.read(|faults| json!(faults)))
}

async fn put_faults(State(control): State<Control>, body: Bytes) -> Answer {
    let faults: Faults = parse(&body)?;
    set_faults(&control, |_| Ok(faults)).await
}

async fn patch_faults(State(control): State<Control>, body: Bytes) -> Answer {
    let patch: Value = parse(&body)?;
    set_faults(&control, |current| {
        let merged = merge(json!(current), patch);
        serde_json::from_value(merged).map_err(ControlError::Body)
    })
    .await
}

async fn set_faults(
    control: &Control,
    change: impl FnOnce(&Faults) -> Result<Faults, ControlError>,
) -> Answer {
    let changed = control.azure.faults.change(|current| {
        let faults = change(current)?;
        faults.check().map_err(ControlError::Faults)?;
        Ok::<_, ControlError>(faults)
    })?;
    settle(control).await?;
    Ok(ok(&json!(changed)))
}

/// Waits until every listener does what `down` asks, so that the next request sees it.
async fn settle(control: &Control) -> Result<(), ControlError> {
    let wanted = control.azure.faults.downs();
    let all = async {
        for listening in &control.listening {
            // Compared with what is wanted now: another request may have changed it meanwhile.
            // An error means that the listener has ended, and so has the process soon.
            let _ = listening.clone().wait_for(|applied| *applied == *wanted.borrow()).await;
        }
    };
    tokio::time::timeout(SETTLE_TIMEOUT, all).await.map_err(|_| ControlError::NotInForce)
}

async fn reset(State(control): State<Control>) -> Answer {
    control.azure.reset();
    settle(&control).await?;
    Ok(ok(&json!({"reset": true})))
}

// === changing the world ===

fn change(
    control: &Control,
    change: impl FnOnce(&mut World) -> Result<Value, WorldError>,
) -> Answer {
    control.azure.change(change).map(|view| ok(&view)).map_err(ControlError::World)
}

async fn post_tenant(State(control): State<Control>, body: Bytes) -> Answer {
    let body = parse(&body)?;
    change(&control, |world| world.put_tenant(body))
}

async fn post_app(State(control): State<Control>, body: Bytes) -> Answer {
    let body = parse(&body)?;
    change(&control, |world| world.put_app(body))
}

async fn post_identity(State(control): State<Control>, body: Bytes) -> Answer {
    let body = parse(&body)?;
    change(&control, |world| world.put_identity(body))
}

async fn post_issuer(State(control): State<Control>, body: Bytes) -> Answer {
    let body = parse(&body)?;
    change(&control, |world| world.put_issuer(body))
}

async fn post_vault(State(control): State<Control>, body: Bytes) -> Answer {
    let body = parse(&body)?;
    change(&control, |world| world.put_vault(body))
}

async fn post_host(State(control): State<Control>, body: Bytes) -> Answer {
    let body = parse(&body)?;
    change(&control, |world| world.put_host(body, now_ms()))
}

#[derive(Deserialize)]
struct IdQuery {
    id: String,
}

type IdResult = Result<Query<IdQuery>, QueryRejection>;

async fn delete_app(State(control): State<Control>, query: IdResult) -> Answer {
    let id: Guid = key(query)?;
    deleted("app", control.azure.change(|world| world.apps.remove(&id).is_some()))
}

async fn delete_identity(State(control): State<Control>, query: IdResult) -> Answer {
    let id: ArmId = key(query)?;
    deleted("identity", control.azure.change(|world| world.identities.remove(&id).is_some()))
}

async fn delete_issuer(State(control): State<Control>, query: IdResult) -> Answer {
    let id: String = key(query)?;
    deleted("issuer", control.azure.change(|world| world.issuers.remove(&id).is_some()))
}

async fn delete_vault(State(control): State<Control>, query: IdResult) -> Answer {
    let id: String = key(query)?;
    deleted("vault", control.azure.change(|world| world.vaults.remove(&id).is_some()))
}

async fn delete_host(State(control): State<Control>, query: IdResult) -> Answer {
    let id: ArmId = key(query)?;
    let existed = control.azure.change(|world| {
        if world.default_host.as_ref() == Some(&id) {
            world.default_host = None;
        }
        world.hosts.remove(&id).is_some()
    });
    deleted("host", existed)
}

fn key<K: std::str::FromStr>(query: IdResult) -> Result<K, ControlError> {
    let Query(IdQuery { id }) = query.map_err(|_| ControlError::Query("?id=<key>"))?;
    id.parse().map_err(|_| ControlError::Query("?id=<key> with a well-formed key"))
}

fn deleted(what: &'static str, existed: bool) -> Answer {
    if existed { Ok(ok(&json!({"deleted": true}))) } else { Err(ControlError::Absent(what)) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Assignment {
    host: ArmId,
    identities: Vec<ArmId>,
}

async fn attach(State(control): State<Control>, body: Bytes) -> Answer {
    let Assignment { host, identities } = parse(&body)?;
    assign(&control, &host, (&identities, &[]))
}

async fn detach(State(control): State<Control>, body: Bytes) -> Answer {
    let Assignment { host, identities } = parse(&body)?;
    assign(&control, &host, (&[], &identities))
}

fn assign(control: &Control, host: &ArmId, lists: (&[ArmId], &[ArmId])) -> Answer {
    change(control, |world| {
        let delta = world.change_host(host, lists, now_ms())?;
        Ok(json!({"attached": delta.attached, "detached": delta.detached}))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DefaultHost {
    host: Option<ArmId>,
}

async fn default_host(State(control): State<Control>, body: Bytes) -> Answer {
    let DefaultHost { host } = parse(&body)?;
    change(&control, |world| {
        if let Some(id) = host.as_ref().filter(|id| !world.hosts.contains_key(id)) {
            return Err(WorldError::Missing(id.to_string()));
        }
        world.default_host.clone_from(&host);
        Ok(json!({"default_host": host}))
    })
}
