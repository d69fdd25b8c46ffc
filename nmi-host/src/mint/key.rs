//! What a token depends on.

use std::str::FromStr;

use api::node_api::{NodeError, NodeErrorCode};
use api::{Guid, IdentityType};

use super::principal::{Principal, Proof};
use super::verify::Expected;
use crate::assigned::AssignedView;

/// What a token depends on; pods with the same identity share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MintKey {
    pub(super) issuer: Issuer,
    pub(super) resource: Resource,
}

/// Who issues an identity's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Issuer {
    /// The VM's metadata service, for a user-assigned identity.
    Imds(Expected),
    /// Entra, for an application.
    Entra(Principal),
}

/// A resource (audience) that may be put into a request to Azure.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resource(String);

/// The text cannot be a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the resource must be an App ID URI or application id such as https://vault.azure.net, at most 512 characters"
)]
pub(crate) struct BadResource;

// === impl MintKey ===

impl MintKey {
    /// The key for an identity that was selected for a request.
    pub(crate) fn new(view: &AssignedView, resource: Resource) -> Result<Self, NodeError> {
        let refused = |text: String| NodeError::new(NodeErrorCode::Refused, text);
        let name = &view.identity;
        if let Some(problem) = &view.problem {
            return Err(refused(format!("AzureIdentity {name} cannot be used: {problem}")));
        }
        if view.contradicts_itself() {
            return Err(refused(format!(
                "AzureIdentity {name} cannot be used: spec.clientID is not the client id of spec.resourceID; correct it or leave it out"
            )));
        }
        let issuer = match view.kind {
            IdentityType::UserAssigned => imds(view),
            IdentityType::ServicePrincipal => entra(view, Proof::Secret),
            IdentityType::ServicePrincipalCertificate => entra(view, Proof::Certificate),
            IdentityType::Federated | IdentityType::Unknown(_) => None,
        };
        let issuer = issuer.ok_or_else(|| {
            refused(format!(
                "AzureIdentity {name} cannot be used: a field that type {} needs is missing or malformed",
                i64::from(view.kind)
            ))
        })?;
        Ok(Self { issuer, resource })
    }
}

fn imds(view: &AssignedView) -> Option<Issuer> {
    let resource_id = view.resource_id.clone()?;
    Some(Issuer::Imds(Expected { resource_id, client_id: view.client_id().cloned() }))
}

fn entra(view: &AssignedView, proof: Proof) -> Option<Issuer> {
    let application = view.application.as_ref()?;
    Some(Issuer::Entra(Principal {
        identity: view.identity.clone(),
        proof,
        tenant: tenant(&application.tenant)?,
        client_id: view.written_client_id.clone()?,
        ad_endpoint: application.ad_endpoint.clone(),
        secret: application.secret.clone(),
    }))
}

/// An id or a domain, in lower case. It becomes a part of a URL.
fn tenant(text: &str) -> Option<String> {
    if let Ok(id) = text.parse::<Guid>() {
        return Some(id.to_string());
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(plain);
    let is_domain = text.len() <= 253 && text.split('.').all(is_part);
    is_domain.then(|| text.to_ascii_lowercase())
}

// === impl Resource ===

impl Resource {
    /// The text as the caller wrote it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Resource {
    type Err = BadResource;

    fn from_str(text: &str) -> Result<Self, BadResource> {
        let plain = |b: u8| b.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&b);
        if (1..=512).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadResource)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::assigned::testing::{application, assigned};
    use crate::testing::CLIENT;
    use crate::watched::ObjectKey;

    const OTHER: &str = "00000000-0000-0000-0000-00000000000b";

    #[test]
    fn identities_that_cannot_be_served_are_refused_with_the_reason() {
        let refused = |mut view: AssignedView, change: fn(&mut AssignedView)| {
            change(&mut view);
            let error = MintKey::new(&view, "r".parse().unwrap()).unwrap_err();
            assert_eq!(error.code, NodeErrorCode::Refused);
            error.message
        };
        let managed = || assigned("db", Some(CLIENT));
        let text = refused(managed(), |view| view.written_client_id = Some(OTHER.parse().unwrap()));
        assert!(text.contains("spec.clientID is not the client id of spec.resourceID"), "{text}");
        let text =
            refused(managed(), |view| view.problem = Some("spec.type 9 is unknown".to_owned()));
        assert!(text.ends_with("spec.type 9 is unknown"), "{text}");
        let text = refused(managed(), |view| view.resource_id = None);
        assert!(text.contains("a field that type 0 needs is missing"), "{text}");
        let app = || application("db", CLIENT);
        let text = refused(app(), |view| view.application = None);
        assert!(text.contains("a field that type 1 needs is missing"), "{text}");
        let text = refused(app(), |view| view.written_client_id = None);
        assert!(text.contains("a field that type 1 needs is missing"), "{text}");
        let text = refused(app(), |view| {
            view.application.as_mut().unwrap().tenant = "../other".to_owned();
        });
        assert!(text.contains("missing or malformed"), "{text}");
    }

    #[test]
    fn whatever_a_token_depends_on_tells_keys_apart() {
        type Change = fn(&mut AssignedView);
        let changes: [Change; 8] = [
            |_| {},
            |view| view.kind = IdentityType::ServicePrincipalCertificate,
            |view| view.identity = ObjectKey::new("other", "db"),
            |view| view.identity = ObjectKey::new("team", "other"),
            |view| view.written_client_id = Some(OTHER.parse().unwrap()),
            |view| view.application.as_mut().unwrap().tenant = "fabrikam.com".to_owned(),
            |view| view.application.as_mut().unwrap().secret = "other".to_owned(),
            |view| view.application.as_mut().unwrap().ad_endpoint = Some("https://x".to_owned()),
        ];
        let keys = changes.map(|change| {
            let mut view = application("db", CLIENT);
            change(&mut view);
            MintKey::new(&view, "r".parse().unwrap()).unwrap()
        });
        let different: HashSet<&MintKey> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
        let mut other_pod = application("db", CLIENT);
        other_pod.pod.uid = "uid-2".to_owned();
        let shared = MintKey::new(&other_pod, "r".parse().unwrap()).unwrap();
        assert!(different.contains(&shared), "pods with one identity share its tokens");
    }

    #[test]
    fn a_tenant_is_an_id_or_a_domain() {
        assert_eq!(tenant("Contoso.onmicrosoft.COM").as_deref(), Some("contoso.onmicrosoft.com"));
        assert_eq!(tenant(&CLIENT.to_uppercase()).as_deref(), Some(CLIENT));
        for bad in ["", ".", "..", "a..b", "a/b", "a?b", "a b", "a%2fb", "ä", &"x".repeat(254)] {
            assert_eq!(tenant(bad), None, "{bad}");
        }
    }

    #[test]
    fn resources_are_plain_and_bounded() {
        for good in ["https://vault.azure.net", "api://x/y.z_?&=", CLIENT, &"x".repeat(512)] {
            assert!(good.parse::<Resource>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\nb", "a\"b", "ä", &"x".repeat(513)] {
            assert_eq!(bad.parse::<Resource>(), Err(BadResource), "{bad}");
        }
    }
}
