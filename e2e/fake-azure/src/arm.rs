//! The resource manager: hosts and their identities, and the operations that change them.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{HOST, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use serde_json::Value;

use crate::arm_error::ArmError;
use crate::arm_id::ArmId;
use crate::arm_request::{Target, authenticate, check_version, operation_not_found};
use crate::arm_resource;
use crate::azure::{Azure, Peer};
use crate::clock::now_seconds;
use crate::faults::{AttachFault, Channel, Operations, Subject, Verdict};
use crate::guid::Guid;
use crate::host::Attached;
use crate::identity_patch::{Change, IdentityPatch, plan};
use crate::journal::{Entry, Service};
use crate::operations::Write;
use crate::reply;
use crate::tokens::Claims;
use crate::world::World;

const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// Answers one request.
pub(crate) async fn serve(
    State(azure): State<Arc<Azure>>,
    Extension(Peer(source)): Extension<Peer>,
    request: Request,
) -> Response<Body> {
    let mut recording = azure.journal.begin(Service::Arm, source);
    let request_id = Guid::random();
    recording.entry.method = request.method().to_string();
    recording.entry.path = request.uri().path().to_owned();
    recording.entry.query = request.uri().query().map(str::to_owned);
    recording.entry.request_id = Some(request_id.to_string());
    recording.entry.correlation_id = reply::correlation_id(request.headers());
    azure.faults.while_hanging(Service::Arm).await;
    let mut response = match answer(&azure, request, &mut recording.entry).await {
        Ok(response) => response,
        Err(error) => {
            recording.entry.error = Some(error.code.clone());
            error.response()
        }
    };
    for name in ["x-ms-request-id", "x-ms-correlation-request-id"] {
        reply::set_header(&mut response, name, request_id.as_str());
    }
    recording.finish(response.status().as_u16());
    response
}

async fn answer(
    azure: &Arc<Azure>,
    request: Request,
    entry: &mut Entry,
) -> Result<Response<Body>, ArmError> {
    let jwks = azure.signer.jwks();
    let caller = authenticate(request.headers(), jwks, &azure.arm_audiences, now_seconds())?;
    entry.client_id = Some(caller.appid.to_string());
    check_version(request.uri().query().unwrap_or_default())?;
    let target = Target::parse(request.uri().path())?;
    match (request.method().clone(), target) {
        (Method::GET, Target::Host(id)) => get_host(azure, &id, entry).await,
        (Method::PATCH, Target::Host(id)) => patch_host(azure, &id, request, &caller, entry).await,
        (Method::GET, Target::Identity(id)) => get_identity(azure, &id, entry).await,
        (Method::GET, Target::Operation(id)) => poll(azure, &id, entry).await,
        (method, _) => Err(ArmError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            format!("The resource does not support the method '{method}'."),
        )),
    }
}

fn about_host(id: &ArmId) -> Subject<'_> {
    Subject { host: Some(id), ..Subject::default() }
}

async fn misbehave(verdict: Verdict) -> Result<(), ArmError> {
    if !verdict.latency.is_zero() {
        tokio::time::sleep(verdict.latency).await;
    }
    verdict.failure.map_or(Ok(()), |failure| Err(ArmError::fault(&failure)))
}

async fn get_host(
    azure: &Azure,
    id: &ArmId,
    entry: &mut Entry,
) -> Result<Response<Body>, ArmError> {
    entry.host = Some(id.clone());
    misbehave(azure.faults.judge(Channel::ArmGet, &about_host(id))).await?;
    Ok(reply::json(StatusCode::OK, &view(&azure.world.read(), id)?))
}

async fn get_identity(
    azure: &Azure,
    id: &ArmId,
    entry: &mut Entry,
) -> Result<Response<Body>, ArmError> {
    entry.identity = Some(id.clone());
    let subject = Subject { identity: Some(id), ..Subject::default() };
    misbehave(azure.faults.judge(Channel::ArmGet, &subject)).await?;
    let world = azure.world.read();
    let identity = world.identities.get(id).ok_or_else(|| absent(&world, id))?;
    Ok(reply::json(StatusCode::OK, &arm_resource::identity(identity)))
}

async fn poll(azure: &Azure, id: &Guid, entry: &mut Entry) -> Result<Response<Body>, ArmError> {
    entry.operation = Some(id.to_string());
    misbehave(azure.faults.judge(Channel::ArmPoll, &Subject::default())).await?;
    let operation = azure.operations.get(id).ok_or_else(|| operation_not_found(id.as_str()))?;
    let mut response = reply::json(StatusCode::OK, &operation.body());
    if operation.is_running() {
        let seconds = azure.faults.read(|faults| faults.operations.retry_after_seconds);
        reply::retry_after(&mut response, seconds);
    }
    Ok(response)
}

async fn patch_host(
    azure: &Arc<Azure>,
    id: &ArmId,
    request: Request,
    caller: &Claims,
    entry: &mut Entry,
) -> Result<Response<Body>, ArmError> {
    entry.host = Some(id.clone());
    // Before anything slow: two writes to one host at a time are what this is here to show.
    let right = azure.operations.begin_write(id).ok_or_else(ArmError::busy)?;
    let headers = request.headers().clone();
    let body = read_body(request).await?;
    misbehave(azure.faults.judge(Channel::ArmPatch, &about_host(id))).await?;
    let Some(patch) = IdentityPatch::parse(&body)? else {
        return Ok(reply::json(StatusCode::OK, &view(&azure.world.read(), id)?));
    };
    entry.identity_type = body["identity"]["type"].as_str().map(str::to_owned);
    check_etag(azure, id, &headers)?;
    let change = accept(azure, id, &patch, caller)?;
    predict(azure, id, &change, entry);
    let settings = azure.faults.read(|faults| faults.operations.clone());
    let operation = Guid::random();
    entry.operation = Some(operation.to_string());
    let fails = settings.fail
        || change
            .attach
            .iter()
            .any(|id| azure.faults.attach_fault(id) == Some(AttachFault::OperationFails));
    azure.operations.start(&operation);
    let write = Write {
        operation: operation.clone(),
        change,
        duration: Duration::from_millis(settings.duration_ms),
        fails,
        right,
    };
    let outcome = tokio::spawn(write.carry_out(Arc::clone(azure)));
    if settings.asynchronous {
        return accepted(azure, id, &headers, (&operation, &settings));
    }
    match outcome.await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(ArmError::operation_failed()),
    }
    Ok(reply::json(StatusCode::OK, &view(&azure.world.read(), id)?))
}

/// Who names an ETag writes only if nobody else has written since.
fn check_etag(azure: &Azure, id: &ArmId, headers: &HeaderMap) -> Result<(), ArmError> {
    let world = azure.world.read();
    let Some(host) = world.hosts.get(id) else { return Ok(()) };
    let etag = host.etag();
    let wanted = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(wanted) = wanted(IF_MATCH).filter(|wanted| *wanted != "*" && *wanted != etag) {
        return Err(ArmError::precondition("if-match", wanted, "does not match", &etag));
    }
    match wanted(IF_NONE_MATCH) {
        Some(wanted) => Err(ArmError::precondition("if-none-match", wanted, "matches", &etag)),
        None => Ok(()),
    }
}

async fn read_body(request: Request) -> Result<Value, ArmError> {
    let invalid = |detail: String| {
        let message =
            format!("The request content was invalid and could not be deserialized: '{detail}'.");
        ArmError::bad("InvalidRequestContent", message)
    };
    let body = axum::body::to_bytes(request.into_body(), BODY_LIMIT)
        .await
        .map_err(|error| invalid(error.to_string()))?;
    serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))
}

/// Whether the write is possible, and what it changes.
fn accept(
    azure: &Azure,
    id: &ArmId,
    patch: &IdentityPatch,
    caller: &Claims,
) -> Result<Change, ArmError> {
    let world = azure.world.read();
    let host = world.hosts.get(id).ok_or_else(|| absent(&world, id))?;
    if host.provisioning_state.eq_ignore_ascii_case("Deleting") {
        return Err(ArmError::deleting(id));
    }
    let change = plan(host, patch)?;
    let fault = |id: &ArmId| azure.faults.attach_fault(id);
    let forbidden: Vec<ArmId> = change
        .attach
        .iter()
        .filter(|id| fault(id) == Some(AttachFault::Forbidden))
        .cloned()
        .collect();
    if !forbidden.is_empty() {
        return Err(ArmError::forbidden(caller, id, &forbidden));
    }
    let missing = |identity: &&ArmId| {
        !world.identities.contains_key(identity) || fault(identity) == Some(AttachFault::Missing)
    };
    match change.attach.iter().find(missing) {
        Some(identity) => Err(ArmError::missing_identity(id, identity)),
        None => Ok(change),
    }
}

/// Records what the write will attach and detach.
fn predict(azure: &Azure, id: &ArmId, change: &Change, entry: &mut Entry) {
    let mut copy: Attached = match azure.world.read().hosts.get(id) {
        Some(host) => host.identities.clone(),
        None => return,
    };
    let delta = copy.change(&change.attach, &change.detach, 0);
    entry.attached = delta.attached;
    entry.detached = delta.detached;
}

/// The answer to an asynchronous write: where to ask how it goes.
fn accepted(
    azure: &Azure,
    id: &ArmId,
    headers: &HeaderMap,
    (operation, settings): (&Guid, &Operations),
) -> Result<Response<Body>, ArmError> {
    let authority = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let (body, location) = {
        let world = azure.world.read();
        let location = world.hosts.get(id).map(|host| host.location.clone()).unwrap_or_default();
        let mut body = view(&world, id)?;
        body["properties"]["provisioningState"] = Value::from("Updating");
        (body, location)
    };
    let url = format!(
        "https://{authority}/subscriptions/{}/providers/Microsoft.Compute/locations/{location}/\
         operations/{operation}?api-version=2024-07-01",
        id.subscription()
    );
    let status = StatusCode::from_u16(settings.status).unwrap_or(StatusCode::ACCEPTED);
    let mut response = reply::json(status, &body);
    reply::set_header(&mut response, "azure-asyncoperation", &url);
    reply::retry_after(&mut response, settings.retry_after_seconds);
    Ok(response)
}

fn view(world: &World, id: &ArmId) -> Result<Value, ArmError> {
    let host = world.hosts.get(id).ok_or_else(|| absent(world, id))?;
    Ok(arm_resource::host(world, host))
}

/// How far the path leads: to the subscription, the group, or nowhere.
fn absent(world: &World, id: &ArmId) -> ArmError {
    let known: Vec<&ArmId> = world.hosts.keys().chain(world.identities.keys()).collect();
    let in_subscription =
        |other: &&&ArmId| other.subscription().eq_ignore_ascii_case(id.subscription());
    let in_group =
        |other: &&ArmId| other.resource_group().eq_ignore_ascii_case(id.resource_group());
    let mut siblings = known.iter().filter(in_subscription).copied().peekable();
    if siblings.peek().is_none() {
        ArmError::subscription_not_found(id.subscription())
    } else if siblings.any(|other| in_group(&other)) {
        ArmError::not_found(id)
    } else {
        ArmError::group_not_found(id)
    }
}
