//! The correlation id that a request brings.

use api::node_api::CORRELATION_HEADER;
use api::{CorrelationId, Guid};
use http::HeaderMap;

/// The one of a request, or a new one.
pub(crate) fn correlation_id(headers: &HeaderMap) -> CorrelationId {
    let brought = headers.get(CORRELATION_HEADER).and_then(|value| value.to_str().ok());
    let brought = brought.and_then(|text| text.parse::<Guid>().ok());
    brought.map_or_else(|| CorrelationId::of_bits(rand::random()), |guid| (&guid).into())
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
            correlation_id(&headers).to_string()
        };
        assert_eq!(of(&CLIENT.to_uppercase()), CLIENT);
        for other in ["", "x", "00000000-0000-0000-0000-00000000000a; drop"] {
            let made = of(other);
            assert!(made.parse::<Guid>().is_ok(), "{made}");
            assert_ne!(made, of(other));
        }
    }
}
