//! The id that ties together what the application, this sidecar, the node's agent and Azure write
//! down of one call.

use std::fmt;
use std::sync::Arc;

use api::Guid;

/// A correlation id: a GUID, as support people of Azure expect it. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorrelationId(Arc<str>);

// === impl CorrelationId ===

impl CorrelationId {
    /// A new one.
    pub fn random() -> Self {
        let hex = format!("{:032x}", rand::random::<u128>());
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        Self(format!("{a}-{b}-{c}-{d}-{e}").into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id, to be shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl From<&Guid> for CorrelationId {
    fn from(guid: &Guid) -> Self {
        Self(guid.as_str().into())
    }
}

impl From<Arc<str>> for CorrelationId {
    fn from(id: Arc<str>) -> Self {
        Self(id)
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_are_guids_and_differ() {
        let (one, two) = (CorrelationId::random(), CorrelationId::random());
        assert!(one.as_str().parse::<Guid>().is_ok(), "{one}");
        assert_ne!(one, two);
    }
}
