//! ARM resource ids: parsed once, compared without regard to case, shown as the user wrote them.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// `/subscriptions/{s}/resourceGroups/{g}/providers/{namespace}/{type}/{name}[/{type}/{name}]`.
#[derive(Clone, Debug)]
pub struct ArmId {
    text: String,
    folded: String,
}

/// The id of a user-assigned managed identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityId(ArmId);

/// Why a text is not the ARM id that is needed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArmIdError {
    /// Not an ARM id at all.
    #[error(
        "{0:?} is not an ARM resource id such as /subscriptions/<id>/resourceGroups/<name>/providers/<namespace>/<type>/<name>"
    )]
    Malformed(String),
    /// An ARM id, but of another resource type.
    #[error(
        "{0:?} is not a user-assigned identity: expected /subscriptions/<id>/resourceGroups/<name>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>"
    )]
    NotAnIdentity(String),
}

// === impl ArmId ===

impl ArmId {
    /// The id as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The id in lower case: what ARM compares.
    pub fn folded(&self) -> &str {
        &self.folded
    }

    /// The subscription's id, as written.
    pub fn subscription(&self) -> &str {
        self.segment(1)
    }

    /// The resource group's name, as written.
    pub fn resource_group(&self) -> &str {
        self.segment(3)
    }

    /// The last segment: the resource's own name, as written.
    pub fn name(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or_default()
    }

    /// Provider namespace and types in lower case, e.g. `microsoft.compute/virtualmachines`.
    pub fn resource_type(&self) -> String {
        let mut parts = self.folded.split('/').skip(6);
        let mut kind = parts.next().unwrap_or_default().to_owned();
        for segment in parts.step_by(2) {
            kind.push('/');
            kind.push_str(segment);
        }
        kind
    }

    fn segment(&self, index: usize) -> &str {
        self.text.split('/').nth(index + 1).unwrap_or_default()
    }
}

impl FromStr for ArmId {
    type Err = ArmIdError;

    fn from_str(text: &str) -> Result<Self, ArmIdError> {
        let folded = text.to_ascii_lowercase();
        let segments: Vec<&str> = folded.split('/').collect();
        let well_formed = segments.len() >= 9
            && segments.len() % 2 == 1
            && segments[0].is_empty()
            && segments[1] == "subscriptions"
            && segments[3] == "resourcegroups"
            && segments[5] == "providers"
            && segments[1..].iter().all(|segment| is_segment(segment));
        if well_formed {
            Ok(Self { text: text.to_owned(), folded })
        } else {
            Err(ArmIdError::Malformed(text.to_owned()))
        }
    }
}

/// What may stand between two slashes: resource groups allow parentheses and dots, nothing here
/// allows white space, quotes or anything that a URL would read as syntax.
fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && segment != "."
        && segment != ".."
        && segment.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')'))
}

impl PartialEq for ArmId {
    fn eq(&self, other: &Self) -> bool {
        self.folded == other.folded
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
        self.folded.cmp(&other.folded)
    }
}

impl Hash for ArmId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded.hash(state);
    }
}

impl fmt::Display for ArmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl IdentityId ===

impl IdentityId {
    /// The resource type of user-assigned identities, in lower case.
    pub const RESOURCE_TYPE: &str = "microsoft.managedidentity/userassignedidentities";

    /// The id as it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The general form.
    pub fn arm_id(&self) -> &ArmId {
        &self.0
    }
}

impl FromStr for IdentityId {
    type Err = ArmIdError;

    fn from_str(text: &str) -> Result<Self, ArmIdError> {
        let id: ArmId = text.parse()?;
        if id.resource_type() == Self::RESOURCE_TYPE {
            Ok(Self(id))
        } else {
            Err(ArmIdError::NotAnIdentity(text.to_owned()))
        }
    }
}

impl fmt::Display for IdentityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "/subscriptions/s/resourcegroups/rg.(x)_1/providers/Microsoft.ManagedIdentity/userAssignedIdentities/Demo";

    #[test]
    fn ids_compare_without_case_and_show_as_written() {
        let a: IdentityId = ID.parse().unwrap();
        let b: IdentityId = ID.to_ascii_uppercase().parse().unwrap();
        assert_eq!(a, b);
        assert_eq!(a.as_str(), ID);
        assert_eq!(a.arm_id().name(), "Demo");
        assert_eq!(a.arm_id().resource_group(), "rg.(x)_1");
        assert_eq!(a.arm_id().subscription(), "s");
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in [
            "",
            "demo",
            "subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n",
            "/subscriptions//resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n",
            "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities",
            "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n/",
            "/subscriptions/s/resourcegroups/../providers/Microsoft.ManagedIdentity/userAssignedIdentities/n",
            "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n?x=1",
            "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/a b",
        ] {
            assert!(matches!(text.parse::<IdentityId>(), Err(ArmIdError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn another_resource_type_is_named_as_such() {
        let vm = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/n";
        assert!(matches!(vm.parse::<IdentityId>(), Err(ArmIdError::NotAnIdentity(_))));
        assert_eq!(
            vm.parse::<ArmId>().unwrap().resource_type(),
            "microsoft.compute/virtualmachines"
        );
    }
}
