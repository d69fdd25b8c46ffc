//! The label and annotation keys that users and parts agree on, and the strict reading of their values.

use sha2::{Digest, Sha256};

/// API group of every custom resource here, as aad-pod-identity named it.
pub const GROUP: &str = "aadpodidentity.k8s.io";

/// Pod label whose value is compared with the selector of every binding.
pub const BINDING: &str = "aadpodidbinding";

/// Namespace label (`enabled`) and pod annotation (`true` / `false`) that decide injection.
pub const INJECT: &str = "aadpodidentity.k8s.io/inject";

/// The one value of [`INJECT`] on a namespace that opts it in.
pub const INJECT_ENABLED: &str = "enabled";

/// Annotation of an `AzureIdentity`: `namespaced` limits it to pods of its own namespace.
pub const BEHAVIOR: &str = "aadpodidentity.k8s.io/Behavior";

/// The one value of [`BEHAVIOR`].
pub const BEHAVIOR_NAMESPACED: &str = "namespaced";

/// Namespace annotation (`true`) by which an admin lets pods in that could undo the redirect.
pub const ALLOW_UNSAFE_PODS: &str = "aadpodidentity.k8s.io/allow-unsafe-pods";

/// Annotation of a pod or namespace: the resources, separated by commas, whose tokens the sidecar
/// gets before it lets the application start.
pub const WARM_UP: &str = "aadpodidentity.k8s.io/warm-up";

/// Pod annotation written at injection: version, mode and images, as compact JSON.
pub const STATUS: &str = "aadpodidentity.k8s.io/status";

/// Label of an `AzureAssignedIdentity`: the node whose agent serves it, see [`node_label_value`].
pub const NODE_NAME: &str = "nodename";

/// Audience of the projected token by which a sidecar proves to nmi-host which pod it serves.
pub const NMI_AUDIENCE: &str = "nmi-host.aadpodidentity.k8s.io";

/// ConfigMap of an opted-in namespace that holds the CA of nmi-host under the key `ca.crt`.
pub const CA_CONFIG_MAP: &str = "pod-identity-ca";

const LABEL_VALUE_MAX: usize = 63;
const HASH_CHARS: usize = 16;

/// A boolean annotation was neither `true` nor `false`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} must be \"true\" or \"false\", not {value:?}")]
pub struct NotABoolean {
    /// The annotation's key.
    pub key: String,
    /// What it held.
    pub value: String,
}

/// Reads a strict boolean: absent is `None`; anything but `true` and `false` is an error.
pub fn strict_bool(key: &str, value: Option<&str>) -> Result<Option<bool>, NotABoolean> {
    match value {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(NotABoolean { key: key.to_owned(), value: other.to_owned() }),
    }
}

/// The value of the [`NODE_NAME`] label for a node: its name, or prefix and hash where the name is
/// longer than a label value may be.
pub fn node_label_value(node: &str) -> String {
    fit(node, LABEL_VALUE_MAX)
}

/// Shortens `name` to at most `max` bytes; what was cut is replaced by a hash, so that two long
/// names stay different.
pub fn fit(name: &str, max: usize) -> String {
    if name.len() <= max {
        return name.to_owned();
    }
    let mut end = max - HASH_CHARS - 1;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let kept = name[..end].trim_end_matches(['-', '.', '_']);
    format!("{kept}-{}", short_hash(&[name]))
}

/// The first 64 bits of a SHA-256 over the parts, in hex; parts cannot run into each other.
pub fn short_hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let mut text = String::with_capacity(HASH_CHARS);
    for byte in hasher.finalize().iter().take(HASH_CHARS / 2) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_spellings_are_booleans() {
        let cases = [
            (None, Ok(None)),
            (Some("true"), Ok(Some(true))),
            (Some("false"), Ok(Some(false))),
            (Some("True"), Err(())),
            (Some("yes"), Err(())),
            (Some(""), Err(())),
            (Some(" true"), Err(())),
        ];
        for (value, expected) in cases {
            assert_eq!(strict_bool(INJECT, value).map_err(|_| ()), expected, "{value:?}");
        }
    }

    #[test]
    fn long_node_names_stay_different_and_fit_a_label() {
        let a = format!("{}-a", "n".repeat(80));
        let b = format!("{}-b", "n".repeat(80));
        assert_ne!(node_label_value(&a), node_label_value(&b));
        assert!(node_label_value(&a).len() <= 63);
        assert_eq!(node_label_value("aks-nodes-1"), "aks-nodes-1");
    }

    #[test]
    fn hash_parts_cannot_run_into_each_other() {
        assert_ne!(short_hash(&["ab", "c"]), short_hash(&["a", "bc"]));
    }
}
