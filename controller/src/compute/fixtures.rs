//! Names that the tests of this folder share.

use api::{Host, IdentityId};

use super::model::View;
use super::{IdentityDelta, IdentityDetails};

pub(super) const SUBSCRIPTION: &str = "aaaabbbb-0000-0000-0000-000000000001";

pub(super) fn id(name: &str) -> IdentityId {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourcegroups/ids.(prod)_1/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
    )
    .parse()
    .unwrap()
}

pub(super) fn scale_set() -> Host {
    host("virtualMachineScaleSets/aks-nodes-vmss/virtualMachines/3")
}

pub(super) fn vm() -> Host {
    host("virtualMachines/node-1")
}

fn host(path: &str) -> Host {
    Host::from_provider_id(&format!(
        "azure:///subscriptions/{SUBSCRIPTION}/resourceGroups/MC_rg/providers/Microsoft.Compute/{path}"
    ))
    .unwrap()
}

pub(super) fn view(attached: &[&str], system_assigned: bool) -> View {
    let mut view = View::default();
    view.identities.system_assigned = system_assigned;
    view.identities.attached =
        attached.iter().map(|name| (id(name), IdentityDetails::default())).collect();
    view
}

pub(super) fn delta(attach: &[&str], detach: &[&str]) -> IdentityDelta {
    let ids = |names: &[&str]| names.iter().map(|name| id(name)).collect();
    IdentityDelta { attach: ids(attach), detach: ids(detach) }
}
