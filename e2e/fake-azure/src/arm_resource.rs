//! ARM's JSON views of hosts and identities. Pure.

use serde_json::{Value, json};

use crate::arm_id::ResourceKind;
use crate::host::Host;
use crate::principal::Identity;
use crate::world::World;

/// A virtual machine or a scale set.
pub(crate) fn host(world: &World, host: &Host) -> Value {
    let mut properties = json!({"provisioningState": host.provisioning_state});
    if host.id.kind() == ResourceKind::ScaleSet {
        properties["orchestrationMode"] = json!("Uniform");
        properties["singlePlacementGroup"] = json!(false);
    } else {
        properties["hardwareProfile"] = json!({"vmSize": "Standard_D2s_v5"});
    }
    let mut view = json!({
        "name": host.id.name(),
        "id": host.id,
        "type": host.id.type_name(),
        "location": host.location,
        "etag": host.etag(),
        "tags": {},
        "properties": properties,
    });
    if host.id.kind() == ResourceKind::ScaleSet {
        let capacity = host.instances.len();
        view["sku"] = json!({"name": "Standard_D2s_v5", "tier": "Standard", "capacity": capacity});
    }
    if let Some(identity) = identity_block(world, host) {
        view["identity"] = identity;
    }
    view
}

/// A host without any identity has no block at all.
fn identity_block(world: &World, host: &Host) -> Option<Value> {
    let mut block = json!({"type": host.identity_type()});
    if let Some(system) = &host.system_assigned {
        block["principalId"] = json!(system.principal_id);
        block["tenantId"] = json!(host.tenant_id);
    }
    if !host.identities.is_empty() {
        block["userAssignedIdentities"] = host
            .identities
            .ids()
            .map(|id| {
                // An identity that was deleted stays attached, without ids.
                let ids = world.identities.get(id).map_or_else(
                    || json!({}),
                    |found| json!({"principalId": found.principal_id, "clientId": found.client_id}),
                );
                (id.to_string(), ids)
            })
            .collect::<serde_json::Map<_, _>>()
            .into();
    }
    (block["type"] != "None").then_some(block)
}

/// A user-assigned identity.
pub(crate) fn identity(identity: &Identity) -> Value {
    json!({
        "id": identity.id,
        "name": identity.id.name(),
        "type": identity.id.type_name(),
        "location": identity.location,
        "tags": {},
        "properties": {
            "tenantId": identity.tenant_id,
            "principalId": identity.principal_id,
            "clientId": identity.client_id,
        },
    })
}
