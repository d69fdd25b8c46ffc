//! The world: everything that exists in this fake Azure, and how it is changed from outside.
//!
//! Pure values: no clock, no sockets. The JSON form is that of the seed file and of the state file.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::arm_id::{ArmId, ResourceKind};
use crate::guid::Guid;
use crate::host::{Delta, Host};
use crate::key_vault::KeyVault;
use crate::merge::merge;
use crate::principal::{App, Identity, Issuer, Tenant};

/// All resources.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Lists", into = "Lists")]
pub struct World {
    /// Directories by id.
    pub tenants: BTreeMap<Guid, Tenant>,
    /// App registrations by application id.
    pub apps: BTreeMap<Guid, App>,
    /// User-assigned identities by ARM id.
    pub identities: BTreeMap<ArmId, Identity>,
    /// Machines and scale sets by ARM id.
    pub hosts: BTreeMap<ArmId, Host>,
    /// Issuers of federated tokens by `iss`.
    pub issuers: BTreeMap<String, Issuer>,
    /// Key vaults by name.
    pub vaults: BTreeMap<String, KeyVault>,
    /// The host that a request from an unknown address counts as.
    pub default_host: Option<ArmId>,
}

/// Why a change to the world is refused.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The body is not what the resource needs.
    #[error("the body does not describe the resource")]
    Body(#[source] serde_json::Error),
    /// The body has no key.
    #[error("the body needs the string field {0:?}")]
    NoKey(&'static str),
    /// The named thing does not exist.
    #[error("{0} does not exist: create it first")]
    Missing(String),
    /// A host that is no host.
    #[error("{0} is neither a virtual machine nor a scale set")]
    NotAHost(ArmId),
    /// An identity that is no identity.
    #[error("{0} is not a user-assigned identity")]
    NotAnIdentity(ArmId),
}

/// The JSON form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Lists {
    tenants: Vec<Tenant>,
    apps: Vec<App>,
    identities: Vec<Identity>,
    hosts: Vec<Host>,
    issuers: Vec<Issuer>,
    vaults: Vec<KeyVault>,
    default_host: Option<ArmId>,
}

impl World {
    /// The host and instance that a source address belongs to; `None` for the instance if the
    /// address is unknown and the default host stands in.
    #[must_use]
    pub fn locate(&self, address: IpAddr) -> Option<(&Host, Option<&str>)> {
        let best = self
            .hosts
            .values()
            .filter_map(|host| host.instance_of(address).map(|(prefix, name)| (prefix, host, name)))
            .max_by_key(|(prefix, _, _)| *prefix);
        match best {
            Some((_, host, name)) => Some((host, Some(name))),
            None => Some((self.hosts.get(self.default_host.as_ref()?)?, None)),
        }
    }

    /// The tenant that a URL names by id or by domain.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.tenants.values().find(|tenant| {
            tenant.id.matches(name)
                || tenant.domain.as_ref().is_some_and(|domain| domain.eq_ignore_ascii_case(name))
        })
    }

    /// The user-assigned identity with this application id.
    #[must_use]
    pub fn identity_by_client(&self, client_id: &Guid) -> Option<&Identity> {
        self.identities.values().find(|identity| identity.client_id == *client_id)
    }

    /// Whether everything that is referred to exists and is of the right kind.
    ///
    /// # Errors
    /// Names the first reference that leads nowhere.
    pub fn check(&self) -> Result<(), WorldError> {
        if let Some(id) = &self.default_host
            && !self.hosts.contains_key(id)
        {
            return Err(WorldError::Missing(id.to_string()));
        }
        let wrong =
            self.identities.keys().find(|id| id.kind() != ResourceKind::UserAssignedIdentity);
        if let Some(id) = wrong {
            return Err(WorldError::NotAnIdentity(id.clone()));
        }
        self.hosts.values().try_for_each(|host| self.check_host(&host.id, host.identities.ids()))
    }

    /// The world without the values of secrets.
    #[must_use]
    pub fn view(&self) -> Value {
        let mut view = json!(self);
        for list in ["apps", "vaults"] {
            if let Some(items) = view.get_mut(list).and_then(Value::as_array_mut) {
                items.iter_mut().for_each(redact);
            }
        }
        view
    }

    /// After a restart no operation is under way any more.
    pub fn settle(&mut self) {
        for host in self.hosts.values_mut().filter(|host| host.provisioning_state == "Updating") {
            "Succeeded".clone_into(&mut host.provisioning_state);
        }
    }

    /// Creates a tenant or merges into it.
    ///
    /// # Errors
    /// If the body does not describe one.
    pub fn put_tenant(&mut self, body: Value) -> Result<Value, WorldError> {
        let key = key(&body, "id")?;
        put(&mut self.tenants, key, body)
    }

    /// Creates an app registration or merges into it.
    ///
    /// # Errors
    /// If the body does not describe one.
    pub fn put_app(&mut self, body: Value) -> Result<Value, WorldError> {
        let key = key(&body, "client_id")?;
        let mut view = put(&mut self.apps, key, body)?;
        redact(&mut view);
        Ok(view)
    }

    /// Sets the keys of an issuer of federated tokens.
    ///
    /// # Errors
    /// If the body does not describe them.
    pub fn put_issuer(&mut self, body: Value) -> Result<Value, WorldError> {
        let key = key(&body, "issuer")?;
        put(&mut self.issuers, key, body)
    }

    /// Creates a key vault or merges into it.
    ///
    /// # Errors
    /// If the body does not describe one.
    pub fn put_vault(&mut self, body: Value) -> Result<Value, WorldError> {
        let key = key(&body, "name")?;
        let mut view = put(&mut self.vaults, key, body)?;
        redact(&mut view);
        Ok(view)
    }

    /// Creates a user-assigned identity or merges into it.
    ///
    /// # Errors
    /// If the body does not describe one.
    pub fn put_identity(&mut self, body: Value) -> Result<Value, WorldError> {
        let key: ArmId = key(&body, "id")?;
        if key.kind() != ResourceKind::UserAssignedIdentity {
            return Err(WorldError::NotAnIdentity(key));
        }
        put(&mut self.identities, key, body)
    }

    /// Creates a host or merges into it. Identities that are new on it count from `now_ms`.
    ///
    /// # Errors
    /// If the body does not describe one, or names an identity that does not exist.
    pub fn put_host(&mut self, body: Value, now_ms: u64) -> Result<Value, WorldError> {
        let key: ArmId = key(&body, "id")?;
        let old = self.hosts.get(&key).cloned();
        let mut host: Host = merged(old.as_ref(), body)?;
        let wanted: Vec<ArmId> = host.identities.ids().cloned().collect();
        host.identities = old.map(|old| old.identities).unwrap_or_default();
        // What is attached already may dangle: its identity can have been deleted since.
        self.check_host(&host.id, wanted.iter().filter(|id| !host.identities.contains(id)))?;
        let gone: Vec<ArmId> =
            host.identities.ids().filter(|id| !wanted.contains(id)).cloned().collect();
        host.change_identities(&wanted, &gone, now_ms);
        let view = json!(host);
        self.hosts.insert(key, host);
        Ok(view)
    }

    /// Somebody outside attaches and detaches identities.
    ///
    /// # Errors
    /// If the host, or an identity to attach, does not exist.
    pub fn change_host(
        &mut self,
        host: &ArmId,
        (attach, detach): (&[ArmId], &[ArmId]),
        now_ms: u64,
    ) -> Result<Delta, WorldError> {
        if let Some(id) = attach.iter().find(|id| !self.identities.contains_key(id)) {
            return Err(WorldError::Missing(id.to_string()));
        }
        let host = self.hosts.get_mut(host).ok_or_else(|| WorldError::Missing(host.to_string()))?;
        Ok(host.change_identities(attach, detach, now_ms))
    }

    fn check_host<'a>(
        &self,
        host: &ArmId,
        mut identities: impl Iterator<Item = &'a ArmId>,
    ) -> Result<(), WorldError> {
        if !matches!(host.kind(), ResourceKind::VirtualMachine | ResourceKind::ScaleSet) {
            return Err(WorldError::NotAHost(host.clone()));
        }
        match identities.find(|id| !self.identities.contains_key(id)) {
            Some(id) => Err(WorldError::Missing(id.to_string())),
            None => Ok(()),
        }
    }
}

fn key<K: DeserializeOwned>(body: &Value, field: &'static str) -> Result<K, WorldError> {
    let text = body.get(field).filter(|value| value.is_string()).ok_or(WorldError::NoKey(field))?;
    serde_json::from_value(text.clone()).map_err(WorldError::Body)
}

fn put<K: Ord, T: Serialize + DeserializeOwned>(
    all: &mut BTreeMap<K, T>,
    key: K,
    body: Value,
) -> Result<Value, WorldError> {
    let item: T = merged(all.get(&key), body)?;
    let view = json!(item);
    all.insert(key, item);
    Ok(view)
}

fn merged<T: Serialize + DeserializeOwned>(old: Option<&T>, body: Value) -> Result<T, WorldError> {
    let base = old.map_or(Value::Null, |old| json!(old));
    serde_json::from_value(merge(base, body)).map_err(WorldError::Body)
}

/// Hides the secrets of an application (a list) or of a vault (by name).
fn redact(item: &mut Value) {
    let hide = |secret: &mut Value| *secret = json!("redacted");
    match item.get_mut("secrets") {
        Some(Value::Array(secrets)) => secrets.iter_mut().for_each(hide),
        Some(Value::Object(secrets)) => secrets.values_mut().for_each(hide),
        _ => {}
    }
}

impl From<Lists> for World {
    fn from(lists: Lists) -> Self {
        Self {
            tenants: lists.tenants.into_iter().map(|item| (item.id.clone(), item)).collect(),
            apps: lists.apps.into_iter().map(|item| (item.client_id.clone(), item)).collect(),
            identities: lists.identities.into_iter().map(|item| (item.id.clone(), item)).collect(),
            hosts: lists.hosts.into_iter().map(|item| (item.id.clone(), item)).collect(),
            issuers: lists.issuers.into_iter().map(|item| (item.issuer.clone(), item)).collect(),
            vaults: lists.vaults.into_iter().map(|item| (item.name.clone(), item)).collect(),
            default_host: lists.default_host,
        }
    }
}

impl From<World> for Lists {
    fn from(world: World) -> Self {
        Self {
            tenants: world.tenants.into_values().collect(),
            apps: world.apps.into_values().collect(),
            identities: world.identities.into_values().collect(),
            hosts: world.hosts.into_values().collect(),
            issuers: world.issuers.into_values().collect(),
            vaults: world.vaults.into_values().collect(),
            default_host: world.default_host,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::World;
    use crate::seed;

    #[test]
    fn an_address_belongs_to_the_host_with_the_longest_prefix_or_to_the_default() {
        let world = seed::world();
        for (address, host, instance) in [
            ("10.77.0.1", "nodes", Some("nodes_0")),
            ("10.77.0.2", "nodes", Some("nodes_1")),
            ("10.88.2.17", "nodes", Some("nodes_1")),
            ("10.77.0.3", "vm3", Some("vm3")),
            ("10.88.3.9", "vm3", Some("vm3")),
            ("192.0.2.1", "nodes", None),
        ] {
            let (found, name) = world.locate(address.parse().unwrap()).unwrap();
            assert_eq!((found.id.name(), name), (host, instance), "{address}");
        }
    }

    #[test]
    fn the_json_form_survives_a_round_trip() {
        let text = serde_json::to_string(&seed::world()).unwrap();
        let back: World = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }

    #[test]
    fn the_view_has_no_secret() {
        let view = seed::world().view().to_string();
        assert!(!view.contains(seed::DEMO_APP_SECRET), "{view}");
        assert!(view.contains("redacted"));
    }

    #[test]
    fn merging_into_a_host_keeps_what_the_body_does_not_name() {
        let mut world = seed::world();
        let id = seed::scale_set_id();
        world
            .put_host(json!({"id": id, "identities": [seed::identity_id("demo-identity")]}), 50)
            .unwrap();
        let host = &world.hosts[&id];
        assert_eq!(host.instances.len(), 2);
        let times: Vec<u64> = host.identities.since().map(|(_, since)| since).collect();
        assert_eq!((times, host.revision), (vec![50], 2), "the new identity counts from now");
    }

    #[test]
    fn references_to_nothing_are_refused() {
        let mut world = seed::world();
        let id = seed::scale_set_id();
        let ghost = seed::identity_id("ghost");
        assert!(world.put_host(json!({"id": id, "identities": [ghost]}), 0).is_err());
        assert!(world.put_host(json!({"id": ghost}), 0).is_err());
        assert!(world.put_identity(json!({"id": id})).is_err());
        assert!(world.put_identity(json!({"id": "nonsense"})).is_err());
        assert!(world.put_app(json!({"client": "x"})).is_err());
        assert!(world.change_host(&id, (&[ghost], &[]), 0).is_err());
        assert_eq!(world.identities.len(), 4, "a refused change leaves nothing behind");
    }
}
