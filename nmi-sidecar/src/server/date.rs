//! The present time as an HTTP date, rendered once a second.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// The last rendered date.
#[derive(Debug, Default)]
pub(crate) struct Dates(Mutex<(u64, String)>);

impl Dates {
    /// Calls `use_it` with the date of `now`.
    pub(crate) fn with<T>(&self, now: SystemTime, use_it: impl FnOnce(&str) -> T) -> T {
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut last = self.0.lock();
        if last.0 != second || last.1.is_empty() {
            *last = (second, httpdate::fmt_http_date(now));
        }
        use_it(&last.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_date_follows_the_clock() {
        let dates = Dates::default();
        let at = |second| UNIX_EPOCH + Duration::from_secs(second);
        assert_eq!(dates.with(at(0), str::to_owned), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(dates.with(at(1), str::to_owned), "Thu, 01 Jan 1970 00:00:01 GMT");
        assert_eq!(dates.with(at(1), str::to_owned), "Thu, 01 Jan 1970 00:00:01 GMT");
    }
}
