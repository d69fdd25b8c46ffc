//! Client assertions: is this the token of a registered certificate, or of a federated issuer?
//!
//! Pure: looks at values and a time, not at the world.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;
use x509_parser::pem::parse_x509_pem;

use crate::jwt::{Jwt, JwtError};
use crate::principal::{FederatedCredential, Issuer};

/// How far apart the clocks may be.
const SKEW_SECONDS: u64 = 300;

/// Why an assertion is not accepted. `entra_error` has the AADSTS codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AssertionError {
    Malformed,
    Signature,
    UnknownCertificate { thumbprint: String },
    CertificateExpired,
    Audience,
    Expired { from: u64, until: u64 },
    NoCredential { issuer: String, subject: String, audience: String },
    Issuer { issuer: String },
    Subject { subject: String },
    Audiences { audience: String },
}

/// Whether a federated token's signature could be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignatureCheck {
    Done,
    NoKeys,
}

/// Whether the client made this token itself, with a certificate.
pub(crate) fn is_self_issued(jwt: &Jwt) -> bool {
    jwt.claim("iss").is_some() && jwt.claim("iss") == jwt.claim("sub")
}

/// Checks a token that the client made itself for the tenant's token endpoint.
pub(crate) fn check_certificate(
    jwt: &Jwt,
    certificates: &[String],
    tenant: &str,
    now: u64,
) -> Result<(), AssertionError> {
    let wanted = thumbprint(&jwt.header);
    let mut found = None;
    for pem in certificates {
        let Ok((_, pem)) = parse_x509_pem(pem.as_bytes()) else { continue };
        if wanted.matches(&pem.contents) {
            found = Some(pem);
        }
    }
    let unknown = || AssertionError::UnknownCertificate { thumbprint: wanted.text.clone() };
    let pem = found.ok_or_else(unknown)?;
    let certificate = pem.parse_x509().map_err(|_| unknown())?;
    let valid_until = certificate.validity().not_after.timestamp();
    if u64::try_from(valid_until).unwrap_or_default() < now {
        return Err(AssertionError::CertificateExpired);
    }
    jwt.verify_with_rsa(&certificate.public_key().subject_public_key.data)
        .map_err(|_| AssertionError::Signature)?;
    if !jwt.audiences().iter().any(|audience| is_token_endpoint(audience, tenant)) {
        return Err(AssertionError::Audience);
    }
    check_times(jwt, now)
}

/// Checks a token of somebody else's issuer against the federated credentials.
pub(crate) fn check_federated(
    jwt: &Jwt,
    credentials: &[FederatedCredential],
    issuers: &[&Issuer],
    now: u64,
) -> Result<SignatureCheck, AssertionError> {
    let (Some(issuer), Some(subject)) = (jwt.claim("iss"), jwt.claim("sub")) else {
        return Err(AssertionError::Malformed);
    };
    match_credential(jwt, credentials, issuer, subject)?;
    let check = match issuers.iter().find(|known| known.issuer == issuer) {
        Some(known) => {
            jwt.verify(&known.jwks).map_err(|_: JwtError| AssertionError::Signature)?;
            SignatureCheck::Done
        }
        None => SignatureCheck::NoKeys,
    };
    check_times(jwt, now)?;
    Ok(check)
}

/// Names the first of issuer, subject and audience for which no credential is left.
fn match_credential(
    jwt: &Jwt,
    credentials: &[FederatedCredential],
    issuer: &str,
    subject: &str,
) -> Result<(), AssertionError> {
    let audiences = jwt.audiences();
    let audience = audiences.join(",");
    if credentials.is_empty() {
        let (issuer, subject) = (issuer.to_owned(), subject.to_owned());
        return Err(AssertionError::NoCredential { issuer, subject, audience });
    }
    let mut left: Vec<_> = credentials.iter().filter(|one| one.issuer == issuer).collect();
    if left.is_empty() {
        return Err(AssertionError::Issuer { issuer: issuer.to_owned() });
    }
    left.retain(|one| one.subject == subject);
    if left.is_empty() {
        return Err(AssertionError::Subject { subject: subject.to_owned() });
    }
    let accepted = |one: &&FederatedCredential| {
        one.audiences.iter().any(|accepted| audiences.contains(&accepted.as_str()))
    };
    if left.iter().any(accepted) { Ok(()) } else { Err(AssertionError::Audiences { audience }) }
}

fn check_times(jwt: &Jwt, now: u64) -> Result<(), AssertionError> {
    let time = |name: &str| jwt.claims.get(name).and_then(Value::as_f64);
    let until = time("exp").ok_or(AssertionError::Malformed)?;
    let from = time("nbf").or_else(|| time("iat")).unwrap_or_default();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates, and seconds need no fraction"
    )]
    let (from, until) = (from as u64, until as u64);
    if until.saturating_add(SKEW_SECONDS) < now || from > now.saturating_add(SKEW_SECONDS) {
        return Err(AssertionError::Expired { from, until });
    }
    Ok(())
}

/// The spellings of a tenant's token endpoint that Entra accepts as the audience.
fn is_token_endpoint(audience: &str, tenant: &str) -> bool {
    let audience = audience.to_ascii_lowercase();
    let tenant = tenant.to_ascii_lowercase();
    audience.starts_with("https://")
        && ["oauth2/v2.0/token", "oauth2/token", "v2.0", ""]
            .iter()
            .any(|end| audience.ends_with(&format!("/{tenant}/{end}")))
}

struct Thumbprint {
    text: String,
}

/// `x5t#S256` or `x5t`. Some clients write the latter in base64 instead of base64url.
fn thumbprint(header: &Value) -> Thumbprint {
    let field = |name: &str| header.get(name).and_then(Value::as_str);
    let text = field("x5t#S256").or_else(|| field("x5t")).unwrap_or_default();
    Thumbprint { text: text.trim_end_matches('=').to_owned() }
}

impl Thumbprint {
    fn matches(&self, der: &[u8]) -> bool {
        [&SHA1_FOR_LEGACY_USE_ONLY, &SHA256].iter().any(|algorithm| {
            let hash = digest(algorithm, der);
            self.text == URL_SAFE_NO_PAD.encode(hash) || self.text == STANDARD_NO_PAD.encode(hash)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{AssertionError, SignatureCheck, check_federated, is_token_endpoint};
    use crate::jwt::{Jwt, encode};
    use crate::principal::{FederatedCredential, Issuer};

    fn jwt(claims: &Value) -> Jwt {
        let part = |value: &Value| encode(value.to_string().as_bytes());
        Jwt::parse(&format!("{}.{}.{}", part(&json!({"alg": "RS256"})), part(claims), encode(b"x")))
            .unwrap()
    }

    fn credential() -> FederatedCredential {
        FederatedCredential {
            issuer: "https://issuer".to_owned(),
            subject: "system:serviceaccount:a:b".to_owned(),
            audiences: vec!["api://AzureADTokenExchange".to_owned()],
        }
    }

    fn claims() -> Value {
        json!({
            "iss": "https://issuer", "sub": "system:serviceaccount:a:b",
            "aud": ["api://AzureADTokenExchange"], "iat": 1000, "exp": 2000,
        })
    }

    #[test]
    fn issuer_subject_and_audience_must_all_match_one_credential() {
        let none = AssertionError::NoCredential {
            issuer: "https://issuer".to_owned(),
            subject: "system:serviceaccount:a:b".to_owned(),
            audience: "api://AzureADTokenExchange".to_owned(),
        };
        let check = |claims: &Value, credentials: &[FederatedCredential]| {
            check_federated(&jwt(claims), credentials, &[], 1500)
        };
        assert_eq!(check(&claims(), &[credential()]), Ok(SignatureCheck::NoKeys));
        assert_eq!(check(&claims(), &[]), Err(none));
        for (field, value, expected) in [
            ("iss", "https://ISSUER", AssertionError::Issuer { issuer: "https://ISSUER".into() }),
            ("sub", "other", AssertionError::Subject { subject: "other".into() }),
            ("aud", "other", AssertionError::Audiences { audience: "other".into() }),
        ] {
            let mut wrong = claims();
            wrong[field] = json!(value);
            assert_eq!(check(&wrong, &[credential()]), Err(expected));
        }
    }

    #[test]
    fn time_counts_with_five_minutes_of_tolerance() {
        let check = |now| check_federated(&jwt(&claims()), &[credential()], &[], now).is_ok();
        for (now, expected) in [(699, false), (700, true), (2300, true), (2301, false)] {
            assert_eq!(check(now), expected, "{now}");
        }
    }

    #[test]
    fn a_known_issuer_needs_a_true_signature() {
        let issuer = Issuer { issuer: "https://issuer".to_owned(), jwks: json!({"keys": []}) };
        let result = check_federated(&jwt(&claims()), &[credential()], &[&issuer], 1500);
        assert_eq!(result, Err(AssertionError::Signature));
    }

    #[test]
    fn the_audience_is_an_endpoint_of_the_same_tenant() {
        for (audience, expected) in [
            ("https://10.77.0.254:8443/T/oauth2/v2.0/token", true),
            ("https://login.microsoftonline.com/t/v2.0", true),
            ("https://login.microsoftonline.com/t/", true),
            ("https://login.microsoftonline.com/other/oauth2/v2.0/token", false),
            ("http://login.microsoftonline.com/t/oauth2/v2.0/token", false),
            ("t", false),
        ] {
            assert_eq!(is_token_endpoint(audience, "t"), expected, "{audience}");
        }
    }
}
