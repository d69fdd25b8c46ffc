//! What a token depends on.

use std::str::FromStr;

use api::node_api::{NodeError, NodeErrorCode};
use api::{FederatedBy, IdentityType};

use super::principal::{Assertor, Principal, Proof};
use super::verify::Expected;
use crate::assigned::AssignedView;
use crate::caller::ServiceAccount;

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
    /// The key for an identity that was selected for a request of a pod with this service account,
    /// or of a process of the node.
    pub(crate) fn new(
        view: &AssignedView,
        resource: Resource,
        account: Option<&ServiceAccount>,
    ) -> Result<Self, NodeError> {
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
            IdentityType::ServicePrincipal => by_secret(view, Proof::Secret),
            IdentityType::ServicePrincipalCertificate => by_secret(view, Proof::Certificate),
            IdentityType::Federated => match (view.federated_by(), account) {
                (Some(FederatedBy::Pod), Some(account)) => {
                    by_assertion(view, Assertor::Pod(account.clone()))
                }
                (Some(FederatedBy::Pod), None) => {
                    return Err(refused(format!(
                        "AzureIdentity {name} has federatedBy: Pod, so only the pod itself can prove who asks: for processes of the node, use federatedBy: NodeAgent"
                    )));
                }
                (Some(FederatedBy::NodeAgent), _) => by_assertion(view, Assertor::NodeAgent),
                (Some(FederatedBy::Unknown(_)) | None, _) => None,
            },
            IdentityType::Unknown(_) => None,
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

// === impl MintKey: assertions ===

impl MintKey {
    /// The service account whose assertion it takes to mint the token, if it takes one of a pod.
    pub(crate) fn account(&self) -> Option<&ServiceAccount> {
        match &self.issuer {
            Issuer::Entra(Principal {
                proof: Proof::Assertion { by: Assertor::Pod(account), .. },
                ..
            }) => Some(account),
            Issuer::Entra(_) | Issuer::Imds(_) => None,
        }
    }
}

fn imds(view: &AssignedView) -> Option<Issuer> {
    let resource_id = view.resource_id.clone()?;
    Some(Issuer::Imds(Expected { resource_id, client_id: view.client_id().cloned() }))
}

fn by_secret(view: &AssignedView, proof: impl Fn(String) -> Proof) -> Option<Issuer> {
    let secret = view.application.as_ref()?.secret.clone()?;
    entra(view, proof(secret))
}

fn by_assertion(view: &AssignedView, by: Assertor) -> Option<Issuer> {
    entra(view, Proof::Assertion { by, resource_id: view.resource_id.clone() })
}

fn entra(view: &AssignedView, proof: Proof) -> Option<Issuer> {
    let application = view.application.as_ref()?;
    Some(Issuer::Entra(Principal {
        identity: view.identity.clone(),
        proof,
        tenant: application.tenant.clone(),
        auxiliary: application.auxiliary.clone(),
        client_id: view.written_client_id.clone()?,
        ad_endpoint: application.ad_endpoint.clone(),
    }))
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
    use crate::assigned::testing::{application, assigned, federated};
    use crate::mint::federation::testing::account;
    use crate::testing::CLIENT;
    use crate::watched::ObjectKey;

    const OTHER: &str = "00000000-0000-0000-0000-00000000000b";

    #[test]
    fn identities_that_cannot_be_served_are_refused_with_the_reason() {
        let refused = |mut view: AssignedView, change: fn(&mut AssignedView)| {
            change(&mut view);
            let error = MintKey::new(&view, "r".parse().unwrap(), None).unwrap_err();
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
        let text = refused(app(), |view| view.application.as_mut().unwrap().secret = None);
        assert!(text.contains("missing or malformed"), "{text}");
        let by_pod = || federated("db", CLIENT, FederatedBy::Pod);
        let text = refused(by_pod(), |_| {});
        assert!(text.ends_with("for processes of the node, use federatedBy: NodeAgent"), "{text}");
        let text = refused(by_pod(), |view| {
            let moon = FederatedBy::Unknown("Moon".to_owned());
            view.application.as_mut().unwrap().federated_by = Some(moon);
        });
        assert!(text.contains("a field that type 3 needs is missing"), "{text}");
    }

    #[test]
    fn whatever_a_token_depends_on_tells_keys_apart() {
        type Change = fn(&mut AssignedView);
        let changes: [Change; 9] = [
            |_| {},
            |view| view.kind = IdentityType::ServicePrincipalCertificate,
            |view| view.identity = ObjectKey::new("other", "db"),
            |view| view.identity = ObjectKey::new("team", "other"),
            |view| view.written_client_id = Some(OTHER.parse().unwrap()),
            |view| view.application.as_mut().unwrap().tenant = "fabrikam.com".parse().unwrap(),
            |view| view.application.as_mut().unwrap().auxiliary = vec!["a.b".parse().unwrap()],
            |view| view.application.as_mut().unwrap().secret = Some("other".to_owned()),
            |view| view.application.as_mut().unwrap().ad_endpoint = Some("https://x".to_owned()),
        ];
        let keys = changes.map(|change| {
            let mut view = application("db", CLIENT);
            change(&mut view);
            MintKey::new(&view, "r".parse().unwrap(), None).unwrap()
        });
        let different: HashSet<&MintKey> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
        let mut other_pod = application("db", CLIENT);
        other_pod.pod.uid = "uid-2".to_owned();
        let shared = MintKey::new(&other_pod, "r".parse().unwrap(), None).unwrap();
        assert!(different.contains(&shared), "pods with one identity share its tokens");
    }

    #[test]
    fn only_pods_of_one_service_account_share_what_was_minted_for_it() {
        let key = |by, account: Option<&ServiceAccount>| {
            MintKey::new(&federated("db", CLIENT, by), "r".parse().unwrap(), account).unwrap()
        };
        let (web, db) = (account("web"), account("db"));
        let elsewhere = ServiceAccount { namespace: "other".to_owned(), ..web.clone() };
        let by_pods = [&web, &db, &elsewhere].map(|account| key(FederatedBy::Pod, Some(account)));
        let by_agent = key(FederatedBy::NodeAgent, Some(&web));
        let different: HashSet<&MintKey> = by_pods.iter().chain([&by_agent]).collect();
        assert_eq!(different.len(), 4);
        assert_eq!(by_pods[0], key(FederatedBy::Pod, Some(&account("web"))));
        assert_eq!(by_pods[0].account(), Some(&web));
        for account in [None, Some(&db)] {
            assert_eq!(by_agent, key(FederatedBy::NodeAgent, account), "it is for all pods");
        }
        assert_eq!(by_agent.account(), None);
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
