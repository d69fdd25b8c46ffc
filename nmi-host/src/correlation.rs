//! The id that ties together what sidecar, agent and Azure write down of one call.

use std::fmt;
use std::sync::Arc;

use api::Guid;
use api::node_api::CORRELATION_HEADER;
use http::HeaderMap;

/// A correlation id: a GUID. Clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CorrelationId(Arc<str>);

// === impl CorrelationId ===

impl CorrelationId {
    /// The one that a request brings, or a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let brought = headers.get(CORRELATION_HEADER).and_then(|value| value.to_str().ok());
        let brought = brought.and_then(|text| text.parse::<Guid>().ok());
        brought.map_or_else(Self::random, |guid| Self(guid.as_str().into()))
    }

    /// A new one.
    pub(crate) fn random() -> Self {
        let hex = format!("{:032x}", rand::random::<u128>());
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        Self(format!("{a}-{b}-{c}-{d}-{e}").into())
    }

    /// The id, to be shared.
    pub(crate) fn shared(&self) -> Arc<str> {
        self.0.clone()
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
    use crate::testing::CLIENT;

    #[test]
    fn a_guid_is_taken_and_everything_else_replaced() {
        let of = |text: &str| {
            let value = text.parse().unwrap();
            let headers = HeaderMap::from_iter([(CORRELATION_HEADER.parse().unwrap(), value)]);
            CorrelationId::of(&headers).to_string()
        };
        assert_eq!(of(&CLIENT.to_uppercase()), CLIENT);
        for other in ["", "x", "00000000-0000-0000-0000-00000000000a; drop"] {
            let made = of(other);
            assert!(made.parse::<Guid>().is_ok(), "{made}");
            assert_ne!(made, of(other));
        }
    }
}
