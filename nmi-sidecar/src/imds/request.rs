//! What a request asks for. The checks run in one order, and the first that fails is the answer:
//! path, method, `Metadata`, `X-Forwarded-For`, `Host`, `Origin`, query, selector. Clients find out
//! from that order whether the service is there.

use std::borrow::Cow;

use api::{Guid, IdentitySelector, TokenHash, is_resource};
use httparse::Header;

use super::error::ImdsError;
use super::query::{self, Selector};

/// A token that an application wants, and what it says besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The token.
    pub key: TokenKey,
    /// A token that serves the application no more.
    pub refused: Option<TokenHash>,
    /// The id by which the application will ask about this request.
    pub correlation: Option<Guid>,
}

/// Everything that a token depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// The resource, verbatim.
    pub resource: String,
    /// Which of the pod's identities; the default one if absent.
    pub identity: Option<IdentitySelector>,
}

/// The names under which the service may be called: a browser that was led here by DNS calls it by
/// another one.
#[derive(Clone, Debug)]
pub struct Hosts(Vec<String>);

const METADATA: &str = "/metadata";
const TOKEN: &str = "/identity/oauth2/token";
const OLDEST_API_VERSION: &str = "2018-02-01";
/// Most clients send one, each request another.
const CORRELATION: &str = api::node_api::CORRELATION_HEADER;
/// Of what the application sent, at most so much is told back to it.
const LONGEST_ECHO: usize = 128;

// === impl Hosts ===

impl Hosts {
    /// The metadata address and `more`.
    pub fn with(more: Vec<String>) -> Self {
        let mut hosts = vec!["169.254.169.254".to_owned(), "169.254.169.254:80".to_owned()];
        hosts.extend(more);
        Self(hosts)
    }

    fn contains(&self, host: &[u8]) -> bool {
        self.0.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(host))
    }
}

/// What a request with this method, raw target and headers asks for.
pub fn parse(
    method: &str,
    target: &str,
    headers: &[Header<'_>],
    hosts: &Hosts,
) -> Result<TokenRequest, ImdsError> {
    if !target.starts_with('/') {
        return Err(ImdsError::Malformed("The request target must be a path"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if !is_token_path(path) {
        return Err(ImdsError::NotFound);
    }
    if method != "GET" {
        return Err(ImdsError::MethodNotAllowed);
    }
    check_headers(headers, hosts)?;
    let (key, refused) = check_query(query)?;
    Ok(TokenRequest { key, refused, correlation: correlation(headers) })
}

/// Exact bytes, nothing decoded or normalised: a path that another parser would bend into the token
/// path is another path here.
fn is_token_path(path: &str) -> bool {
    let Some((first, rest)) = path.split_at_checked(METADATA.len()) else { return false };
    first.eq_ignore_ascii_case(METADATA) && rest.strip_suffix('/').unwrap_or(rest) == TOKEN
}

fn check_headers(headers: &[Header<'_>], hosts: &Hosts) -> Result<(), ImdsError> {
    match only(headers, "metadata") {
        One(value) if value.eq_ignore_ascii_case(b"true") => {}
        _ => return Err(ImdsError::NoMetadataHeader),
    }
    if !matches!(only(headers, "x-forwarded-for"), Nothing) {
        return Err(ImdsError::Forwarded);
    }
    match only(headers, "host") {
        One(host) if hosts.contains(host) => {}
        One(_) => return Err(ImdsError::ForbiddenHost),
        _ => return Err(ImdsError::Malformed("There must be one Host header")),
    }
    match only(headers, "origin") {
        Nothing => Ok(()),
        _ => Err(ImdsError::ForbiddenOrigin),
    }
}

use Occurrence::{Nothing, One, Several};

enum Occurrence<'a> {
    Nothing,
    One(&'a [u8]),
    Several,
}

fn only<'a>(headers: &[Header<'a>], name: &str) -> Occurrence<'a> {
    let mut values = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    match (values.next(), values.next()) {
        (None, _) => Nothing,
        (Some(header), None) => One(header.value),
        _ => Several,
    }
}

fn correlation(headers: &[Header<'_>]) -> Option<Guid> {
    match only(headers, CORRELATION) {
        One(value) => std::str::from_utf8(value).ok()?.parse().ok(),
        _ => None,
    }
}

fn check_query(raw: &str) -> Result<(TokenKey, Option<TokenHash>), ImdsError> {
    if raw.contains('#') {
        return Err(ImdsError::Query("A request target has no fragment"));
    }
    let query = query::parse(raw)?;
    if !query.api_version.as_deref().is_some_and(is_api_version) {
        return Err(ImdsError::ApiVersion);
    }
    let resource = match query.resource {
        None => return Err(ImdsError::Query("Required query variable 'resource' is missing")),
        Some(resource) if is_resource(&resource) => resource.into_owned(),
        Some(_) => {
            return Err(ImdsError::Query(
                "The resource must be 1 to 512 printable ASCII characters without spaces",
            ));
        }
    };
    let identity = query.selector.map(identity).transpose()?;
    Ok((TokenKey { resource, identity }, query.refused))
}

fn is_api_version(text: &str) -> bool {
    let shape = text.len() == OLDEST_API_VERSION.len()
        && text.bytes().zip(OLDEST_API_VERSION.bytes()).all(|(byte, model)| match model {
            b'-' => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    shape && text >= OLDEST_API_VERSION
}

/// A text that names nothing is an identity that the pod does not have.
fn identity((kind, value): (Selector, Cow<'_, str>)) -> Result<IdentitySelector, ImdsError> {
    let found = match kind {
        Selector::Client => value.parse().ok().map(IdentitySelector::ClientId),
        Selector::Object => value.parse().ok().map(IdentitySelector::ObjectId),
        Selector::Resource => value.parse().ok().map(IdentitySelector::ResourceId),
    };
    found.ok_or_else(|| ImdsError::IdentityNotFound(unreadable(kind, &value)))
}

/// The selector as it was sent, which may be anything.
fn unreadable(kind: Selector, value: &str) -> String {
    let (name, form) = match kind {
        Selector::Client => ("client_id", "a GUID"),
        Selector::Object => ("object_id", "a GUID"),
        Selector::Resource => ("msi_res_id", "the resource id of a user-assigned identity"),
    };
    let printable = value.len() <= LONGEST_ECHO && value.bytes().all(|b| b.is_ascii_graphic());
    let value = if printable { value } else { "in the query" };
    format!("{name} {value} is not {form}")
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
