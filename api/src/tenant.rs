//! An Entra tenant by its id or one of its domains. It becomes a part of a URL, so nothing else is
//! let through.

use std::fmt;
use std::str::FromStr;

use crate::guid::Guid;

/// A tenant, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(String);

/// The text is neither an id nor a domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a tenant id or domain, such as contoso.onmicrosoft.com")]
pub struct NotATenant(String);

impl Tenant {
    /// The id or domain in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tenant's id, if it is named by it.
    pub fn id(&self) -> Option<Guid> {
        self.0.parse().ok()
    }
}

impl FromStr for Tenant {
    type Err = NotATenant;

    fn from_str(text: &str) -> Result<Self, NotATenant> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let is_part = |part: &str| !part.is_empty() && part.bytes().all(plain);
        if text.len() <= 253 && text.split('.').all(is_part) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(NotATenant(text.to_owned()))
        }
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "ABCDEF01-2345-6789-abcd-ef0123456789";

    #[test]
    fn a_tenant_is_an_id_or_a_domain() {
        let tenant: Tenant = "Contoso.onmicrosoft.COM".parse().unwrap();
        assert_eq!((tenant.as_str(), tenant.id()), ("contoso.onmicrosoft.com", None));
        let tenant: Tenant = ID.parse().unwrap();
        assert_eq!(tenant.id(), ID.parse().ok());
        for bad in ["", ".", "..", "a..b", "a/b", "a?b", "a b", "a%2fb", "ä", &"x".repeat(254)] {
            assert_eq!(bad.parse::<Tenant>(), Err(NotATenant(bad.to_owned())), "{bad}");
        }
    }
}
