//! A GUID as Entra uses it for client, object and tenant ids: compared without regard to case.

use std::fmt;
use std::str::FromStr;

/// A GUID, kept in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(String);

/// The text was not a GUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a GUID such as 00000000-0000-0000-0000-000000000000")]
pub struct NotAGuid(String);

impl Guid {
    /// The GUID in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Guid {
    type Err = NotAGuid;

    fn from_str(text: &str) -> Result<Self, NotAGuid> {
        let groups = text.split('-').map(str::len);
        let well_formed =
            groups.eq([8, 4, 4, 4, 12]) && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
        if well_formed {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(NotAGuid(text.to_owned()))
        }
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_compare_without_case() {
        let upper: Guid = "ABCDEF01-2345-6789-ABCD-EF0123456789".parse().unwrap();
        let lower: Guid = "abcdef01-2345-6789-abcd-ef0123456789".parse().unwrap();
        assert_eq!(upper, lower);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "demo",
            "abcdef01-2345-6789-abcd-ef012345678",
            "abcdef0123456789abcdef0123456789",
            "{abcdef01-2345-6789-abcd-ef0123456789}",
            "gbcdef01-2345-6789-abcd-ef0123456789",
        ] {
            assert!(text.parse::<Guid>().is_err(), "{text}");
        }
    }
}
