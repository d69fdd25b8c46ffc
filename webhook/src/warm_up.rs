//! The resources whose tokens a sidecar gets before it lets the application start.

use std::fmt;
use std::str::FromStr;

use api::is_resource;

/// More would hold the application back for what few of its starts need.
const MOST: usize = 8;

/// At most 8 resources, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WarmUp(Vec<String>);

/// It is not a list of resources.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAWarmUp {
    /// Too long.
    #[error("{0} resources are more than the {MOST} that can be warmed up")]
    TooMany(usize),
    /// One of them is none.
    #[error("{0:?} is not a resource (printable ASCII without spaces, at most 512 characters)")]
    NotAResource(String),
}

// === impl WarmUp ===

impl WarmUp {
    /// The resources, in the order in which they were named.
    pub fn resources(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl FromStr for WarmUp {
    type Err = NotAWarmUp;

    /// Reads a list that is separated by commas; nothing is no resource at all.
    fn from_str(text: &str) -> Result<Self, NotAWarmUp> {
        let mut resources: Vec<String> = Vec::new();
        if text.trim().is_empty() {
            return Ok(Self(resources));
        }
        for resource in text.split(',').map(str::trim) {
            if !is_resource(resource) {
                let shown = resource.chars().take(100).collect();
                return Err(NotAWarmUp::NotAResource(shown));
            }
            if !resources.iter().any(|known| known == resource) {
                resources.push(resource.to_owned());
            }
        }
        if resources.len() > MOST {
            return Err(NotAWarmUp::TooMany(resources.len()));
        }
        Ok(Self(resources))
    }
}

impl fmt::Display for WarmUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str) -> Result<Vec<String>, NotAWarmUp> {
        let warm_up: WarmUp = text.parse()?;
        Ok(warm_up.resources().map(str::to_owned).collect())
    }

    #[test]
    fn resources_are_kept_verbatim_in_their_order_and_once() {
        let rows: [(&str, &[&str]); 5] = [
            ("", &[]),
            (" ", &[]),
            ("https://vault.azure.net", &["https://vault.azure.net"]),
            ("b/, a ,b", &["b/", "a", "b"]),
            ("a,a,A", &["a", "A"]),
        ];
        for (text, expected) in rows {
            assert_eq!(resources(text).unwrap(), expected, "{text}");
        }
        let eight = (0..8).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(resources(&eight).unwrap().len(), 8);
        assert_eq!(eight.parse::<WarmUp>().unwrap().to_string(), eight);
    }

    #[test]
    fn what_is_not_a_list_of_resources_is_refused() {
        for text in [",", "a,", "a,,b", "a b", "ä", "a\nb", &"x".repeat(513)] {
            assert!(matches!(resources(text), Err(NotAWarmUp::NotAResource(_))), "{text}");
        }
        let nine = (0..9).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(resources(&nine), Err(NotAWarmUp::TooMany(9)));
    }
}
