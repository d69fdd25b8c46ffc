//! The world that a fresh fake starts with. Its ids are fixed and documented in the README.

use std::collections::BTreeMap;

use crate::arm_id::ArmId;
use crate::guid::Guid;
use crate::host::{Attached, Host, Instance, SystemAssigned};
use crate::key_vault::KeyVault;
use crate::principal::{App, ClientSecret, Identity, Tenant};
use crate::world::World;

/// The only subscription.
pub const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
/// The only tenant.
pub const TENANT: &str = "10000000-0000-0000-0000-000000000001";
/// The application id of `demo-app`.
pub const DEMO_APP: &str = "40000000-0000-0000-0000-000000000001";
/// The client secret of `demo-app`.
pub const DEMO_APP_SECRET: &str = "not-a-secret-demo-app";
/// The application id that the controller uses against ARM.
pub const CONTROLLER_APP: &str = "40000000-0000-0000-0000-000000000002";
/// The only key vault, of which `demo-identity` may read the secrets.
pub const VAULT: &str = "demo";
/// The client secret of the controller's application.
pub const CONTROLLER_APP_SECRET: &str = "not-a-secret-controller";

const IDENTITIES: [(&str, &str); 4] = [
    ("identities", "demo-identity"),
    ("identities", "second-identity"),
    ("identities", "third-identity"),
    ("MC_demo", "nodes-agentpool"),
];

/// The seed world.
#[must_use]
pub fn world() -> World {
    let mut world = World::default();
    world
        .tenants
        .insert(tenant(), Tenant { id: tenant(), domain: Some("demo.example".to_owned()) });
    for (index, (group, name)) in (1u16..).zip(IDENTITIES) {
        let identity = Identity {
            id: resource(group, "Microsoft.ManagedIdentity/userAssignedIdentities", name),
            client_id: numbered(2, index),
            principal_id: numbered(3, index),
            tenant_id: tenant(),
            location: location(),
            federated_credentials: Vec::new(),
        };
        world.identities.insert(identity.id.clone(), identity);
    }
    for (index, secret) in [(1, DEMO_APP_SECRET), (2, CONTROLLER_APP_SECRET)] {
        let app = App {
            client_id: numbered(4, index),
            principal_id: numbered(5, index),
            tenant_id: tenant(),
            secrets: vec![ClientSecret::new(secret)],
            certificates: Vec::new(),
            federated_credentials: Vec::new(),
            guest_tenants: BTreeMap::new(),
        };
        world.apps.insert(app.client_id.clone(), app);
    }
    let vault = KeyVault {
        name: VAULT.to_owned(),
        tenant_id: tenant(),
        location: location(),
        readers: vec![numbered(3, 1)],
        secrets: [("demo-secret".to_owned(), ClientSecret::new("not-a-secret-demo"))].into(),
    };
    world.vaults.insert(vault.name.clone(), vault);
    let nodes = scale_set();
    world.default_host = Some(nodes.id.clone());
    for host in [nodes, machine()] {
        world.hosts.insert(host.id.clone(), host);
    }
    world
}

/// The id of a user-assigned identity of the seed's group `identities`.
#[must_use]
pub fn identity_id(name: &str) -> ArmId {
    resource("identities", "Microsoft.ManagedIdentity/userAssignedIdentities", name)
}

/// The id of the seed's scale set.
#[must_use]
pub fn scale_set_id() -> ArmId {
    resource("MC_demo", "Microsoft.Compute/virtualMachineScaleSets", "nodes")
}

/// The id of the seed's single machine.
#[must_use]
pub fn machine_id() -> ArmId {
    resource("MC_demo", "Microsoft.Compute/virtualMachines", "vm3")
}

pub(crate) fn tenant() -> Guid {
    numbered(1, 1)
}

pub(crate) fn location() -> String {
    "westeurope".to_owned()
}

fn scale_set() -> Host {
    let agentpool =
        resource("MC_demo", "Microsoft.ManagedIdentity/userAssignedIdentities", "nodes-agentpool");
    Host {
        id: scale_set_id(),
        location: location(),
        tenant_id: tenant(),
        provisioning_state: "Succeeded".to_owned(),
        system_assigned: None,
        identities: Attached::from(vec![agentpool]),
        instances: vec![instance("nodes_0", 1), instance("nodes_1", 2)],
        revision: 1,
    }
}

fn machine() -> Host {
    Host {
        id: machine_id(),
        location: location(),
        tenant_id: tenant(),
        provisioning_state: "Succeeded".to_owned(),
        system_assigned: Some(SystemAssigned {
            client_id: numbered(2, 5),
            principal_id: numbered(3, 5),
        }),
        identities: Attached::default(),
        instances: vec![instance("vm3", 3)],
        revision: 1,
    }
}

/// The node's own address and those of its pods: a pod's traffic may arrive un-translated.
fn instance(name: &str, node: u8) -> Instance {
    let addresses = [format!("10.77.0.{node}"), format!("10.88.{node}.0/24")];
    Instance {
        name: name.to_owned(),
        addresses: addresses.iter().filter_map(|text| text.parse().ok()).collect(),
    }
}

#[expect(clippy::expect_used, reason = "the groups, types and names are constants of this file")]
fn resource(group: &str, kind: &str, name: &str) -> ArmId {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/{kind}/{name}")
        .parse()
        .expect("a constant id is well-formed")
}

#[expect(clippy::expect_used, reason = "the format writes 36 characters of a GUID")]
fn numbered(kind: u8, index: u16) -> Guid {
    format!("{kind}0000000-0000-0000-0000-{index:012}").parse().expect("a numbered GUID is valid")
}

#[cfg(test)]
mod tests {
    use super::{CONTROLLER_APP, DEMO_APP, TENANT, world};

    #[test]
    fn documented_ids_are_those_of_the_world() {
        let world = world();
        assert!(world.tenants.keys().all(|id| id.matches(TENANT)));
        let apps: Vec<_> = world.apps.keys().map(ToString::to_string).collect();
        assert_eq!(apps, [DEMO_APP, CONTROLLER_APP]);
        assert_eq!(world.identities.len(), 4);
        assert_eq!(world.hosts.len(), 2);
        assert!(world.check().is_ok());
    }
}
