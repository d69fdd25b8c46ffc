//! The wall clock in the two forms that the services write.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since the epoch.
pub(crate) fn now_seconds() -> u64 {
    now_ms() / 1000
}

/// RFC 3339, as ARM's operations carry it.
pub(crate) fn timestamp(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map(|stamp| stamp.to_string()).unwrap_or_default()
}
