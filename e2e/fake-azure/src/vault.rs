//! The door of the key vaults: secrets for tokens of this fake's Entra.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::request::Parts as Head;
use axum::http::{HeaderMap, Method, Response, StatusCode};
use serde_json::Value;

use crate::azure::{Azure, Peer};
use crate::clock::now_seconds;
use crate::faults::{Channel, Subject};
use crate::guid::Guid;
use crate::journal::{Entry, Service};
use crate::key_vault::{AUDIENCE, KeyVault};
use crate::reply;
use crate::seed;
use crate::tokens::{Claims, decode_claims};
use crate::vault_error::VaultError;

/// Answers one request.
pub(crate) async fn serve(
    State(azure): State<Arc<Azure>>,
    Extension(Peer(source)): Extension<Peer>,
    request: Request,
) -> Response<Body> {
    let mut recording = azure.journal.begin(Service::Vault, source);
    let (head, _) = request.into_parts();
    let request_id = Guid::random();
    recording.entry.method = head.method.to_string();
    recording.entry.path = head.uri.path().to_owned();
    recording.entry.query = head.uri.query().map(str::to_owned);
    recording.entry.correlation_id = reply::correlation_id(&head.headers);
    recording.entry.request_id = Some(request_id.to_string());
    azure.faults.while_hanging(Service::Vault).await;
    let vault = KeyVault::name_of(host(&head.headers)).to_owned();
    let mut response = match answer(&azure, &vault, &head, &mut recording.entry).await {
        Ok(body) => reply::json(StatusCode::OK, &body),
        Err(error) => {
            recording.entry.error = Some(error.code().to_owned());
            error.response(&authority(&azure, &vault))
        }
    };
    reply::set_header(&mut response, "x-ms-request-id", request_id.as_str());
    reply::set_header(&mut response, "cache-control", "no-cache");
    recording.finish(response.status().as_u16());
    response
}

fn host(headers: &HeaderMap) -> &str {
    headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}

/// Where a client has to sign in for this vault.
fn authority(azure: &Azure, vault: &str) -> String {
    let world = azure.world.read();
    let tenant = world.vaults.get(vault).map_or_else(seed::tenant, |vault| vault.tenant_id.clone());
    format!("{}/{tenant}", azure.entra_url)
}

async fn answer(
    azure: &Azure,
    vault: &str,
    head: &Head,
    entry: &mut Entry,
) -> Result<Value, VaultError> {
    let caller = authenticate(&head.headers, azure.signer.jwks(), now_seconds());
    let client_id = caller.as_ref().ok().map(|claims| &claims.appid);
    entry.client_id = client_id.map(ToString::to_string);
    misbehave(azure, &Subject { client_id, ..Subject::default() }).await?;
    let caller = caller?;
    let query = head.uri.query().unwrap_or_default();
    let version = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "api-version");
    if version.is_none_or(|(_, version)| version.is_empty()) {
        return Err(VaultError::NoVersion);
    }
    let segments: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
    let (name, version) = match segments.as_slice() {
        ["secrets", name] => (*name, None),
        ["secrets", name, version] => (*name, Some(*version)),
        _ => return Err(VaultError::NotFound),
    };
    if head.method != Method::GET {
        return Err(VaultError::Method);
    }
    let world = azure.world.read();
    world.vaults.get(vault).ok_or(VaultError::NotFound)?.read(&caller, name, version)
}

async fn misbehave(azure: &Azure, subject: &Subject<'_>) -> Result<(), VaultError> {
    let verdict = azure.faults.judge(Channel::Vault, subject);
    if !verdict.latency.is_zero() {
        tokio::time::sleep(verdict.latency).await;
    }
    verdict.failure.map_or(Ok(()), |failure| Err(VaultError::Fault(failure)))
}

/// The claims of the caller's token, if it is one for vaults and of this Entra.
fn authenticate(headers: &HeaderMap, jwks: &Value, now: u64) -> Result<Claims, VaultError> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|header| header.split_once(' '));
    let (_, token) = token
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .ok_or(VaultError::NoToken)?;
    let claims = decode_claims(token.trim(), jwks).map_err(|_| VaultError::InvalidToken)?;
    if claims.exp <= now {
        return Err(VaultError::ExpiredToken);
    }
    if claims.aud != AUDIENCE {
        return Err(VaultError::Audience(claims.aud));
    }
    Ok(claims)
}
