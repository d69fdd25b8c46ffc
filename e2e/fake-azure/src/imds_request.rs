//! What a request to IMDS asks for, and what is wrong with it. Pure.
//!
//! Deliberately as liberal with paths as a real server: `\`, `%2f`, `//` and a trailing slash reach
//! the token endpoint, so that a component which forwards what it does not understand is found out.

use axum::http::{HeaderMap, HeaderValue, Method};

use crate::imds_error::ImdsError;

/// The endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Token,
    IdentityInfo,
    Instance,
    Versions,
}

/// Which identity is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    Default,
    ClientId(String),
    ObjectId(String),
    ResourceId(String),
}

/// The query of a token request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenQuery {
    pub(crate) resource: String,
    pub(crate) selector: Selector,
}

/// The endpoint that a path leads to.
pub(crate) fn endpoint(path: &str) -> Option<Endpoint> {
    let path = percent_decode(path).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let (first, rest) = segments.split_first()?;
    if !first.eq_ignore_ascii_case("metadata") {
        return None;
    }
    match rest {
        ["identity", "oauth2", "token"] => Some(Endpoint::Token),
        ["identity", "info"] => Some(Endpoint::IdentityInfo),
        ["instance", ..] => Some(Endpoint::Instance),
        ["versions"] => Some(Endpoint::Versions),
        _ => None,
    }
}

/// Method and headers, in the order in which the real service looks at them.
pub(crate) fn check_head(method: &Method, headers: &HeaderMap) -> Result<(), ImdsError> {
    if method != Method::GET {
        return Err(ImdsError::Method);
    }
    let mut metadata = headers.get_all("metadata").iter();
    let is_true = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"true");
    match (metadata.next(), metadata.next()) {
        (Some(value), None) if is_true(value) => {}
        _ => return Err(ImdsError::NoMetadataHeader),
    }
    if headers.contains_key("x-forwarded-for") {
        return Err(ImdsError::Forwarded);
    }
    Ok(())
}

/// The parameters, with duplicates and a missing or wrong `api-version` refused.
pub(crate) fn parameters(query: &str) -> Result<Vec<(String, String)>, ImdsError> {
    let mut seen: Vec<(String, String)> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if seen.iter().any(|(old, _)| old.eq_ignore_ascii_case(&name)) {
            return Err(ImdsError::DuplicateParameter);
        }
        seen.push((name.into_owned(), value.into_owned()));
    }
    match value(&seen, "api-version") {
        Some(version) if is_version(version) && version >= "2018-02-01" => Ok(seen),
        _ => Err(ImdsError::ApiVersion),
    }
}

/// What token is asked for. Unknown parameters are ignored, as in reality: `resource_id=` is the
/// default identity.
pub(crate) fn token_query(parameters: &[(String, String)]) -> Result<TokenQuery, ImdsError> {
    let resource = value(parameters, "resource")
        .filter(|resource| !resource.is_empty())
        .ok_or(ImdsError::NoResource)?
        .to_owned();
    let mut selectors = parameters.iter().filter_map(|(name, value)| {
        let value = value.clone();
        match name.as_str() {
            "client_id" => Some(Selector::ClientId(value)),
            "object_id" | "principal_id" => Some(Selector::ObjectId(value)),
            "msi_res_id" | "mi_res_id" => Some(Selector::ResourceId(value)),
            _ => None,
        }
    });
    let selector = selectors.next().unwrap_or(Selector::Default);
    if selectors.next().is_some() {
        return Err(ImdsError::SeveralSelectors);
    }
    Ok(TokenQuery { resource, selector })
}

fn value<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn is_version(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = bytes.get(index + 1..index + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[index], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                index += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Selector, endpoint, parameters, token_query};
    use crate::imds_error::ImdsError;

    #[test]
    fn spellings_that_a_real_server_tolerates_reach_the_token_endpoint() {
        for path in [
            "/metadata/identity/oauth2/token",
            "/METADATA/identity/oauth2/token/",
            "//metadata//identity/oauth2/token",
            "/metadata/identity\\oauth2\\token/",
            "/metadata/identity%5coauth2%2Ftoken",
            "/metadata/instance/../identity/./oauth2/token",
        ] {
            assert_eq!(endpoint(path), Some(Endpoint::Token), "{path}");
        }
        for path in
            ["/", "/metadata/Identity/oauth2/token", "/metadata/identity/oauth2/tokenx", "/%"]
        {
            assert_eq!(endpoint(path), None, "{path}");
        }
        assert_eq!(endpoint("/metadata/instance/compute"), Some(Endpoint::Instance));
    }

    #[test]
    fn the_version_is_a_date_of_2018_02_01_or_later() {
        for query in ["", "api-version=", "api-version=2018-01-31", "api-version=latest"] {
            assert_eq!(parameters(query), Err(ImdsError::ApiVersion), "{query}");
        }
        assert!(parameters("api-version=2018-02-01").is_ok());
        let twice = "api-version=2018-02-01&resource=a&Resource=b";
        assert_eq!(parameters(twice), Err(ImdsError::DuplicateParameter));
    }

    #[test]
    fn one_selector_at_most_and_a_resource() {
        let query = |rest: &str| {
            token_query(&parameters(&format!("api-version=2018-02-01{rest}")).unwrap())
        };
        assert_eq!(query(""), Err(ImdsError::NoResource));
        assert_eq!(query("&resource="), Err(ImdsError::NoResource));
        assert_eq!(query("&resource=r&client_id=a&object_id=b"), Err(ImdsError::SeveralSelectors));
        for (rest, expected) in [
            ("", Selector::Default),
            ("&resource_id=x", Selector::Default),
            ("&msi_res_id=/subscriptions/x", Selector::ResourceId("/subscriptions/x".into())),
            ("&mi_res_id=%2Fsub", Selector::ResourceId("/sub".into())),
            ("&client_id=c", Selector::ClientId("c".into())),
            ("&object_id=o", Selector::ObjectId("o".into())),
        ] {
            let found = query(&format!("&resource=https://vault.azure.net{rest}")).unwrap();
            assert_eq!(found.selector, expected, "{rest}");
            assert_eq!(found.resource, "https://vault.azure.net");
        }
    }
}
