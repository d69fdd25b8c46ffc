//! GUIDs: client ids, object ids, tenants and request ids, normalised to lower case.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A GUID in its 8-4-4-4-12 form, lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Guid(String);

/// Why a text is not a GUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a GUID: write it as 00000000-0000-0000-0000-000000000000")]
pub struct GuidError(String);

impl Guid {
    /// A new random (version 4) GUID.
    #[must_use]
    pub fn random() -> Self {
        let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
        let hex = format!("{bits:032x}");
        Self([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
    }

    /// The GUID's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` spells this GUID, in any case.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.eq_ignore_ascii_case(text)
    }
}

impl FromStr for Guid {
    type Err = GuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = text.len() == 36
            && text.bytes().enumerate().all(|(index, byte)| match index {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        if valid { Ok(Self(text.to_ascii_lowercase())) } else { Err(GuidError(text.to_owned())) }
    }
}

impl TryFrom<String> for Guid {
    type Error = GuidError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Guid> for String {
    fn from(guid: Guid) -> Self {
        guid.0
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Guid;

    #[test]
    fn random_guids_parse_and_differ() {
        let (a, b) = (Guid::random(), Guid::random());
        assert_eq!(a.as_str().parse::<Guid>().unwrap(), a);
        assert_eq!(&a.as_str()[14..15], "4");
        assert_ne!(a, b);
    }

    #[test]
    fn case_does_not_matter_and_shape_does() {
        let guid: Guid = "AAAAAAAA-0000-0000-0000-00000000000F".parse().unwrap();
        assert!(guid.matches("aaaaaaaa-0000-0000-0000-00000000000f"));
        for text in ["", "aaaaaaaa", "aaaaaaaa-0000-0000-0000-00000000000g"] {
            assert!(text.parse::<Guid>().is_err(), "{text}");
        }
    }
}
