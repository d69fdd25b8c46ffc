//! Hosts: virtual machines and scale sets, with the identities attached to them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::address::AddressRange;
use crate::arm_id::ArmId;
use crate::guid::Guid;
use crate::seed;

/// A virtual machine or a scale set. All instances of a scale set share its identities.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The ARM id of the machine or of the scale set.
    pub id: ArmId,
    /// The Azure region.
    #[serde(default = "seed::location")]
    pub location: String,
    /// The tenant of the system-assigned identity.
    #[serde(default = "seed::tenant")]
    pub tenant_id: Guid,
    /// `Succeeded`, `Updating`, `Failed`, `Deleting`, …
    #[serde(default = "succeeded")]
    pub provisioning_state: String,
    /// The system-assigned identity, if it is switched on.
    #[serde(default)]
    pub system_assigned: Option<SystemAssigned>,
    /// The attached user-assigned identities.
    #[serde(default)]
    pub identities: Attached,
    /// The machines: one for a VM, any number for a scale set.
    #[serde(default)]
    pub instances: Vec<Instance>,
    /// Counts the changes of the host: its ETag.
    #[serde(default)]
    pub revision: u64,
}

/// A host's own identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemAssigned {
    /// The application id in tokens.
    #[serde(default = "Guid::random")]
    pub client_id: Guid,
    /// The object id in tokens.
    #[serde(default = "Guid::random")]
    pub principal_id: Guid,
}

/// One machine of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// The machine's name.
    pub name: String,
    /// The addresses that requests to IMDS come from: the node's and its pods'.
    #[serde(default)]
    pub addresses: Vec<AddressRange>,
}

/// The attached identities and when each was attached, in ms since the epoch.
///
/// In JSON a plain list of ids: what was read from a file counts as attached long ago.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<ArmId>", into = "Vec<ArmId>")]
pub struct Attached(BTreeMap<ArmId, u64>);

/// What a change to a host's identities did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Identities that were not attached before.
    pub attached: Vec<ArmId>,
    /// Identities that were attached before.
    pub detached: Vec<ArmId>,
}

fn succeeded() -> String {
    "Succeeded".to_owned()
}

impl Host {
    /// The best match of `address` among the instances: prefix length and name.
    #[must_use]
    pub fn instance_of(&self, address: IpAddr) -> Option<(u8, &str)> {
        self.instances
            .iter()
            .flat_map(|instance| {
                let name = instance.name.as_str();
                instance
                    .addresses
                    .iter()
                    .filter_map(move |range| Some((range.covers(address)?, name)))
            })
            .max_by_key(|(prefix, _)| *prefix)
    }

    /// The ETag, quotes included.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.revision)
    }

    /// Attaches and detaches. Every write has an ETag of its own, also one that changes nothing.
    pub fn change_identities(&mut self, attach: &[ArmId], detach: &[ArmId], now_ms: u64) -> Delta {
        self.revision += 1;
        self.identities.change(attach, detach, now_ms)
    }

    /// ARM's name for the combination of identities.
    #[must_use]
    pub fn identity_type(&self) -> &'static str {
        match (self.system_assigned.is_some(), self.identities.is_empty()) {
            (true, true) => "SystemAssigned",
            (true, false) => "SystemAssigned, UserAssigned",
            (false, false) => "UserAssigned",
            (false, true) => "None",
        }
    }
}

impl Attached {
    /// Whether nothing is attached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `id` is attached.
    #[must_use]
    pub fn contains(&self, id: &ArmId) -> bool {
        self.0.contains_key(id)
    }

    /// The attached ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = &ArmId> {
        self.0.keys()
    }

    /// The attached ids, each with the time at which it was attached.
    pub fn since(&self) -> impl Iterator<Item = (&ArmId, u64)> {
        self.0.iter().map(|(id, since)| (id, *since))
    }

    /// Detaches, then attaches; says what that changed. What stays keeps its time and spelling.
    pub fn change(&mut self, attach: &[ArmId], detach: &[ArmId], now_ms: u64) -> Delta {
        let mut delta = Delta::default();
        for id in detach {
            if self.0.remove(id).is_some() {
                delta.detached.push(id.clone());
            }
        }
        for id in attach {
            if !self.0.contains_key(id) {
                self.0.insert(id.clone(), now_ms);
                delta.attached.push(id.clone());
            }
        }
        delta
    }
}

impl From<Vec<ArmId>> for Attached {
    fn from(ids: Vec<ArmId>) -> Self {
        Self(ids.into_iter().map(|id| (id, 0)).collect())
    }
}

impl From<Attached> for Vec<ArmId> {
    fn from(attached: Attached) -> Self {
        attached.0.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Attached;
    use crate::arm_id::ArmId;

    fn id(name: &str) -> ArmId {
        format!(
            "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/{name}"
        )
        .parse()
        .unwrap()
    }

    #[test]
    fn a_change_reports_only_what_it_changed() {
        let mut attached = Attached::from(vec![id("a"), id("b")]);
        let delta = attached.change(&[id("B"), id("c")], &[id("a"), id("z")], 7);
        assert_eq!(delta.attached, [id("c")]);
        assert_eq!(delta.detached, [id("a")]);
        assert_eq!(attached.ids().cloned().collect::<Vec<_>>(), [id("b"), id("c")]);
    }

    #[test]
    fn an_identity_keeps_the_time_of_its_first_attach() {
        let mut attached = Attached::from(vec![id("old")]);
        attached.change(&[id("new")], &[], 100);
        attached.change(&[id("new"), id("old")], &[], 200);
        let times: Vec<u64> = attached.since().map(|(_, since)| since).collect();
        assert_eq!(times, [100, 0]);
    }
}
