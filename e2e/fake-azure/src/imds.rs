//! The instance metadata service: tokens for the identities of the host that the caller is on.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts as Head;
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::arm_id::{ArmId, ResourceKind};
use crate::azure::{Azure, Peer};
use crate::clock::now_ms;
use crate::faults::{Channel, Subject};
use crate::guid::Guid;
use crate::host::Host;
use crate::imds_error::ImdsError;
use crate::imds_limit::Place;
use crate::imds_request::{
    Endpoint, Selector, TokenQuery, check_head, endpoint, parameters, token_query,
};
use crate::imds_stats::Visit;
use crate::journal::{Entry, Service};
use crate::reply;
use crate::tokens::{Grant, Proof};
use crate::world::World;

/// What real IMDS calls itself.
const SERVER: &str = "IMDS/150.870.65.1854";

/// Answers one request.
pub(crate) async fn serve(
    State(azure): State<Arc<Azure>>,
    Extension(Peer(source)): Extension<Peer>,
    request: Request,
) -> Response<Body> {
    let mut recording = azure.journal.begin(Service::Imds, source);
    recording.entry.method = request.method().to_string();
    recording.entry.path = request.uri().path().to_owned();
    recording.entry.query = request.uri().query().map(str::to_owned);
    recording.entry.correlation_id = reply::correlation_id(request.headers());
    azure.faults.while_hanging(Service::Imds).await;
    let (head, _) = request.into_parts();
    let mut response = match answer(&azure, source, &head, &mut recording.entry).await {
        Ok(body) => reply::json(StatusCode::OK, &body),
        Err(error) => {
            recording.entry.error = Some(error.code().to_owned());
            error.response()
        }
    };
    reply::set_header(&mut response, "server", SERVER);
    recording.finish(response.status().as_u16());
    response
}

async fn answer(
    azure: &Azure,
    source: IpAddr,
    head: &Head,
    entry: &mut Entry,
) -> Result<Value, ImdsError> {
    let endpoint = endpoint(head.uri.path()).ok_or(ImdsError::NotFound)?;
    check_head(&head.method, &head.headers)?;
    if endpoint == Endpoint::Versions {
        return Ok(
            json!({"apiVersions": ["2018-02-01", "2019-08-01", "2020-09-01", "2025-04-07"]}),
        );
    }
    let parameters = parameters(head.uri.query().unwrap_or_default())?;
    let caller = Caller::find(&azure.world.read(), source).ok_or(ImdsError::IdentityNotFound)?;
    entry.host = Some(caller.host.clone());
    entry.instance.clone_from(&caller.instance);
    match endpoint {
        Endpoint::Instance => Ok(instance(azure, &caller)),
        _ => {
            // Held until the answer is complete: it is one of the five at a time.
            let _place = throttle(azure, &caller, source)?;
            if endpoint == Endpoint::IdentityInfo {
                let subject = Subject { host: Some(&caller.host), ..Subject::default() };
                misbehave(azure, &subject).await?;
                return identity_info(azure, &caller);
            }
            token(azure, &caller, &parameters, entry).await
        }
    }
}

/// Whose metadata service this is.
struct Caller {
    host: ArmId,
    instance: Option<String>,
}

impl Caller {
    fn find(world: &World, source: IpAddr) -> Option<Self> {
        let (host, instance) = world.locate(source)?;
        Some(Self { host: host.id.clone(), instance: instance.map(str::to_owned) })
    }

    /// The machine that limits are counted for. An unknown address is a machine of its own.
    fn machine(&self, source: IpAddr) -> String {
        match &self.instance {
            Some(instance) => format!("{}/{instance}", self.host),
            None => format!("{}/{source}", self.host),
        }
    }
}

fn throttle(
    azure: &Azure,
    caller: &Caller,
    source: IpAddr,
) -> Result<(Visit, Option<Place>), ImdsError> {
    let machine = caller.machine(source);
    let visit = azure.imds_stats.enter(&machine);
    if !azure.faults.read(|faults| faults.imds_rate_limit) {
        return Ok((visit, None));
    }
    match azure.imds_limit.enter(&machine) {
        Some(place) => Ok((visit, Some(place))),
        None => {
            visit.throttled();
            Err(ImdsError::Throttled)
        }
    }
}

async fn misbehave(azure: &Azure, subject: &Subject<'_>) -> Result<(), ImdsError> {
    let verdict = azure.faults.judge(Channel::Imds, subject);
    if !verdict.latency.is_zero() {
        tokio::time::sleep(verdict.latency).await;
    }
    match verdict.failure {
        Some(failure) => {
            Err(ImdsError::Fault { status: failure.status, retry_after: failure.retry_after })
        }
        None => Ok(()),
    }
}

async fn token(
    azure: &Azure,
    caller: &Caller,
    parameters: &[(String, String)],
    entry: &mut Entry,
) -> Result<Value, ImdsError> {
    let query = token_query(parameters);
    let found = query.and_then(|query| Ok((find(azure, caller, &query)?, query)));
    // Even what is refused can be slow, or fail otherwise before.
    let known = found.as_ref().ok();
    let subject = Subject {
        host: Some(&caller.host),
        identity: known.map(|(holder, _)| &holder.id),
        client_id: known.map(|(holder, _)| &holder.client_id),
        resource: known.map(|(_, query)| query.resource.as_str()),
    };
    entry.identity = subject.identity.cloned();
    entry.client_id = subject.client_id.map(ToString::to_string);
    entry.resource = subject.resource.map(str::to_owned);
    misbehave(azure, &subject).await?;
    let (holder, query) = found?;
    if let Some(status) = azure.faults.token_status(&holder.id) {
        return Err(ImdsError::Fault { status, retry_after: None });
    }
    if is_unknown_resource(&query.resource) {
        return Err(ImdsError::UnknownResource(query.resource));
    }
    issue(azure, holder, &query)
}

fn issue(azure: &Azure, holder: Holder, query: &TokenQuery) -> Result<Value, ImdsError> {
    let grant = Grant {
        lifetime_seconds: azure.faults.identity_lifetime(&holder.id),
        audience: query.resource.clone(),
        client_id: holder.client_id,
        principal_id: holder.principal_id,
        tenant_id: holder.tenant_id,
        resource_id: Some(holder.id.to_string()),
        proof: Proof::Assertion,
    };
    let (token, claims) = azure.issue(&grant).map_err(|_| ImdsError::Internal)?;
    let expires_in = claims.exp.saturating_sub(claims.iat).to_string();
    Ok(json!({
        "access_token": token,
        "client_id": claims.appid,
        "expires_in": expires_in,
        "expires_on": claims.exp.to_string(),
        "ext_expires_in": expires_in,
        "not_before": claims.nbf.to_string(),
        "resource": query.resource,
        "token_type": "Bearer",
    }))
}

/// Whose token it will be. `id` of a system-assigned identity is its host's.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    id: ArmId,
    client_id: Guid,
    principal_id: Guid,
    tenant_id: Guid,
}

/// The identity that is asked for, among those that this host's metadata service knows by now.
fn find(azure: &Azure, caller: &Caller, query: &TokenQuery) -> Result<Holder, ImdsError> {
    let now = now_ms();
    let is_known =
        |id: &ArmId, since: u64| since <= now.saturating_sub(azure.faults.propagation_delay_ms(id));
    let world = azure.world.read();
    let host = world.hosts.get(&caller.host).ok_or(ImdsError::IdentityNotFound)?;
    choose(&world, host, &query.selector, is_known)
}

/// The identity that a selector means on this host. Without one it is the system-assigned identity,
/// else the only user-assigned one, as Azure documents it: a caller that forgets the selector gets
/// the host's own identity.
fn choose(
    world: &World,
    host: &Host,
    selector: &Selector,
    is_known: impl Fn(&ArmId, u64) -> bool,
) -> Result<Holder, ImdsError> {
    let system = host.system_assigned.as_ref().map(|system| Holder {
        id: host.id.clone(),
        client_id: system.client_id.clone(),
        principal_id: system.principal_id.clone(),
        tenant_id: host.tenant_id.clone(),
    });
    let attached = host.identities.since().filter(|(id, since)| is_known(id, *since));
    let assigned = attached.filter_map(|(id, _)| world.identities.get(id));
    let mut user = assigned.map(|identity| Holder {
        id: identity.id.clone(),
        client_id: identity.client_id.clone(),
        principal_id: identity.principal_id.clone(),
        tenant_id: identity.tenant_id.clone(),
    });
    let found = match selector {
        Selector::Default => match (system, user.next()) {
            (Some(system), _) => Some(system),
            (None, Some(_)) if user.next().is_some() => return Err(ImdsError::SeveralIdentities),
            (None, only) => only,
        },
        Selector::ClientId(text) => user.chain(system).find(|one| one.client_id.matches(text)),
        Selector::ObjectId(text) => user.chain(system).find(|one| one.principal_id.matches(text)),
        Selector::ResourceId(text) => {
            let wanted = text.parse::<ArmId>().ok();
            user.find(|one| Some(&one.id) == wanted.as_ref())
        }
    };
    found.ok_or(ImdsError::IdentityNotFound)
}

/// Audiences that no tenant has: those that a test spells so.
pub(crate) fn is_unknown_resource(resource: &str) -> bool {
    resource.starts_with("api://unknown")
}

fn identity_info(azure: &Azure, caller: &Caller) -> Result<Value, ImdsError> {
    let world = azure.world.read();
    let host = world.hosts.get(&caller.host).ok_or(ImdsError::IdentityNotFound)?;
    Ok(json!({"tenantId": host.tenant_id}))
}

fn instance(azure: &Azure, caller: &Caller) -> Value {
    let world = azure.world.read();
    let id = &caller.host;
    let scale_set = if id.kind() == ResourceKind::ScaleSet { id.name() } else { "" };
    json!({"compute": {
        "azEnvironment": "AzurePublicCloud",
        "location": world.hosts.get(id).map_or("", |host| host.location.as_str()),
        "name": caller.instance.as_deref().unwrap_or(id.name()),
        "osType": "Linux",
        "resourceGroupName": id.resource_group(),
        "resourceId": id.as_str(),
        "subscriptionId": id.subscription(),
        "userData": "",
        "vmScaleSetName": scale_set,
    }})
}

#[cfg(test)]
mod tests {
    use super::choose;
    use crate::host::Attached;
    use crate::imds_error::ImdsError;
    use crate::imds_request::Selector;
    use crate::seed;

    /// (system-assigned, attached identities, selector) → the name of the holder.
    fn chosen(system: bool, attached: &[&str], selector: &Selector) -> Result<String, ImdsError> {
        let world = seed::world();
        let mut host = world.hosts[&seed::machine_id()].clone();
        if !system {
            host.system_assigned = None;
        }
        let ids: Vec<_> = attached.iter().map(|name| seed::identity_id(name)).collect();
        host.identities = Attached::from(ids);
        choose(&world, &host, selector, |_, _| true).map(|holder| holder.id.name().to_owned())
    }

    #[test]
    fn without_a_selector_the_system_identity_goes_first_and_several_are_an_error() {
        let none = Selector::Default;
        for (system, attached, expected) in [
            (false, &[][..], Err(ImdsError::IdentityNotFound)),
            (true, &[], Ok("vm3")),
            (false, &["demo-identity"], Ok("demo-identity")),
            (true, &["demo-identity"], Ok("vm3")),
            (false, &["demo-identity", "second-identity"], Err(ImdsError::SeveralIdentities)),
            (true, &["demo-identity", "second-identity"], Ok("vm3")),
        ] {
            let expected = expected.map(str::to_owned);
            assert_eq!(chosen(system, attached, &none), expected, "{system} {attached:?}");
        }
    }

    #[test]
    fn a_selector_finds_attached_identities_only_in_any_case() {
        let demo = seed::world().identities[&seed::identity_id("demo-identity")].clone();
        let upper = Selector::ResourceId(demo.id.as_str().to_ascii_uppercase());
        let selectors = [
            Selector::ClientId(demo.client_id.to_string()),
            Selector::ObjectId(demo.principal_id.to_string()),
            Selector::ResourceId(demo.id.to_string()),
            upper,
        ];
        for selector in &selectors {
            let found = chosen(true, &["demo-identity", "second-identity"], selector);
            assert_eq!(found.as_deref(), Ok("demo-identity"), "{selector:?}");
            let absent = chosen(true, &["second-identity"], selector);
            assert_eq!(absent, Err(ImdsError::IdentityNotFound), "{selector:?}");
        }
        let empty = chosen(true, &["demo-identity"], &Selector::ClientId(String::new()));
        assert_eq!(empty, Err(ImdsError::IdentityNotFound));
    }
}
