//! Which Entra endpoints a namespace's credential may be sent to. Pure.
//!
//! An identity's author may name an endpoint. If any would do, a Secret that the author can refer
//! to but not read could be had by naming a host of one's own.

use std::collections::BTreeSet;
use std::str::FromStr;

use api::cloud::{Cloud, CloudName, CustomEndpoints};
use http::Uri;

/// The endpoint of the cluster's own cloud, and the hosts that an identity may name instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authorities {
    own: String,
    hosts: BTreeSet<Host>,
}

/// A host with its port, if that is not 443; in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host(String);

/// The text is no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host such as login.example.com or login.example.com:8443")]
pub(crate) struct NotAHost(String);

/// Why no credential is sent to the endpoint that an identity names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAuthority {
    /// Not the URL of a host.
    #[error(
        "spec.adEndpoint {0:?} must be an https URL without path, such as https://login.microsoftonline.com"
    )]
    NotAnEndpoint(String),
    /// A host that nobody vouched for.
    #[error(
        "spec.adEndpoint names {0:?}, to which no credential is sent: leave it out, or have the host added to the chart's nmiHost.allowedAuthorityHosts"
    )]
    NotAllowed(String),
}

const KNOWN: [CloudName; 3] =
    [CloudName::AzurePublicCloud, CloudName::AzureUsGovernmentCloud, CloudName::AzureChinaCloud];

// === impl Authorities ===

impl Authorities {
    /// Those of `cloud`, of Azure's known clouds, and `more`.
    pub(crate) fn new(cloud: &Cloud, more: impl IntoIterator<Item = Host>) -> Self {
        let known = KNOWN.iter().filter_map(|name| {
            let cloud = Cloud::new(*name, CustomEndpoints::default()).ok()?;
            endpoint(&cloud.authority_host)
        });
        let hosts = known.chain(endpoint(&cloud.authority_host)).chain(more).collect();
        Self { own: cloud.authority_host.clone(), hosts }
    }

    /// The URL to ask for an identity that names `endpoint`, or none.
    pub(crate) fn of(&self, ad_endpoint: Option<&str>) -> Result<String, BadAuthority> {
        let Some(text) = ad_endpoint else { return Ok(self.own.clone()) };
        let host = endpoint(text).ok_or_else(|| BadAuthority::NotAnEndpoint(text.to_owned()))?;
        if self.hosts.contains(&host) {
            Ok(format!("https://{}", host.0))
        } else {
            Err(BadAuthority::NotAllowed(host.0))
        }
    }
}

/// The host of an https URL that has nothing but a host.
fn endpoint(url: &str) -> Option<Host> {
    let uri: Uri = url.parse().ok()?;
    let plain = uri.scheme_str() == Some("https") && uri.path() == "/" && uri.query().is_none();
    if plain { uri.authority()?.as_str().parse().ok() } else { None }
}

// === impl Host ===

impl FromStr for Host {
    type Err = NotAHost;

    fn from_str(text: &str) -> Result<Self, NotAHost> {
        let error = || NotAHost(text.to_owned());
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse::<u16>().map_err(|_| error())?)),
            None => (text, None),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(error());
        }
        let name = name.to_ascii_lowercase();
        Ok(match port {
            None | Some(443) => Self(name),
            Some(port) => Self(format!("{name}:{port}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorities(more: &[&str]) -> Authorities {
        let endpoints = CustomEndpoints {
            authority_host: Some("https://login.stack:8443".to_owned()),
            resource_manager: Some("https://arm.stack".to_owned()),
            resource_manager_audience: None,
        };
        let cloud = Cloud::new(CloudName::Custom, endpoints).unwrap();
        Authorities::new(&cloud, more.iter().map(|host| host.parse().unwrap()))
    }

    #[test]
    fn the_own_cloud_is_the_default() {
        assert_eq!(authorities(&[]).of(None).unwrap(), "https://login.stack:8443");
    }

    #[test]
    fn only_hosts_that_somebody_vouched_for_may_be_named() {
        let authorities = authorities(&["Login.Example"]);
        for (text, expected) in [
            ("https://login.microsoftonline.com/", "https://login.microsoftonline.com"),
            ("https://login.microsoftonline.us", "https://login.microsoftonline.us"),
            ("https://login.chinacloudapi.cn", "https://login.chinacloudapi.cn"),
            ("https://LOGIN.stack:8443", "https://login.stack:8443"),
            ("https://login.example:443", "https://login.example"),
        ] {
            assert_eq!(authorities.of(Some(text)).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "https://evil.example",
            "https://login.stack",
            "https://login.stack:8444",
            "https://login.example:8443",
            "https://login.microsoftonline.com.evil.example",
            "https://sub.login.example",
        ] {
            let error = authorities.of(Some(text)).unwrap_err();
            assert!(matches!(error, BadAuthority::NotAllowed(_)), "{text}: {error}");
            assert!(error.to_string().contains("nmiHost.allowedAuthorityHosts"), "{error}");
        }
        for text in [
            "",
            "login.example",
            "http://login.example",
            "https://login.example/tenant",
            "https://login.example/?x",
            "https://login.example@evil.example",
            "https://u@login.example",
            "https://login.example:x",
            "https://[::1]",
            "file:///etc/passwd",
        ] {
            let error = authorities.of(Some(text)).unwrap_err();
            assert!(matches!(error, BadAuthority::NotAnEndpoint(_)), "{text}: {error}");
        }
    }

    #[test]
    fn a_host_is_not_a_url() {
        for bad in ["", "https://x", "x/y", "x:", "x:99999", "*.example", "u@x", ":443"] {
            assert_eq!(bad.parse::<Host>(), Err(NotAHost(bad.to_owned())), "{bad}");
        }
    }
}
