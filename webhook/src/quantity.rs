//! Amounts of CPU and memory as Kubernetes spells them, with the bounds of what the two injected
//! containers can run in.

use std::cmp::Ordering;
use std::fmt;

const NANO: u128 = 1_000_000_000;
const MAX_CHARS: usize = 20;

/// A valid amount; keeps the spelling it came in.
#[derive(Clone, Debug)]
pub struct Quantity {
    text: String,
    nano: u128,
}

/// Why an amount cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It is no amount at all.
    #[error("{0:?} is not a quantity such as 50m, 1 or 64Mi")]
    Format(String),
    /// It is an amount that the containers cannot run in, or that no node has.
    #[error("{value:?} is not between {least} and {most}")]
    Range {
        /// The amount.
        value: String,
        /// The least allowed.
        least: &'static str,
        /// The most allowed.
        most: &'static str,
    },
}

// === impl Quantity ===

impl Quantity {
    /// An amount of CPU.
    pub fn cpu(text: &str) -> Result<Self, QuantityError> {
        Self::between(text, "1m", "16")
    }

    /// An amount of memory. The lower bound catches `100m`, a tenth of a byte.
    pub fn memory(text: &str) -> Result<Self, QuantityError> {
        Self::between(text, "4Mi", "4Gi")
    }

    /// The amount as it was spelled.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn between(text: &str, least: &'static str, most: &'static str) -> Result<Self, QuantityError> {
        let format = || QuantityError::Format(text.chars().take(MAX_CHARS).collect());
        let nano = nano(text).ok_or_else(format)?;
        let within = nano_of(least) <= nano && nano <= nano_of(most);
        if !within {
            return Err(QuantityError::Range { value: text.to_owned(), least, most });
        }
        Ok(Self { text: text.to_owned(), nano })
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn nano_of(bound: &'static str) -> u128 {
    nano(bound).unwrap_or_default()
}

/// The amount in billionths, or nothing if it is none or too long.
fn nano(text: &str) -> Option<u128> {
    if text.len() > MAX_CHARS || !text.is_ascii() {
        return None;
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (times, by) = scale(suffix)?;
    let by = by.checked_mul(10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    Some(digits.checked_mul(NANO)?.checked_mul(times)? / by)
}

/// What a suffix multiplies with and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let power = |base: u128, exponent: u32| Some((base.checked_pow(exponent)?, 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, NANO)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => power(1_000, 1),
        "M" => power(1_000, 2),
        "G" => power(1_000, 3),
        "T" => power(1_000, 4),
        "P" => power(1_000, 5),
        "E" => power(1_000, 6),
        "Ki" => power(1_024, 1),
        "Mi" => power(1_024, 2),
        "Gi" => power(1_024, 3),
        "Ti" => power(1_024, 4),
        "Pi" => power(1_024, 5),
        "Ei" => power(1_024, 6),
        _ => exponent(suffix.strip_prefix(['e', 'E'])?),
    }
}

fn exponent(text: &str) -> Option<(u128, u128)> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let power = 10u128.checked_pow(digits.parse().ok()?)?;
    Some(if negative { (1, power) } else { (power, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_kubernetes_are_understood() {
        for (text, expected) in [
            ("1", NANO),
            ("0", 0),
            ("50m", NANO / 20),
            ("0.05", NANO / 20),
            ("1.5Ki", 1536 * NANO),
            ("1e3", 1000 * NANO),
            ("1E-3", NANO / 1000),
            ("2k", 2000 * NANO),
            ("7n", 7),
            ("1.", NANO),
        ] {
            assert_eq!(nano(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_not_a_quantity() {
        for text in [
            "",
            "m",
            ".5",
            "-1",
            "+1",
            "1.2.3",
            "1 Mi",
            "1mi",
            "1KI",
            "1e",
            "1e+-3",
            "1é",
            "1e99",
            "99999999999999999Ei",
            "123456789012345678901",
        ] {
            assert_eq!(nano(text), None, "{text}");
        }
    }

    #[test]
    fn the_bounds_catch_a_tenth_of_a_byte_and_a_forgotten_unit() {
        for bad in ["100m", "64", "3Mi", "5Gi"] {
            assert!(Quantity::memory(bad).unwrap_err().to_string().contains("4Mi"), "{bad}");
        }
        for bad in ["0", "100u", "17", "64Mi"] {
            assert!(Quantity::cpu(bad).unwrap_err().to_string().contains("1m"), "{bad}");
        }
        assert_eq!(Quantity::memory("0.25Gi").unwrap().as_str(), "0.25Gi");
        assert_eq!(Quantity::cpu("100m").unwrap(), Quantity::cpu("0.1").unwrap());
    }

    #[test]
    fn amounts_compare_by_size_and_not_by_spelling() {
        assert!(Quantity::memory("1Gi").unwrap() > Quantity::memory("999Mi").unwrap());
        assert!(Quantity::memory("64M").unwrap() < Quantity::memory("64Mi").unwrap());
    }
}
