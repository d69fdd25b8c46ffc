//! Entra's token endpoint for client credentials, with its discovery documents.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::arm_id::ArmId;
use crate::assertion::{
    AssertionError, SignatureCheck, check_certificate, check_federated, is_self_issued,
};
use crate::azure::{Azure, Peer};
use crate::clock::now_seconds;
use crate::entra_discovery::{instance, openid_configuration};
use crate::entra_error::EntraError;
use crate::faults::{Channel, Subject};
use crate::guid::Guid;
use crate::imds::is_unknown_resource;
use crate::journal::{Entry, Service};
use crate::jwt::Jwt;
use crate::principal::{ClientSecret, FederatedCredential, Issuer};
use crate::reply;
use crate::tokens::{Grant, Proof};
use crate::world::World;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const BODY_LIMIT: usize = 64 * 1024;

/// Answers one request.
pub(crate) async fn serve(
    State(azure): State<Arc<Azure>>,
    Extension(Peer(source)): Extension<Peer>,
    request: Request,
) -> Response<Body> {
    let mut recording = azure.journal.begin(Service::Entra, source);
    recording.entry.method = request.method().to_string();
    recording.entry.path = request.uri().path().to_owned();
    let correlation = reply::correlation_id(request.headers());
    recording.entry.correlation_id.clone_from(&correlation);
    azure.faults.while_hanging(Service::Entra).await;
    let mut response = match answer(&azure, request, &mut recording.entry).await {
        Ok(body) => reply::json(StatusCode::OK, &body),
        Err(None) => reply::json(StatusCode::NOT_FOUND, &json!({"error": "not_found"})),
        Err(Some(error)) => {
            recording.entry.error = Some(format!("AADSTS{}", error.code));
            error.response(correlation.clone())
        }
    };
    let request_id = Guid::random();
    reply::set_header(&mut response, "x-ms-request-id", request_id.as_str());
    if let Some(correlation) = correlation {
        reply::set_header(&mut response, "client-request-id", &correlation);
    }
    reply::set_header(&mut response, "cache-control", "no-store, no-cache");
    recording.entry.request_id = Some(request_id.to_string());
    recording.finish(response.status().as_u16());
    response
}

/// The body, or why there is none; `None`: there is nothing at this path.
async fn answer(
    azure: &Azure,
    request: Request,
    entry: &mut Entry,
) -> Result<Value, Option<EntraError>> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    if let [tenant, "oauth2", "v2.0", "token"] = segments.as_slice() {
        return Ok(token(azure, tenant, request, entry).await?);
    }
    misbehave(azure, &Subject::default()).await?;
    let host = host(request.headers());
    match segments.as_slice() {
        ["common" | "organizations", "v2.0", ".well-known", "openid-configuration"] => {
            Ok(openid_configuration(host, "{tenantid}"))
        }
        [tenant, "v2.0", ".well-known", "openid-configuration"] => {
            let tenant = tenant_id(&azure.world.read(), tenant)?;
            Ok(openid_configuration(host, tenant.as_str()))
        }
        ["common", "discovery", "instance"] => {
            Ok(instance(request.uri().query().unwrap_or_default(), host)?)
        }
        [_, "discovery", "v2.0" | "keys", ..] => Ok(azure.signer.jwks().clone()),
        _ => Err(None),
    }
}

fn host(headers: &HeaderMap) -> &str {
    headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default()
}

async fn misbehave(azure: &Azure, subject: &Subject<'_>) -> Result<(), EntraError> {
    let verdict = azure.faults.judge(Channel::Entra, subject);
    if !verdict.latency.is_zero() {
        tokio::time::sleep(verdict.latency).await;
    }
    let failure = verdict.failure;
    failure.map_or(Ok(()), |failure| Err(EntraError::fault(failure.status, failure.retry_after)))
}

type Form = HashMap<String, String>;

async fn read_form(request: Request) -> Result<Form, EntraError> {
    let body = axum::body::to_bytes(request.into_body(), BODY_LIMIT)
        .await
        .map_err(|_| EntraError::body())?;
    Ok(form_urlencoded::parse(&body).into_owned().collect())
}

/// A request for a token as it was sent: nothing is proven yet.
struct TokenRequest {
    form: Form,
    client: String,
    audience: String,
}

impl TokenRequest {
    fn parse(form: Form) -> Result<Self, EntraError> {
        let field = |name: &'static str| {
            let value = form.get(name).filter(|value| !value.is_empty());
            value.map(String::as_str).ok_or_else(|| EntraError::missing(name))
        };
        let grant = field("grant_type")?;
        if grant != "client_credentials" {
            return Err(EntraError::grant(grant));
        }
        let client = field("client_id")?.to_owned();
        let scope = field("scope")?;
        let audience = scope
            .strip_suffix("/.default")
            .filter(|resource| !resource.is_empty() && !resource.contains(' '))
            .ok_or_else(|| EntraError::scope(scope))?
            .to_owned();
        Ok(Self { form, client, audience })
    }
}

async fn token(
    azure: &Azure,
    tenant: &str,
    request: Request,
    entry: &mut Entry,
) -> Result<Value, EntraError> {
    if request.method() != Method::POST {
        return Err(EntraError::method());
    }
    let form = read_form(request).await?;
    entry.client_id = form.get("client_id").cloned();
    let request = TokenRequest::parse(form);
    let known = request.as_ref().ok();
    entry.resource = known.map(|request| request.audience.clone());
    let found = known.map(|request| find(&azure.world.read(), tenant, &request.client));
    let holder = found.as_ref().and_then(|found| found.as_ref().ok());
    entry.identity = holder.and_then(|holder| holder.identity.clone());
    // Even what is refused can be slow, or fail otherwise before.
    let subject = Subject {
        identity: entry.identity.as_ref(),
        client_id: holder.map(|holder| &holder.client_id),
        resource: entry.resource.as_deref(),
        ..Subject::default()
    };
    misbehave(azure, &subject).await?;
    let request = request?;
    let holder = find(&azure.world.read(), tenant, &request.client)?;
    let issuers = azure.world.read().issuers.clone();
    let issuers: Vec<&Issuer> = issuers.values().collect();
    let proof = authenticate(&holder, tenant, &request.form, &issuers, entry)?;
    issue(azure, holder, proof, request.audience)
}

fn find(world: &World, tenant: &str, client: &str) -> Result<Holder, EntraError> {
    Holder::find(world, client, &tenant_id(world, tenant)?)
}

fn issue(
    azure: &Azure,
    holder: Holder,
    proof: Proof,
    audience: String,
) -> Result<Value, EntraError> {
    if is_unknown_resource(&audience) {
        return Err(EntraError::unknown_resource(&audience, &holder.tenant_id));
    }
    if let Some(status) = holder.identity.as_ref().and_then(|id| azure.faults.token_status(id)) {
        return Err(EntraError::fault(status, None));
    }
    let lifetime_seconds = lifetime(azure, &holder);
    let grant = Grant {
        audience,
        client_id: holder.client_id,
        principal_id: holder.principal_id,
        tenant_id: holder.tenant_id,
        resource_id: holder.identity.map(String::from),
        proof,
        lifetime_seconds,
    };
    let (token, _) = azure.issue(&grant).map_err(|_| EntraError::fault(500, None))?;
    Ok(json!({
        "token_type": "Bearer",
        "expires_in": lifetime_seconds,
        "ext_expires_in": lifetime_seconds,
        "access_token": token,
    }))
}

/// Who asks: an application, or a managed identity with federated credentials.
struct Holder {
    client_id: Guid,
    principal_id: Guid,
    tenant_id: Guid,
    identity: Option<ArmId>,
    secrets: Vec<ClientSecret>,
    certificates: Vec<String>,
    federated_credentials: Vec<FederatedCredential>,
}

impl Holder {
    fn find(world: &World, client: &str, tenant: &Guid) -> Result<Self, EntraError> {
        let unknown = || EntraError::unknown_app(client, tenant);
        let client_id: Guid = client.parse().map_err(|_| unknown())?;
        let app = world.apps.get(&client_id).map(|app| {
            let home = (app.principal_id.clone(), app.tenant_id.clone());
            let guest = app.guest_tenants.get(tenant).map(|id| (id.clone(), tenant.clone()));
            let (principal_id, tenant_id) = guest.unwrap_or(home);
            Self {
                client_id: app.client_id.clone(),
                principal_id,
                tenant_id,
                identity: None,
                secrets: app.secrets.clone(),
                certificates: app.certificates.clone(),
                federated_credentials: app.federated_credentials.clone(),
            }
        });
        let holder = app.or_else(|| {
            world.identity_by_client(&client_id).map(|identity| Self {
                client_id: identity.client_id.clone(),
                principal_id: identity.principal_id.clone(),
                tenant_id: identity.tenant_id.clone(),
                identity: Some(identity.id.clone()),
                secrets: Vec::new(),
                certificates: Vec::new(),
                federated_credentials: identity.federated_credentials.clone(),
            })
        });
        holder.filter(|holder| holder.tenant_id == *tenant).ok_or_else(unknown)
    }
}

fn authenticate(
    holder: &Holder,
    tenant: &str,
    form: &Form,
    issuers: &[&Issuer],
    entry: &mut Entry,
) -> Result<Proof, EntraError> {
    if let Some(secret) = form.get("client_secret") {
        entry.credential = Some("client_secret".to_owned());
        return if holder.secrets.iter().any(|known| known.matches(secret)) {
            Ok(Proof::Secret)
        } else {
            Err(EntraError::wrong_secret(holder.client_id.as_str()))
        };
    }
    let assertion = form.get("client_assertion").ok_or_else(EntraError::no_credential)?;
    if form.get("client_assertion_type").map(String::as_str) != Some(ASSERTION_TYPE) {
        return Err(EntraError::missing("client_assertion_type"));
    }
    let jwt = Jwt::parse(assertion).map_err(|_| AssertionError::Malformed)?;
    let now = now_seconds();
    if is_self_issued(&jwt) && jwt.claim("iss").is_some_and(|iss| holder.client_id.matches(iss)) {
        entry.credential = Some("certificate".to_owned());
        check_certificate(&jwt, &holder.certificates, tenant, now)?;
    } else {
        entry.credential = Some("federated".to_owned());
        entry.subject = jwt.claim("sub").map(str::to_owned);
        let check = check_federated(&jwt, &holder.federated_credentials, issuers, now)?;
        entry.signature_checked = Some(check == SignatureCheck::Done);
    }
    Ok(Proof::Assertion)
}

/// Managed identities have long-lived tokens; those of applications live 60 to 90 minutes.
fn lifetime(azure: &Azure, holder: &Holder) -> u64 {
    if let Some(id) = &holder.identity {
        return azure.faults.identity_lifetime(id);
    }
    let seconds = azure.faults.read(|faults| faults.token_lifetime.application_seconds);
    seconds.unwrap_or_else(|| rand::random_range(3600..=5400))
}

fn tenant_id(world: &World, name: &str) -> Result<Guid, EntraError> {
    let tenant = world.tenant(name).ok_or_else(|| EntraError::unknown_tenant(name))?;
    Ok(tenant.id.clone())
}
