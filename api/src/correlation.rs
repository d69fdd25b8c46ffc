//! The id that ties together what the application, the sidecar, the node's agent and Azure write
//! down of one call.

use std::fmt;
use std::sync::Arc;

use crate::Guid;

/// A correlation id: a GUID, as support people of Azure expect it. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorrelationId(Arc<str>);

// === impl CorrelationId ===

impl CorrelationId {
    /// The one of these bits: a new one, if they are random.
    pub fn of_bits(bits: u128) -> Self {
        let hex = format!("{bits:032x}");
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
    /// Of one that was [`CorrelationId::shared`].
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
    fn whatever_the_bits_it_is_a_guid() {
        for (bits, expected) in [
            (0, "00000000-0000-0000-0000-000000000000"),
            (u128::MAX, "ffffffff-ffff-ffff-ffff-ffffffffffff"),
            (0x0123_4567_89ab_cdef_0011_2233_4455_6677, "01234567-89ab-cdef-0011-223344556677"),
        ] {
            let id = CorrelationId::of_bits(bits);
            assert_eq!(id.as_str(), expected);
            let guid: Guid = expected.parse().unwrap();
            assert_eq!(CorrelationId::from(&guid), id);
        }
    }
}
