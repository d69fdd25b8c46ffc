//! ARM resource ids: parsing, and equality without regard to case.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An ARM resource id. Keeps the spelling it was given, compares without case.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArmId {
    text: String,
    key: String,
}

/// The resource types that this fake knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// `Microsoft.Compute/virtualMachines`
    VirtualMachine,
    /// `Microsoft.Compute/virtualMachineScaleSets`
    ScaleSet,
    /// `Microsoft.ManagedIdentity/userAssignedIdentities`
    UserAssignedIdentity,
    /// Anything else.
    Other,
}

/// Why a text is not an ARM resource id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an ARM resource id: write \
     /subscriptions/<id>/resourceGroups/<group>/providers/<namespace>/<type>/<name>"
)]
pub struct ArmIdError(String);

const SUBSCRIPTION: usize = 2;
const GROUP: usize = 4;
const NAMESPACE: usize = 6;
const TYPE: usize = 7;
const NAME: usize = 8;

impl ArmId {
    /// The subscription id, as spelled.
    #[must_use]
    pub fn subscription(&self) -> &str {
        self.part(SUBSCRIPTION)
    }

    /// The resource group, as spelled.
    #[must_use]
    pub fn resource_group(&self) -> &str {
        self.part(GROUP)
    }

    /// The resource's own name, as spelled.
    #[must_use]
    pub fn name(&self) -> &str {
        self.part(NAME)
    }

    /// The resource type.
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        let mut parts = self.key.split('/').skip(NAMESPACE);
        match (parts.next(), parts.next()) {
            (Some("microsoft.compute"), Some("virtualmachines")) => ResourceKind::VirtualMachine,
            (Some("microsoft.compute"), Some("virtualmachinescalesets")) => ResourceKind::ScaleSet,
            (Some("microsoft.managedidentity"), Some("userassignedidentities")) => {
                ResourceKind::UserAssignedIdentity
            }
            _ => ResourceKind::Other,
        }
    }

    /// The id as it was spelled.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The resource type in the spelling that Azure answers with.
    #[must_use]
    pub fn type_name(&self) -> String {
        match self.kind() {
            ResourceKind::VirtualMachine => "Microsoft.Compute/virtualMachines".to_owned(),
            ResourceKind::ScaleSet => "Microsoft.Compute/virtualMachineScaleSets".to_owned(),
            ResourceKind::UserAssignedIdentity => {
                "Microsoft.ManagedIdentity/userAssignedIdentities".to_owned()
            }
            ResourceKind::Other => format!("{}/{}", self.part(NAMESPACE), self.part(TYPE)),
        }
    }

    fn part(&self, index: usize) -> &str {
        self.text.split('/').nth(index).unwrap_or_default()
    }
}

impl FromStr for ArmId {
    type Err = ArmIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let key = text.to_ascii_lowercase();
        let parts: Vec<&str> = key.split('/').collect();
        let literals = parts.len() == NAME + 1
            && parts[0].is_empty()
            && parts[1] == "subscriptions"
            && parts[3] == "resourcegroups"
            && parts[5] == "providers";
        let plain = |part: &&str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')'))
        };
        if literals && parts[1..].iter().all(plain) {
            Ok(Self { text: text.to_owned(), key })
        } else {
            Err(ArmIdError(text.to_owned()))
        }
    }
}

impl TryFrom<String> for ArmId {
    type Error = ArmIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ArmId> for String {
    fn from(id: ArmId) -> Self {
        id.text
    }
}

impl fmt::Display for ArmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ArmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for ArmId {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for ArmId {}

impl PartialOrd for ArmId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ArmId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

impl Hash for ArmId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::{ArmId, ResourceKind};

    #[test]
    fn ids_compare_without_case_and_keep_their_spelling() {
        let upper: ArmId =
            "/SUBSCRIPTIONS/S/ResourceGroups/RG/providers/Microsoft.Compute/virtualMachines/VM"
                .parse()
                .unwrap();
        let lower: ArmId =
            "/subscriptions/s/resourcegroups/rg/providers/microsoft.compute/virtualmachines/vm"
                .parse()
                .unwrap();
        assert_eq!(upper, lower);
        assert_eq!(upper.name(), "VM");
        assert_eq!(lower.kind(), ResourceKind::VirtualMachine);
    }

    #[test]
    fn what_is_not_exactly_one_resource_is_refused() {
        for text in [
            "",
            "nodes",
            "/subscriptions/s",
            "/subscriptions/s/resourceGroups//providers/a/b/c",
            "/subscriptions/s/resourceGroups/rg/providers/a/b/c/d",
            "/subscriptions/s/resourceGroups/r'g/providers/a/b/c",
            "subscriptions/s/resourceGroups/rg/providers/a/b/c",
        ] {
            assert!(text.parse::<ArmId>().is_err(), "{text}");
        }
    }
}
