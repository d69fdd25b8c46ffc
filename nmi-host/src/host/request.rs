//! Reads a request of a process on the node: who may ask at all, for which pod, for what.
//!
//! Pure. The endpoint has no authentication but its address, so what a browser or a tricked HTTP
//! client would send is refused before anything else.

use std::net::SocketAddr;
use std::time::Duration;

use api::IdentitySelector;
use http::request::Parts;
use http::{HeaderMap, Method, header};

use super::answer::Refusal;
use crate::broker::Ask;
use crate::correlation::correlation_id;
use crate::mint::{BadResource, Resource};
use crate::serve::Peer;
use crate::watched::ObjectKey;

/// What a process on the node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostRequest {
    pub(super) pod: ObjectKey,
    pub(super) ask: Ask,
}

/// For an identity that is being attached: the caller is a mount of a pod that has just started.
const PATIENCE: Duration = Duration::from_secs(20);

const NAMESPACE: &str = "podns";
const NAME: &str = "podname";

/// Headers that only a browser or a proxy sends.
const FOREIGN: [&str; 7] =
    ["origin", "referer", "cookie", "forwarded", "via", "x-real-ip", "x-original-url"];

/// How the names of more such headers begin.
const FOREIGN_KINDS: [&str; 3] = ["x-forwarded-", "sec-fetch-", "sec-ch-"];

/// Namespaces and pod names are DNS names.
const MAX_NAME: usize = 253;

/// Reads a request to the endpoint on `own` address.
pub(super) fn read(head: &Parts, own: SocketAddr) -> Result<HostRequest, Refusal> {
    may_ask(head, own)?;
    if !matches!(head.uri.path(), "/host/token" | "/host/token/") {
        return Err(Refusal::NotFound);
    }
    if head.method != Method::GET {
        return Err(Refusal::Method);
    }
    let pod = pod(&head.headers)?;
    let (resource, selector) = query(head.uri.query().unwrap_or_default())?;
    let correlation = correlation_id(&head.headers);
    let ask = Ask { selector, patience: PATIENCE, correlation, ..Ask::of(resource) };
    Ok(HostRequest { pod, ask })
}

fn may_ask(head: &Parts, own: SocketAddr) -> Result<(), Refusal> {
    let local = head.extensions.get::<Peer>().is_some_and(|peer| peer.0.ip().is_loopback());
    if !local {
        return Err(Refusal::Forbidden("the request does not come from this node"));
    }
    if head.uri.authority().is_some() || !is_own_host(&head.headers, own) {
        return Err(Refusal::Forbidden("the Host header must be 127.0.0.1 or localhost"));
    }
    if head.headers.keys().any(|name| is_foreign(name.as_str())) {
        return Err(Refusal::Forbidden("requests of browsers and proxies are refused"));
    }
    Ok(())
}

fn is_foreign(name: &str) -> bool {
    FOREIGN.contains(&name) || FOREIGN_KINDS.iter().any(|kind| name.starts_with(kind))
}

/// One `Host` header that names this endpoint: a name that an attacker's DNS points here does not.
fn is_own_host(headers: &HeaderMap, own: SocketAddr) -> bool {
    let Some(host) = single(headers, header::HOST.as_str()) else { return false };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let own_name = name.eq_ignore_ascii_case("localhost") || name.parse() == Ok(own.ip());
    own_name && port.is_none_or(|port| port == own.port().to_string())
}

fn pod(headers: &HeaderMap) -> Result<ObjectKey, Refusal> {
    let named = |header| single(headers, header).filter(|text| is_name(text));
    match (named(NAMESPACE), named(NAME)) {
        (Some(namespace), Some(name)) => Ok(ObjectKey::new(namespace, name)),
        // The words of aad-pod-identity, which its callers may look for.
        _ => Err(Refusal::bad("missing 'podname' and 'podns' from request header")),
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn is_name(text: &str) -> bool {
    let part_of_name =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(part_of_name)
}

/// Every spelling of a selector counts: one that is overlooked would mean the default identity.
fn query(query: &str) -> Result<(Resource, Option<IdentitySelector>), Refusal> {
    let (mut resource, mut selector) = (None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let read = |error: String| Refusal::Bad(format!("parameter {name} is invalid: {error}"));
        let named = match &*name {
            "resource" => {
                let value = value.parse().map_err(|error: BadResource| {
                    if value.is_empty() { no_resource() } else { read(error.to_string()) }
                })?;
                if resource.replace(value).is_some() {
                    return Err(Refusal::bad("parameter resource must be given once"));
                }
                continue;
            }
            "client_id" => value.parse().map(IdentitySelector::ClientId).map_err(text),
            "object_id" | "principal_id" => {
                value.parse().map(IdentitySelector::ObjectId).map_err(text)
            }
            "msi_res_id" | "mi_res_id" | "resource_id" | "msi-res-id" => {
                value.parse().map(IdentitySelector::ResourceId).map_err(text)
            }
            _ => continue,
        };
        if selector.replace(named.map_err(read)?).is_some() {
            return Err(Refusal::bad("name the identity by one parameter only"));
        }
    }
    Ok((resource.ok_or_else(no_resource)?, selector))
}

fn no_resource() -> Refusal {
    Refusal::bad("parameter resource cannot be empty")
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const CLIENT: &str = "00000000-0000-0000-0000-00000000000a";
    const RESOURCE_ID: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n";

    /// The request that the documentation shows, with headers set or (`-name`) taken away.
    fn head(target: &str, changes: &[(&str, &str)]) -> Parts {
        let mut request = Request::get(target).body(()).unwrap();
        request.extensions_mut().insert(Peer("127.0.0.1:50000".parse().unwrap()));
        let headers = request.headers_mut();
        for (name, value) in [("host", "127.0.0.1:2579"), (NAMESPACE, "team"), (NAME, "web-0")] {
            headers.insert(name, value.parse().unwrap());
        }
        for (name, value) in changes {
            match name.strip_prefix('-') {
                Some(name) => drop(headers.remove(name)),
                None => {
                    let name: http::HeaderName = name.parse().unwrap();
                    headers.insert(name, value.parse().unwrap());
                }
            }
        }
        request.into_parts().0
    }

    fn own() -> SocketAddr {
        "127.0.0.1:2579".parse().unwrap()
    }

    const GOOD: &str = "/host/token/?resource=https://vault.azure.net";

    #[test]
    fn the_documented_request_is_read() {
        for target in [GOOD, "/host/token?resource=https%3A%2F%2Fvault.azure.net&x=y"] {
            let request = read(&head(target, &[]), own()).unwrap();
            assert_eq!(request.pod, ObjectKey::new("team", "web-0"));
            assert_eq!(request.ask.resource.as_str(), "https://vault.azure.net");
            assert_eq!(request.ask.selector, None);
        }
    }

    #[test]
    fn every_spelling_of_a_selector_counts() {
        let client = IdentitySelector::ClientId(CLIENT.parse().unwrap());
        let object = IdentitySelector::ObjectId(CLIENT.parse().unwrap());
        let resource = IdentitySelector::ResourceId(RESOURCE_ID.parse().unwrap());
        for (name, value, expected) in [
            ("client_id", CLIENT, &client),
            ("object_id", CLIENT, &object),
            ("principal_id", CLIENT, &object),
            ("msi_res_id", RESOURCE_ID, &resource),
            ("mi_res_id", RESOURCE_ID, &resource),
            ("resource_id", RESOURCE_ID, &resource),
            ("msi-res-id", RESOURCE_ID, &resource),
        ] {
            let target = format!("{GOOD}&{name}={value}");
            let request = read(&head(&target, &[]), own()).unwrap();
            assert_eq!(request.ask.selector.as_ref(), Some(expected), "{name}");
        }
    }

    #[test]
    fn what_is_malformed_is_a_bad_request() {
        let missing = "missing 'podname' and 'podns' from request header";
        type Case<'a> = (String, &'a [(&'a str, &'a str)], &'a str);
        let cases: [Case<'_>; 12] = [
            (GOOD.to_owned(), &[("-podns", "")], missing),
            (GOOD.to_owned(), &[("-podname", "")], missing),
            (GOOD.to_owned(), &[(NAME, "")], missing),
            (GOOD.to_owned(), &[(NAME, "a/b")], missing),
            ("/host/token/".to_owned(), &[], "parameter resource cannot be empty"),
            ("/host/token/?resource=".to_owned(), &[], "parameter resource cannot be empty"),
            ("/host/token/?resource=a%20b".to_owned(), &[], "parameter resource is invalid"),
            (format!("{GOOD}&resource=x"), &[], "parameter resource must be given once"),
            (format!("{GOOD}&client_id="), &[], "parameter client_id is invalid"),
            (format!("{GOOD}&object_id=x"), &[], "parameter object_id is invalid"),
            (format!("{GOOD}&msi_res_id=/x"), &[], "parameter msi_res_id is invalid"),
            (
                format!("{GOOD}&client_id={CLIENT}&object_id={CLIENT}"),
                &[],
                "name the identity by one parameter only",
            ),
        ];
        for (target, changes, expected) in cases {
            match read(&head(&target, changes), own()) {
                Err(Refusal::Bad(text)) => assert!(text.starts_with(expected), "{target}: {text}"),
                other => panic!("{target} {changes:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn only_a_local_client_that_means_this_endpoint_may_ask() {
        for host in ["127.0.0.1", "127.0.0.1:2579", "localhost", "LOCALHOST:2579"] {
            assert!(read(&head(GOOD, &[("host", host)]), own()).is_ok(), "{host}");
        }
        let forbidden = |parts: &Parts| matches!(read(parts, own()), Err(Refusal::Forbidden(_)));
        for host in ["evil.example", "127.0.0.1:80", "localhost:", "localhost.evil:2579", "[::1]"] {
            assert!(forbidden(&head(GOOD, &[("host", host)])), "{host}");
        }
        assert!(forbidden(&head(GOOD, &[("-host", "")])));
        let kinds = ["x-forwarded-for", "x-forwarded-proto", "sec-fetch-site", "sec-ch-ua"];
        for name in FOREIGN.into_iter().chain(kinds) {
            assert!(forbidden(&head(GOOD, &[(name, "x")])), "{name}");
        }
        assert!(forbidden(&head(&format!("http://127.0.0.1:2579{GOOD}"), &[])));
        let mut remote = head(GOOD, &[]);
        remote.extensions.insert(Peer("10.0.0.7:50000".parse().unwrap()));
        assert!(forbidden(&remote));
        remote.extensions.clear();
        assert!(forbidden(&remote), "an unknown peer is not a local one");
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        for path in ["/", "/host/tokens", "/host/token/x", "/host//token", "/HOST/token"] {
            let target = format!("{path}?resource=x");
            assert_eq!(read(&head(&target, &[]), own()), Err(Refusal::NotFound), "{path}");
        }
        let mut post = head(GOOD, &[]);
        post.method = Method::POST;
        assert_eq!(read(&post, own()), Err(Refusal::Method));
    }
}
