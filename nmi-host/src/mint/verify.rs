//! Whether a token that Azure answered is the bound identity's.
//!
//! Pure. The claims are read, not verified: they come from Azure over the VM's own wire or over
//! TLS, and what is guarded against is a mix-up of identities, not a forger.

use api::{Guid, IdentityId, Tenant};
use serde::Deserialize;

use crate::jwt;

/// The identity whose token was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Expected {
    /// Its ARM id.
    pub(crate) resource_id: IdentityId,
    /// Its client id, if it is known.
    pub(crate) client_id: Option<Guid>,
}

/// What the token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// The client id of the token.
    pub(crate) client_id: Guid,
    /// When it expires, in Unix seconds, if it says so.
    pub(crate) expires_on: Option<u64>,
    /// When it begins to be valid, likewise.
    pub(crate) not_before: Option<u64>,
}

/// Why the token is dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WrongToken {
    /// A proof is there and names another identity.
    #[error("Azure answered with another identity's token; it was dropped")]
    OtherIdentity,
    /// No proof is there.
    #[error("the token does not say which identity it belongs to; it was dropped")]
    Unproven,
    /// The identity is the right one, its tenant is not.
    #[error("Azure answered with a token of another tenant; it was dropped")]
    OtherTenant,
    /// The token is for nobody.
    #[error("the token has no audience; it was dropped")]
    NoAudience,
}

#[derive(Deserialize)]
struct Claims {
    /// Version 1.0 tokens.
    appid: Option<String>,
    /// Version 2.0 tokens.
    azp: Option<String>,
    /// The managed identity's ARM id.
    xms_mirid: Option<String>,
    /// The tenant.
    tid: Option<String>,
    aud: Option<Audience>,
    exp: Option<u64>,
    nbf: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Checks a token against the identity that it was asked for. `answered` is the client id that
/// came beside the token.
///
/// Every proof that is there must name the identity, and the token itself must hold one. Only a
/// token that cannot be read is believed by the client id beside it.
pub(crate) fn verify(
    token: &str,
    answered: Option<&str>,
    expected: &Expected,
) -> Result<Verified, WrongToken> {
    let claims = jwt::claims::<Claims>(token);
    if let Some(claims) = &claims
        && !claims.aud.as_ref().is_some_and(Audience::names_someone)
    {
        return Err(WrongToken::NoAudience);
    }
    let by_resource = match claims.as_ref().and_then(|claims| claims.xms_mirid.as_deref()) {
        Some(id) if id.parse().ok().as_ref() == Some(&expected.resource_id) => true,
        Some(_) => return Err(WrongToken::OtherIdentity),
        None => false,
    };
    let said = claims.iter().flat_map(|claims| [&claims.appid, &claims.azp]).flatten();
    let said: Vec<&str> = said.map(String::as_str).filter(|text| !text.is_empty()).collect();
    if claims.is_some() && said.is_empty() && !by_resource {
        return Err(WrongToken::Unproven);
    }
    let named: Vec<Guid> = said
        .into_iter()
        .chain(answered)
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().map_err(|_| WrongToken::OtherIdentity))
        .collect::<Result<_, _>>()?;
    let client_id = named.first().ok_or(WrongToken::Unproven)?;
    if named.iter().any(|other| other != client_id) {
        return Err(WrongToken::OtherIdentity);
    }
    match &expected.client_id {
        Some(expected) if expected != client_id => return Err(WrongToken::OtherIdentity),
        None if !by_resource => return Err(WrongToken::Unproven),
        _ => {}
    }
    Ok(Verified::of(client_id, claims.as_ref()))
}

/// Checks an application's token. `tenant` is compared if it is an id.
///
/// A token that cannot be read is believed: the question held the application's credential, and
/// the answer came over TLS.
pub(crate) fn verify_principal(
    token: &str,
    client_id: &Guid,
    tenant: &Tenant,
) -> Result<Verified, WrongToken> {
    let Some(claims) = jwt::claims::<Claims>(token) else {
        return Ok(Verified::of(client_id, None));
    };
    if !claims.aud.as_ref().is_some_and(Audience::names_someone) {
        return Err(WrongToken::NoAudience);
    }
    let is = |text: &str, expected: &Guid| text.parse::<Guid>().is_ok_and(|id| id == *expected);
    let said = [&claims.appid, &claims.azp].into_iter().flatten().filter(|text| !text.is_empty());
    let said: Vec<&String> = said.collect();
    if said.is_empty() {
        return Err(WrongToken::Unproven);
    }
    if said.iter().any(|text| !is(text, client_id)) {
        return Err(WrongToken::OtherIdentity);
    }
    if let Some(tenant) = tenant.id()
        && !claims.tid.as_ref().is_some_and(|text| is(text, &tenant))
    {
        return Err(WrongToken::OtherTenant);
    }
    Ok(Verified::of(client_id, Some(&claims)))
}

// === impl Verified ===

impl Verified {
    fn of(client_id: &Guid, claims: Option<&Claims>) -> Self {
        Self {
            client_id: client_id.clone(),
            expires_on: claims.and_then(|claims| claims.exp),
            not_before: claims.and_then(|claims| claims.nbf),
        }
    }
}

// === impl Audience ===

impl Audience {
    fn names_someone(&self) -> bool {
        match self {
            Self::One(name) => !name.is_empty(),
            Self::Many(names) => names.iter().any(|name| !name.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::assigned::testing::resource_id;
    use crate::jwt::testing::unsigned;

    const MINE: &str = "00000000-0000-0000-0000-00000000000a";
    const OTHER: &str = "00000000-0000-0000-0000-00000000000b";

    fn check(
        token: &str,
        answered: Option<&str>,
        client_id: Option<&str>,
    ) -> Result<String, WrongToken> {
        let client_id = client_id.map(|text| text.parse().unwrap());
        let expected = Expected { resource_id: resource_id("db"), client_id };
        verify(token, answered, &expected).map(|verified| verified.client_id.to_string())
    }

    #[test]
    fn every_proof_must_name_the_identity_and_one_must_be_there() {
        use WrongToken::{NoAudience, OtherIdentity, Unproven};
        let mine = resource_id("db").as_str().to_uppercase();
        let other = resource_id("web").as_str().to_owned();
        type Case<'a> = (Value, Option<&'a str>, Option<&'a str>, Result<&'a str, WrongToken>);
        let cases: [Case<'_>; 16] = [
            (json!({"aud": "r", "appid": MINE}), None, Some(MINE), Ok(MINE)),
            (json!({"aud": ["r"], "azp": MINE.to_uppercase()}), None, Some(MINE), Ok(MINE)),
            (json!({"aud": "r", "appid": MINE, "xms_mirid": mine}), None, None, Ok(MINE)),
            (json!({"aud": "r", "appid": MINE}), Some(MINE), Some(MINE), Ok(MINE)),
            (json!({"aud": "r", "xms_mirid": mine}), Some(MINE), Some(MINE), Ok(MINE)),
            (json!({"aud": "r", "appid": ""}), Some(MINE), Some(MINE), Err(Unproven)),
            (
                json!({"aud": "r", "appid": MINE, "azp": OTHER}),
                None,
                Some(MINE),
                Err(OtherIdentity),
            ),
            (json!({"aud": "r", "appid": OTHER}), None, Some(MINE), Err(OtherIdentity)),
            (json!({"aud": "r", "appid": MINE}), Some(OTHER), Some(MINE), Err(OtherIdentity)),
            (json!({"aud": "r", "appid": OTHER}), Some(MINE), Some(MINE), Err(OtherIdentity)),
            (
                json!({"aud": "r", "appid": MINE, "xms_mirid": other}),
                None,
                Some(MINE),
                Err(OtherIdentity),
            ),
            (
                json!({"aud": "r", "appid": MINE, "xms_mirid": "x"}),
                None,
                Some(MINE),
                Err(OtherIdentity),
            ),
            (json!({"aud": "r", "appid": "x"}), None, Some(MINE), Err(OtherIdentity)),
            (json!({"aud": "r", "appid": MINE}), None, None, Err(Unproven)),
            (json!({"appid": MINE}), None, Some(MINE), Err(NoAudience)),
            (json!({"aud": [""], "appid": MINE}), None, Some(MINE), Err(NoAudience)),
        ];
        for (claims, answered, client_id, expected) in cases {
            let token = unsigned(&claims);
            let checked = check(&token, answered, client_id);
            assert_eq!(checked, expected.map(str::to_owned), "{claims} {answered:?} {client_id:?}");
        }
    }

    #[test]
    fn an_opaque_token_is_believed_by_the_client_id_beside_it() {
        assert_eq!(check("opaque", Some(MINE), Some(MINE)), Ok(MINE.to_owned()));
        assert_eq!(check("opaque", Some(OTHER), Some(MINE)), Err(WrongToken::OtherIdentity));
        assert_eq!(check("opaque", None, Some(MINE)), Err(WrongToken::Unproven));
        assert_eq!(check("opaque", Some(""), Some(MINE)), Err(WrongToken::Unproven));
        assert_eq!(check("opaque", Some(MINE), None), Err(WrongToken::Unproven));
    }

    #[test]
    fn the_tokens_own_expiry_is_read() {
        let token = unsigned(&json!({"aud": "r", "appid": MINE, "exp": 99}));
        let client_id = Some(MINE.parse().unwrap());
        let expected = Expected { resource_id: resource_id("db"), client_id };
        assert_eq!(verify(&token, None, &expected).unwrap().expires_on, Some(99));
    }

    #[test]
    fn an_applications_token_names_it_and_its_tenant() {
        use WrongToken::{NoAudience, OtherIdentity, OtherTenant, Unproven};
        const TENANT: &str = "10000000-0000-0000-0000-00000000000a";
        type Case<'a> = (Value, &'a str, Result<(), WrongToken>);
        let cases: [Case<'_>; 10] = [
            (json!({"aud": "r", "appid": MINE, "tid": TENANT}), TENANT, Ok(())),
            (json!({"aud": "r", "azp": MINE.to_uppercase(), "tid": TENANT}), TENANT, Ok(())),
            (json!({"aud": "r", "appid": MINE, "tid": OTHER}), "contoso.com", Ok(())),
            (json!({"aud": "r", "appid": MINE, "tid": OTHER}), TENANT, Err(OtherTenant)),
            (json!({"aud": "r", "appid": MINE}), TENANT, Err(OtherTenant)),
            (json!({"aud": "r", "appid": OTHER, "tid": TENANT}), TENANT, Err(OtherIdentity)),
            (
                json!({"aud": "r", "appid": MINE, "azp": OTHER, "tid": TENANT}),
                TENANT,
                Err(OtherIdentity),
            ),
            (json!({"aud": "r", "appid": "", "tid": TENANT}), TENANT, Err(Unproven)),
            (json!({"aud": "r", "tid": TENANT}), TENANT, Err(Unproven)),
            (json!({"appid": MINE, "tid": TENANT}), TENANT, Err(NoAudience)),
        ];
        let mine: Guid = MINE.parse().unwrap();
        for (claims, tenant, expected) in cases {
            let checked =
                verify_principal(&unsigned(&claims), &mine, &tenant.parse().unwrap()).map(drop);
            assert_eq!(checked, expected, "{claims} {tenant}");
        }
        assert_eq!(
            verify_principal("opaque", &mine, &TENANT.parse().unwrap()).unwrap().client_id,
            mine
        );
    }
}
