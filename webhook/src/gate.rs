//! How long a sidecar holds the application back.

use std::fmt;
use std::str::FromStr;

const DEFAULT_SECONDS: u16 = 60;
const MOST_SECONDS: u16 = 300;

/// A whole number of seconds from 0 (no gate) to 300.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateTimeout(u16);

/// It is not a duration of that range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration from 0s to 300s, such as 90s or 1m30s")]
pub struct NotAGateTimeout;

// === impl GateTimeout ===

impl GateTimeout {
    /// The time in seconds.
    pub fn seconds(self) -> u16 {
        self.0
    }
}

impl Default for GateTimeout {
    fn default() -> Self {
        Self(DEFAULT_SECONDS)
    }
}

impl fmt::Display for GateTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

impl FromStr for GateTimeout {
    type Err = NotAGateTimeout;

    /// Reads a duration as Go spells it; part of a second counts as a whole one.
    fn from_str(text: &str) -> Result<Self, NotAGateTimeout> {
        if text == "0" {
            return Ok(Self(0));
        }
        let mut rest = text;
        let mut milliseconds = 0u64;
        while !rest.is_empty() {
            let (part, after) = first_part(rest).ok_or(NotAGateTimeout)?;
            milliseconds = milliseconds.checked_add(part).ok_or(NotAGateTimeout)?;
            rest = after;
        }
        let seconds = u16::try_from(milliseconds.div_ceil(1000)).map_err(|_| NotAGateTimeout)?;
        if text.is_empty() || seconds > MOST_SECONDS {
            return Err(NotAGateTimeout);
        }
        Ok(Self(seconds))
    }
}

/// The milliseconds of the first number and unit, and what follows them.
fn first_part(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
    Some((number.checked_mul(factor)?, &rest[unit.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go_within_the_range_are_taken() {
        for (text, seconds) in [
            ("0", 0),
            ("0s", 0),
            ("60s", 60),
            ("1m30s", 90),
            ("5m", 300),
            ("300s", 300),
            ("1500ms", 2),
            ("1m500ms", 61),
        ] {
            assert_eq!(text.parse(), Ok(GateTimeout(seconds)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "60",
            "s",
            "-1s",
            "301s",
            "5m1s",
            "1h",
            "1.5m",
            "60 s",
            "60S",
            "1d",
            "s60",
            "99999999999999999999s",
            "18446744073709551615h",
            "1sé",
        ] {
            assert_eq!(text.parse::<GateTimeout>(), Err(NotAGateTimeout), "{text}");
        }
    }
}
