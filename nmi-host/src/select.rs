//! Which of a pod's identities a request means.
//!
//! Pure. What is not assigned or not in scope is never the answer, and no failure falls back to
//! another identity.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::matching::Scope;
use api::node_api::{NodeError, NodeErrorCode};
use api::{IdentitySelector, IdentityType};

use crate::assigned::AssignedView;

/// Why a request means none of the pod's identities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SelectError {
    /// No binding selects the pod.
    #[error(
        "no identity is bound to this pod: check that its label aadpodidbinding equals the selector of an AzureIdentityBinding"
    )]
    Unbound,
    /// The identity is bound, but not attached to the host yet.
    #[error("the identity is bound to this pod but not assigned yet{}", reason(.0))]
    Pending(Option<String>),
    /// The pod has identities, but not this one. The text is constant: it must not tell what
    /// others have.
    #[error("Identity not found")]
    NotFound,
    /// Several identities, and the request names none.
    #[error(
        "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request"
    )]
    Ambiguous,
}

/// How a selector relates to an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    /// The identity's ids are not known before it is attached.
    NotKnownYet,
}

/// Picks the identity that `selector` names among those of a pod of `pod_namespace`, or the only
/// one if it names none.
pub(crate) fn select<'a>(
    views: &'a [Arc<AssignedView>],
    selector: Option<&IdentitySelector>,
    pod_namespace: &str,
    scope: Scope,
) -> Result<&'a Arc<AssignedView>, SelectError> {
    let bound: Vec<_> = bound(views, pod_namespace, scope).collect();
    if bound.is_empty() {
        return Err(SelectError::Unbound);
    }
    let Some(selector) = selector else {
        return only(&bound);
    };
    let answering = |answer| -> Vec<&'a Arc<AssignedView>> {
        bound.iter().copied().filter(|view| view.answers_to(selector) == answer).collect()
    };
    let (named, unknown) = (answering(Answer::Yes), answering(Answer::NotKnownYet));
    match best(&named) {
        Some(view) => Ok(view),
        None if named.is_empty() && unknown.is_empty() => Err(SelectError::NotFound),
        None => Err(pending(named.first().or(unknown.first()).copied())),
    }
}

/// The identities that count as the pod's, assigned or not.
pub(crate) fn bound<'a>(
    views: &'a [Arc<AssignedView>],
    pod_namespace: &str,
    scope: Scope,
) -> impl Iterator<Item = &'a Arc<AssignedView>> {
    views.iter().filter(move |view| {
        view.is_bound() && view.pod.namespace == pod_namespace && view.in_scope(scope)
    })
}

/// Without a selector there must be one Azure identity; two objects may name the same one.
fn only<'a>(bound: &[&'a Arc<AssignedView>]) -> Result<&'a Arc<AssignedView>, SelectError> {
    let distinct: BTreeSet<_> = bound.iter().map(|view| view.azure_name()).collect();
    if distinct.len() > 1 {
        return Err(SelectError::Ambiguous);
    }
    best(bound).ok_or_else(|| pending(bound.first().copied()))
}

/// Among several objects for one identity: one that can be used goes before one that cannot, and
/// then the first by name, so that the answer depends on no order.
fn best<'a>(views: &[&'a Arc<AssignedView>]) -> Option<&'a Arc<AssignedView>> {
    views.iter().filter(|view| view.is_assigned()).copied().min_by_key(|view| {
        let unusable = view.problem.is_some() || view.contradicts_itself();
        // Type 3 says itself which managed identity it is; type 0 was attached as such.
        let claims_only = view.kind == IdentityType::Federated;
        (unusable, claims_only, view.identity.clone())
    })
}

fn pending(view: Option<&Arc<AssignedView>>) -> SelectError {
    SelectError::Pending(view.and_then(|view| view.message.clone()))
}

fn reason(message: &Option<String>) -> String {
    message.as_ref().map(|message| format!(": {message}")).unwrap_or_default()
}

// === impl AssignedView ===

impl AssignedView {
    fn answers_to(&self, selector: &IdentitySelector) -> Answer {
        let yes = match selector {
            IdentitySelector::ClientId(id) => {
                self.written_client_id.as_ref() == Some(id)
                    || self.reported_client_id.as_ref() == Some(id)
            }
            IdentitySelector::ObjectId(id) => self.object_id.as_ref() == Some(id),
            IdentitySelector::ResourceId(id) => self.resource_id.as_ref() == Some(id),
        };
        let to_be_known = !self.is_assigned()
            && match selector {
                IdentitySelector::ClientId(_) => self.client_id().is_none(),
                IdentitySelector::ObjectId(_) => {
                    self.kind == IdentityType::UserAssigned && self.object_id.is_none()
                }
                IdentitySelector::ResourceId(_) => false,
            };
        match (yes, to_be_known) {
            (true, _) => Answer::Yes,
            (false, true) => Answer::NotKnownYet,
            (false, false) => Answer::No,
        }
    }

    /// What Azure knows the identity by, or its own name where it has no such id.
    fn azure_name(&self) -> String {
        match &self.resource_id {
            Some(id) if self.kind == IdentityType::UserAssigned => id.arm_id().folded().to_owned(),
            _ => self.identity.to_string(),
        }
    }
}

// === impl SelectError ===

impl From<SelectError> for NodeError {
    fn from(error: SelectError) -> Self {
        let code = match error {
            SelectError::Unbound | SelectError::Pending(_) => NodeErrorCode::NotAssigned,
            SelectError::NotFound => NodeErrorCode::IdentityNotFound,
            SelectError::Ambiguous => NodeErrorCode::AmbiguousIdentity,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use api::{AssignedState, FederatedBy};

    use super::*;
    use crate::assigned::testing::{assigned, federated, resource_id};

    const A: &str = "00000000-0000-0000-0000-00000000000a";
    const B: &str = "00000000-0000-0000-0000-00000000000b";

    fn created(name: &str, client_id: Option<&str>) -> AssignedView {
        AssignedView { state: AssignedState::Created, ..assigned(name, client_id) }
    }

    fn client(id: &str) -> Option<IdentitySelector> {
        Some(IdentitySelector::ClientId(id.to_uppercase().parse().unwrap()))
    }

    fn object(id: &str) -> Option<IdentitySelector> {
        Some(IdentitySelector::ObjectId(id.parse().unwrap()))
    }

    fn resource(name: &str) -> Option<IdentitySelector> {
        let id = resource_id(name).as_str().to_uppercase();
        Some(IdentitySelector::ResourceId(id.parse().unwrap()))
    }

    /// The name of the selected identity, or the kind of error.
    fn selected(views: &[AssignedView], selector: Option<&IdentitySelector>) -> String {
        let views: Vec<_> = views.iter().cloned().map(Arc::new).collect();
        match select(&views, selector, "team", Scope::Cluster) {
            Ok(view) => view.identity.name.clone(),
            Err(SelectError::Unbound) => "unbound".to_owned(),
            Err(SelectError::Pending(_)) => "pending".to_owned(),
            Err(SelectError::NotFound) => "not found".to_owned(),
            Err(SelectError::Ambiguous) => "ambiguous".to_owned(),
        }
    }

    #[test]
    fn without_a_selector_there_must_be_one() {
        let unassigned = AssignedView { state: AssignedState::Unassigned, ..assigned("c", None) };
        let mut twin = assigned("a", Some(A));
        twin.identity.name = "a-again".to_owned();
        let cases: [(&[AssignedView], &str); 7] = [
            (&[], "unbound"),
            (&[assigned("a", Some(A))], "a"),
            (&[created("a", Some(A))], "pending"),
            (&[assigned("a", Some(A)), assigned("b", Some(B))], "ambiguous"),
            // The answer must not change when the second one is attached.
            (&[assigned("a", Some(A)), created("b", Some(B))], "ambiguous"),
            (&[assigned("a", Some(A)), unassigned], "a"),
            (&[twin, assigned("a", Some(A))], "a"),
        ];
        for (views, expected) in cases {
            assert_eq!(selected(views, None), expected, "{views:?}");
        }
    }

    #[test]
    fn a_selector_names_exactly_one_or_nothing() {
        let mut b = assigned("b", Some(B));
        b.object_id = Some(A.parse().unwrap());
        let views = [assigned("a", Some(A)), b, created("c", None)];
        let cases = [
            (client(A), "a"),
            (client(B), "b"),
            // c's client id will be known when it is attached, and may be this one
            (client("00000000-0000-0000-0000-0000000000ff"), "pending"),
            (object(A), "b"),
            (object(B), "pending"),
            (resource("a"), "a"),
            (resource("c"), "pending"),
            (resource("d"), "not found"),
        ];
        for (selector, expected) in cases {
            assert_eq!(selected(&views, selector.as_ref()), expected, "{selector:?}");
        }
        let known = &views[..2];
        assert_eq!(
            selected(known, client("00000000-0000-0000-0000-0000000000ff").as_ref()),
            "not found"
        );
        assert_eq!(selected(known, object(B).as_ref()), "not found");
        assert_eq!(selected(&[], client(A).as_ref()), "unbound");
    }

    #[test]
    fn the_authors_client_id_selects_too_but_after_a_sound_one() {
        let mut liar = assigned("a", Some(A));
        liar.written_client_id = Some(B.parse().unwrap());
        assert_eq!(
            selected(&[liar.clone()], client(B).as_ref()),
            "a",
            "minting says what is wrong with it"
        );
        assert_eq!(selected(&[liar, assigned("b", Some(B))], client(B).as_ref()), "b");
    }

    #[test]
    fn a_federated_identity_answers_to_the_name_that_its_author_gave_it() {
        let mut view = federated("z", A, FederatedBy::Pod);
        view.resource_id = Some(resource_id("db"));
        for selector in [None, client(A), resource("db")] {
            assert_eq!(selected(&[view.clone()], selector.as_ref()), "z", "{selector:?}");
        }
        // Whoever calls his identity by another's name does not take its place.
        view.identity.name = "a".to_owned();
        let both = [view, assigned("db", Some(B))];
        assert_eq!(selected(&both, resource("db").as_ref()), "db");
        assert_eq!(selected(&both, client(A).as_ref()), "a");
        assert_eq!(selected(&both, None), "ambiguous");
    }

    #[test]
    fn what_is_out_of_scope_does_not_exist() {
        let mut foreign = assigned("a", Some(A));
        foreign.identity.namespace = "ids".to_owned();
        let views = [Arc::new(foreign.clone())];
        assert!(select(&views, None, "team", Scope::Cluster).is_ok());
        assert_eq!(select(&views, None, "team", Scope::Namespaced), Err(SelectError::Unbound));
        assert_eq!(select(&views, None, "other", Scope::Cluster), Err(SelectError::Unbound));
        foreign.namespaced = true;
        let views = [Arc::new(foreign)];
        let selector = client(A);
        let selected = select(&views, selector.as_ref(), "team", Scope::Cluster);
        assert_eq!(selected, Err(SelectError::Unbound));
    }

    #[test]
    fn a_pending_identity_says_why() {
        let mut view = created("a", Some(A));
        view.message = Some("the VM is being updated".to_owned());
        let views = [Arc::new(view)];
        let error = select(&views, None, "team", Scope::Cluster).unwrap_err();
        assert!(error.to_string().ends_with("not assigned yet: the VM is being updated"));
        assert_eq!(NodeError::from(error).code, NodeErrorCode::NotAssigned);
    }
}
