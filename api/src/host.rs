//! The ARM resource that carries a node's identities, read from the node's `spec.providerID`.

use crate::arm_id::ArmId;

const VM: &str = "microsoft.compute/virtualmachines";
const SCALE_SET: &str = "microsoft.compute/virtualmachinescalesets";
const SCALE_SET_VM: &str = "microsoft.compute/virtualmachinescalesets/virtualmachines";

/// Where identities are attached: they live on the scale set, not on its instances, except that
/// instances of a flexible scale set are VMs of their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// `Microsoft.Compute/virtualMachines`.
    Vm(ArmId),
    /// `Microsoft.Compute/virtualMachineScaleSets`, uniform orchestration.
    ScaleSet(ArmId),
}

/// Why no host could be read from a `providerID`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The node has no `providerID` (yet).
    #[error(
        "the node has no spec.providerID: the cloud controller manager has not initialised it, or this is not an Azure node"
    )]
    Missing,
    /// Not an Azure VM or scale set.
    #[error("providerID {0:?} names no Azure virtual machine or scale set")]
    NotAzure(String),
}

impl Host {
    /// Reads `azure:///subscriptions/…`, in any casing.
    pub fn from_provider_id(provider_id: &str) -> Result<Self, HostError> {
        if provider_id.is_empty() {
            return Err(HostError::Missing);
        }
        let unknown = || HostError::NotAzure(provider_id.to_owned());
        let (scheme, path) = provider_id.split_once("://").ok_or_else(unknown)?;
        if !scheme.eq_ignore_ascii_case("azure") {
            return Err(unknown());
        }
        let id: ArmId = path.parse().map_err(|_| unknown())?;
        Self::from_resource(&id).ok_or_else(unknown)
    }

    /// The host behind a VM, a scale set or a scale set's instance.
    pub fn from_resource(id: &ArmId) -> Option<Self> {
        match id.resource_type().as_str() {
            VM => Some(Self::Vm(id.clone())),
            SCALE_SET => Some(Self::ScaleSet(id.clone())),
            SCALE_SET_VM => {
                let set: Vec<&str> = id.as_str().split('/').take(9).collect();
                Some(Self::ScaleSet(set.join("/").parse().ok()?))
            }
            _ => None,
        }
    }

    /// The ARM id that GET and PATCH go to.
    pub fn id(&self) -> &ArmId {
        match self {
            Self::Vm(id) | Self::ScaleSet(id) => id,
        }
    }

    /// Kind and name, for people: `vm/…` or `vmss/…`.
    pub fn short(&self) -> String {
        let kind = match self {
            Self::Vm(_) => "vm",
            Self::ScaleSet(_) => "vmss",
        };
        format!("{kind}/{}", self.id().name())
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPUTE: &str = "/subscriptions/s/resourceGroups/MC_rg/providers/Microsoft.Compute";

    fn host(path: &str) -> Result<Host, HostError> {
        Host::from_provider_id(&format!("azure://{COMPUTE}/{path}"))
    }

    #[test]
    fn instances_share_their_scale_set() {
        let a = host("virtualMachineScaleSets/nodes/virtualMachines/0").unwrap();
        let b = host("VIRTUALMACHINESCALESETS/Nodes/virtualmachines/17").unwrap();
        assert_eq!(a, b);
        assert_eq!(a.id().name(), "nodes");
        assert!(matches!(a, Host::ScaleSet(_)));
    }

    #[test]
    fn vms_and_flexible_instances_are_hosts_of_their_own() {
        assert!(matches!(host("virtualMachines/vm3").unwrap(), Host::Vm(_)));
    }

    #[test]
    fn the_short_form_tells_kinds_apart() {
        assert_eq!(host("virtualMachines/vm3").unwrap().short(), "vm/vm3");
        let instance = host("virtualMachineScaleSets/Nodes/virtualMachines/0").unwrap();
        assert_eq!(instance.short(), "vmss/Nodes");
    }

    #[test]
    fn everything_else_is_an_error_that_says_why() {
        assert_eq!(Host::from_provider_id(""), Err(HostError::Missing));
        for id in ["kind://docker/x/y", "azure:///subscriptions/s", "aws:///zone/i-1", "garbage"] {
            assert!(matches!(Host::from_provider_id(id), Err(HostError::NotAzure(_))), "{id}");
        }
        assert!(matches!(host("disks/d"), Err(HostError::NotAzure(_))));
    }
}
