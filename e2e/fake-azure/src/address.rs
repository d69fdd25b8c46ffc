//! Address ranges: which instance of which host a source address belongs to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One address, or a range in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    base: IpAddr,
    prefix: u8,
}

/// Why a text is not an address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address: write 10.77.0.1 or 10.88.1.0/24")]
pub struct AddressRangeError(String);

impl AddressRange {
    /// The length of the common prefix in bits if `address` lies in the range.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> Option<u8> {
        let (mine, bits) = number(self.base);
        let (theirs, their_bits) = number(address);
        let host_bits = u32::from(bits - self.prefix);
        let same = bits == their_bits
            && mine.checked_shr(host_bits).unwrap_or(0)
                == theirs.checked_shr(host_bits).unwrap_or(0);
        same.then_some(self.prefix)
    }
}

fn number(address: IpAddr) -> (u128, u8) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

impl FromStr for AddressRange {
    type Err = AddressRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || AddressRangeError(text.to_owned());
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let bits = number(base).1;
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits { Err(wrong()) } else { Ok(Self { base, prefix }) }
    }
}

impl TryFrom<String> for AddressRange {
    type Error = AddressRangeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == number(self.base).1 {
            write!(f, "{}", self.base)
        } else {
            write!(f, "{}/{}", self.base, self.prefix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AddressRange;

    #[test]
    fn a_range_covers_its_own_addresses_only() {
        for (range, address, expected) in [
            ("10.77.0.1", "10.77.0.1", Some(32)),
            ("10.77.0.1", "10.77.0.2", None),
            ("10.88.1.0/24", "10.88.1.77", Some(24)),
            ("10.88.1.0/24", "10.88.2.77", None),
            ("0.0.0.0/0", "192.0.2.1", Some(0)),
            ("0.0.0.0/0", "2001:db8::1", None),
            ("10.77.0.1", "::ffff:10.77.0.1", Some(32)),
            ("::/0", "2001:db8::1", Some(0)),
        ] {
            let range: AddressRange = range.parse().unwrap();
            assert_eq!(range.covers(address.parse().unwrap()), expected, "{range} {address}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/x", "node-1"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
    }
}
