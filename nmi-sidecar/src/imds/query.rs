//! The query of a token request. Whatever could be read in two ways is refused: a selector that is
//! overlooked would hand out the default identity's token.

use std::borrow::Cow;

use api::TokenHash;

use super::error::ImdsError;

/// The parameters that matter, decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query<'a> {
    pub(super) api_version: Option<Cow<'a, str>>,
    pub(super) resource: Option<Cow<'a, str>>,
    pub(super) selector: Option<(Selector, Cow<'a, str>)>,
    pub(super) refused: Option<TokenHash>,
}

/// What a selector names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selector {
    Client,
    Object,
    Resource,
}

/// What a parameter's name means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    ApiVersion,
    Resource,
    Selector(Selector),
    Refused,
    Unknown,
}

const MOST_PARAMETERS: usize = 32;

/// Every spelling that a client is known to send, and what it means.
const NAMES: [(&str, Meaning); 10] = [
    ("api-version", Meaning::ApiVersion),
    ("resource", Meaning::Resource),
    ("client_id", Meaning::Selector(Selector::Client)),
    ("object_id", Meaning::Selector(Selector::Object)),
    ("principal_id", Meaning::Selector(Selector::Object)),
    ("msi_res_id", Meaning::Selector(Selector::Resource)),
    ("mi_res_id", Meaning::Selector(Selector::Resource)),
    ("resource_id", Meaning::Selector(Selector::Resource)),
    ("msi-res-id", Meaning::Selector(Selector::Resource)),
    ("token_sha256_to_refresh", Meaning::Refused),
];

/// Reads the raw text after the question mark.
pub(super) fn parse(raw: &str) -> Result<Query<'_>, ImdsError> {
    let mut query = Query::default();
    let mut seen: Vec<&str> = Vec::new();
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return Err(ImdsError::Query("Query parameter names must be written plainly"));
        }
        if seen.iter().any(|other| other.eq_ignore_ascii_case(name)) {
            return Err(ImdsError::Query("Duplicate query parameter names are not allowed"));
        }
        if seen.len() == MOST_PARAMETERS {
            return Err(ImdsError::Query("Too many query parameters"));
        }
        seen.push(name);
        query.take(meaning(name)?, value)?;
    }
    Ok(query)
}

impl<'a> Query<'a> {
    fn take(&mut self, meaning: Meaning, value: &'a str) -> Result<(), ImdsError> {
        match meaning {
            Meaning::Unknown => {}
            Meaning::ApiVersion => self.api_version = Some(decode(value)?),
            Meaning::Resource => self.resource = Some(decode(value)?),
            // What is not a hash is the hash of no token.
            Meaning::Refused => self.refused = decode(value)?.parse().ok(),
            Meaning::Selector(_) if self.selector.is_some() => {
                return Err(ImdsError::Query(
                    "Specify only one of client_id, object_id and msi_res_id",
                ));
            }
            Meaning::Selector(_) if value.is_empty() => {
                return Err(ImdsError::Query(
                    "The identity selector in the query is empty; omit it for the default identity",
                ));
            }
            Meaning::Selector(kind) => self.selector = Some((kind, decode(value)?)),
        }
        Ok(())
    }
}

fn meaning(name: &str) -> Result<Meaning, ImdsError> {
    let known = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    match known {
        Some((_, meaning)) => Ok(*meaning),
        None if is_like_a_selector(name) => Err(ImdsError::Query(
            "Unknown spelling of an identity selector; use client_id, object_id or msi_res_id",
        )),
        None => Ok(Meaning::Unknown),
    }
}

/// `clientId`, `client-id`, `mi_client_id` and the like: somebody meant to choose an identity.
fn is_like_a_selector(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(|c| !matches!(c, '-' | '_' | '.'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    let plain = plain.strip_prefix("msi").or(plain.strip_prefix("mi")).unwrap_or(&plain);
    matches!(plain, "clientid" | "objectid" | "principalid" | "resid" | "resourceid")
}

/// Percent-decodes a value; a plus sign is a space, as in forms.
fn decode(value: &str) -> Result<Cow<'_, str>, ImdsError> {
    const BAD: ImdsError = ImdsError::Query("The query is not percent-encoded as it should be");
    if !value.bytes().any(|b| matches!(b, b'%' | b'+')) {
        return Ok(value.into());
    }
    let mut bytes = value.bytes();
    let mut decoded = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = (bytes.next().and_then(hex), bytes.next().and_then(hex));
                let (Some(high), Some(low)) = digits else { return Err(BAD) };
                high << 4 | low
            }
            other => other,
        });
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| BAD)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(raw: &str) -> &'static str {
        match parse(raw) {
            Err(ImdsError::Query(text)) => text,
            other => panic!("{raw}: {other:?}"),
        }
    }

    #[test]
    fn every_spelling_of_a_selector_that_clients_send_is_honoured() {
        let rows = [
            ("client_id", Selector::Client),
            ("Client_ID", Selector::Client),
            ("object_id", Selector::Object),
            ("principal_id", Selector::Object),
            ("msi_res_id", Selector::Resource),
            ("mi_res_id", Selector::Resource),
            ("resource_id", Selector::Resource),
            ("msi-res-id", Selector::Resource),
        ];
        for (name, kind) in rows {
            let raw = format!("resource=r&{name}=x");
            assert_eq!(parse(&raw).unwrap().selector, Some((kind, "x".into())), "{name}");
            assert!(refused(&format!("{name}=")).contains("empty"), "{name}");
            assert!(refused(name).contains("empty"), "{name}");
        }
    }

    #[test]
    fn what_looks_like_a_selector_is_not_ignored() {
        for name in ["clientId", "client-id", "mi_client_id", "MSI_CLIENT_ID", "objectid", "res_id"]
        {
            assert!(refused(&format!("{name}=x")).contains("Unknown spelling"), "{name}");
        }
        for name in ["claims", "xms_cc", "token_sha256_to_refresh", "bypass_cache", "client"] {
            assert!(parse(&format!("{name}=x")).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_hash_of_a_refused_token_is_read_without_regard_to_case() {
        let hash = "00ff".repeat(16);
        let expected = Some(hash.parse().unwrap());
        for text in [hash.clone(), hash.to_uppercase(), hash.replace("00", "%30%30")] {
            let raw = format!("token_sha256_to_refresh={text}");
            assert_eq!(parse(&raw).unwrap().refused, expected, "{text}");
        }
        for text in ["", "x", &hash[1..], &format!("{hash}0"), &hash.replace('f', "g")] {
            let raw = format!("token_sha256_to_refresh={text}");
            assert_eq!(parse(&raw).unwrap().refused, None, "{text}");
        }
        let twice = format!("token_sha256_to_refresh={hash}&TOKEN_SHA256_to_refresh={hash}");
        assert!(refused(&twice).contains("Duplicate"));
    }

    #[test]
    fn ambiguous_queries_are_refused() {
        let rows = [
            ("resource=a&resource=b", "Duplicate"),
            ("resource=a&Resource=b", "Duplicate"),
            ("x=1&x=1", "Duplicate"),
            ("client_id=a&object_id=b", "only one"),
            ("client_id=a&client_id=a", "Duplicate"),
            ("msi_res_id=a&mi_res_id=a", "only one"),
            ("res%6furce=a", "plainly"),
            ("client%5fid=a", "plainly"),
            ("client_id%20=a", "plainly"),
            ("cl+ient=a", "plainly"),
            ("=a", "Duplicate"),
            ("resource=%", "percent"),
            ("resource=%4", "percent"),
            ("resource=%zz", "percent"),
            ("resource=%+1", "percent"),
            ("resource=%ff", "percent"),
        ];
        for (raw, part) in rows {
            if raw == "=a" {
                assert!(refused("=a&=b").contains(part), "{raw}");
            } else {
                assert!(refused(raw).contains(part), "{raw}");
            }
        }
        let many: Vec<String> = (0..33).map(|n| format!("p{n}=")).collect();
        assert!(refused(&many.join("&")).contains("Too many"));
    }

    #[test]
    fn values_are_decoded_once() {
        let rows = [
            ("https://vault.azure.net", "https://vault.azure.net"),
            ("https%3A%2F%2Fvault.azure.net%2f", "https://vault.azure.net/"),
            ("a%2525", "a%25"),
            ("a+b", "a b"),
            ("a=b", "a=b"),
        ];
        for (raw, expected) in rows {
            let raw = format!("resource={raw}");
            assert_eq!(parse(&raw).unwrap().resource.as_deref(), Some(expected), "{raw}");
        }
    }
}
