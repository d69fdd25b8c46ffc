//! What is believed of one `AzureAssignedIdentity`, and which of them are not believed at all.

use api::matching::Scope;
use api::{
    AssignedState, AzureAssignedIdentity, AzureIdentity, AzureIdentitySpec, FederatedBy, Guid,
    IdentityId, IdentityType, Tenant,
};

use crate::pods::PodRef;
use crate::watched::ObjectKey;

/// An identity that is assigned, or about to be, to a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AssignedView {
    /// The pod.
    pub(crate) pod: PodRef,
    /// How far the assignment is.
    pub(crate) state: AssignedState,
    /// Why it is not further, for people.
    pub(crate) message: Option<String>,
    /// The `AzureIdentity`.
    pub(crate) identity: ObjectKey,
    /// Whether its annotation limits it to pods of its own namespace.
    pub(crate) namespaced: bool,
    /// How its tokens are obtained.
    pub(crate) kind: IdentityType,
    /// Type 0: the managed identity. Type 3: what its author calls it, if anything.
    pub(crate) resource_id: Option<IdentityId>,
    /// `spec.clientID`: what the identity's author says.
    pub(crate) written_client_id: Option<Guid>,
    /// The client id that ARM reported for the attached identity.
    pub(crate) reported_client_id: Option<Guid>,
    /// The object id that ARM reported.
    pub(crate) object_id: Option<Guid>,
    /// Types 1, 2 and 3: the application.
    pub(crate) application: Option<Application>,
    /// Why the identity cannot be used as it is written.
    pub(crate) problem: Option<String>,
}

/// Where an application is known, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Application {
    /// `spec.tenantID`.
    pub(crate) tenant: Tenant,
    /// Type 1: `spec.auxiliaryTenantIDs`.
    pub(crate) auxiliary: Vec<Tenant>,
    /// `spec.adEndpoint`.
    pub(crate) ad_endpoint: Option<String>,
    /// Types 1 and 2: `spec.clientPassword.name`; the Secret is in the identity's own namespace.
    pub(crate) secret: Option<String>,
    /// Type 3: `spec.federatedBy`.
    pub(crate) federated_by: Option<FederatedBy>,
}

/// Why an object is ignored. Whoever can write one must not gain by it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Distrust {
    /// The object is not in its pod's namespace.
    #[error("it assigns an identity to a pod of namespace {0:?}, but is not in that namespace")]
    ForeignNamespace(String),
    /// Label and spec name different nodes.
    #[error("its label selects this node, but spec.nodename is {0:?}")]
    OtherNode(String),
    /// The pod's uid is missing.
    #[error("spec.podUID is empty: objects of aad-pod-identity are replaced by the controller")]
    NoPodUid,
    /// The identity is missing.
    #[error("spec.azureIdentityRef is missing or has no name")]
    NoIdentity,
}

// === impl AssignedView ===

impl AssignedView {
    /// Reads an object that the label names as one of `node`'s.
    pub(crate) fn read(object: &AzureAssignedIdentity, node: &str) -> Result<Self, Distrust> {
        let spec = &object.spec;
        if object.metadata.namespace.as_deref() != Some(spec.pod_namespace.as_str()) {
            return Err(Distrust::ForeignNamespace(spec.pod_namespace.clone()));
        }
        if spec.node_name != node {
            return Err(Distrust::OtherNode(spec.node_name.clone()));
        }
        if spec.pod_uid.is_empty() || spec.pod.is_empty() {
            return Err(Distrust::NoPodUid);
        }
        let identity = spec.identity.as_deref().ok_or(Distrust::NoIdentity)?;
        let key = ObjectKey::of(identity);
        if key.name.is_empty() || key.namespace.is_empty() {
            return Err(Distrust::NoIdentity);
        }
        Ok(Self::assembled(object, identity, key))
    }

    fn assembled(object: &AzureAssignedIdentity, identity: &AzureIdentity, key: ObjectKey) -> Self {
        let status = object.status.as_ref();
        let reported = |text: Option<&String>| text.and_then(|text| text.parse::<Guid>().ok());
        Self {
            pod: PodRef {
                namespace: object.spec.pod_namespace.clone(),
                name: object.spec.pod.clone(),
                uid: object.spec.pod_uid.clone(),
            },
            state: object.state(),
            message: status.and_then(|status| status.message.clone()),
            identity: key,
            namespaced: identity.is_namespaced(),
            kind: identity.spec.kind,
            resource_id: identity.spec.named_resource_id().ok().flatten(),
            written_client_id: identity.spec.client_id().ok().flatten(),
            reported_client_id: reported(status.and_then(|status| status.client_id.as_ref())),
            object_id: reported(status.and_then(|status| status.object_id.as_ref())),
            application: Application::read(&identity.spec),
            problem: identity.validate().err().map(|problem| problem.to_string()),
        }
    }

    /// Whether the pod may have this identity, asked once more although the controller asked:
    /// it may run with other settings, or be the older of two versions.
    pub(crate) fn in_scope(&self, scope: Scope) -> bool {
        let namespaced = self.namespaced || scope == Scope::Namespaced;
        !namespaced || self.identity.namespace == self.pod.namespace
    }

    /// Whether it counts as one of the pod's identities, assigned or not.
    pub(crate) fn is_bound(&self) -> bool {
        match self.state {
            AssignedState::Created | AssignedState::Assigned => true,
            AssignedState::Unassigned => false,
        }
    }

    /// Whether tokens can be had.
    pub(crate) fn is_assigned(&self) -> bool {
        self.state == AssignedState::Assigned
    }

    /// The client id: ARM's word goes before the author's.
    pub(crate) fn client_id(&self) -> Option<&Guid> {
        self.reported_client_id.as_ref().or(self.written_client_id.as_ref())
    }

    /// Type 3: whose assertion Entra is shown.
    pub(crate) fn federated_by(&self) -> Option<&FederatedBy> {
        self.application.as_ref()?.federated_by.as_ref()
    }

    /// Whether author and ARM name different client ids: the resource id may be somebody's own
    /// and the client id another's, so neither may be served.
    pub(crate) fn contradicts_itself(&self) -> bool {
        match (&self.written_client_id, &self.reported_client_id) {
            (Some(written), Some(reported)) => written != reported,
            _ => false,
        }
    }
}

// === impl Application ===

impl Application {
    fn read(spec: &AzureIdentitySpec) -> Option<Self> {
        let given = |text: Option<&String>| text.filter(|text| !text.is_empty()).cloned();
        let secret = spec.client_password.as_ref().and_then(|secret| secret.name.as_ref());
        Some(Self {
            tenant: spec.tenant().ok().flatten()?,
            auxiliary: spec.auxiliary_tenants().ok()?,
            ad_endpoint: given(spec.ad_endpoint.as_ref()),
            secret: given(secret),
            federated_by: spec.federated_by().ok()?.cloned(),
        })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A type 0 identity `team/<name>` that is assigned to the pod `team/web-0` (uid `uid-1`).
    pub(crate) fn assigned(name: &str, client_id: Option<&str>) -> AssignedView {
        AssignedView {
            pod: pod(),
            state: AssignedState::Assigned,
            message: None,
            identity: ObjectKey::new("team", name),
            namespaced: false,
            kind: IdentityType::UserAssigned,
            resource_id: Some(resource_id(name)),
            written_client_id: None,
            reported_client_id: client_id.map(|text| text.parse().unwrap()),
            object_id: None,
            application: None,
            problem: None,
        }
    }

    /// A type 1 identity `team/<name>` with the Secret of that name, assigned to the same pod.
    pub(crate) fn application(name: &str, client_id: &str) -> AssignedView {
        AssignedView {
            kind: IdentityType::ServicePrincipal,
            resource_id: None,
            written_client_id: Some(client_id.parse().unwrap()),
            application: Some(Application {
                tenant: "contoso.com".parse().unwrap(),
                auxiliary: Vec::new(),
                ad_endpoint: None,
                secret: Some(name.to_owned()),
                federated_by: None,
            }),
            ..assigned(name, None)
        }
    }

    /// A type 3 identity `team/<name>`, assigned to the same pod.
    pub(crate) fn federated(name: &str, client_id: &str, by: FederatedBy) -> AssignedView {
        let mut view = application(name, client_id);
        view.kind = IdentityType::Federated;
        if let Some(application) = &mut view.application {
            application.secret = None;
            application.federated_by = Some(by);
        }
        view
    }

    pub(crate) fn pod() -> PodRef {
        PodRef { namespace: "team".to_owned(), name: "web-0".to_owned(), uid: "uid-1".to_owned() }
    }

    pub(crate) fn resource_id(name: &str) -> IdentityId {
        let group = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity";
        format!("{group}/userAssignedIdentities/{name}").parse().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use api::Slim;
    use serde_json::json;

    use super::*;

    const CLIENT: &str = "00000000-0000-0000-0000-00000000000a";

    fn object() -> serde_json::Value {
        json!({
            "apiVersion": "aadpodidentity.k8s.io/v1",
            "kind": "AzureAssignedIdentity",
            "metadata": {"namespace": "team", "name": "web-0-x"},
            "spec": {
                "pod": "web-0", "podNamespace": "team", "podUID": "uid-1", "nodename": "node-1",
                "azureIdentityRef": {
                    "metadata": {"namespace": "ids", "name": "db"},
                    "spec": {
                        "resourceID": testing::resource_id("db").as_str(), "clientID": CLIENT
                    }
                }
            },
            "status": {"status": "Assigned", "clientID": CLIENT.to_uppercase(), "objectID": "?"}
        })
    }

    fn read(value: serde_json::Value) -> Result<AssignedView, Distrust> {
        let Slim(object) = serde_json::from_value(value).unwrap();
        AssignedView::read(&object, "node-1")
    }

    #[test]
    fn the_view_holds_what_arm_and_author_say() {
        let view = read(object()).unwrap();
        assert_eq!(view.pod, testing::pod());
        assert!(view.is_assigned() && view.is_bound() && !view.contradicts_itself());
        assert_eq!(view.identity, ObjectKey::new("ids", "db"));
        assert_eq!(view.resource_id, Some(testing::resource_id("db")));
        assert_eq!(view.client_id().unwrap().as_str(), CLIENT);
        assert_eq!(view.object_id, None, "what is no GUID names nothing");
        assert_eq!((view.application, view.problem), (None, None));
    }

    #[test]
    fn what_nobody_looks_at_is_not_read() {
        let mut rich = object();
        rich["metadata"]["managedFields"] = json!("odd");
        rich["metadata"]["ownerReferences"] = json!([{"kind": "Pod", "name": "web-0"}]);
        rich["new"] = json!({});
        assert_eq!(read(rich), read(object()));
    }

    #[test]
    fn the_view_holds_where_an_applications_credential_is() {
        let mut object = object();
        object["spec"]["azureIdentityRef"]["spec"] = json!({
            "type": 1, "clientID": CLIENT, "tenantID": "contoso.com", "adEndpoint": "",
            "clientPassword": {"name": "s", "namespace": "ids"}, "auxiliaryTenantIDs": [CLIENT]
        });
        let view = read(object.clone()).unwrap();
        let expected = Application {
            tenant: "contoso.com".parse().unwrap(),
            auxiliary: vec![CLIENT.parse().unwrap()],
            ad_endpoint: None,
            secret: Some("s".to_owned()),
            federated_by: None,
        };
        assert_eq!((view.application, view.problem), (Some(expected), None));
        let secret = &mut object["spec"]["azureIdentityRef"]["spec"]["clientPassword"];
        secret["namespace"] = json!("victim");
        let problem = read(object).unwrap().problem.unwrap();
        assert!(problem.contains("must be in the identity's own namespace"), "{problem}");
    }

    #[test]
    fn the_view_holds_who_speaks_for_a_federated_identity() {
        let mut object = object();
        object["spec"]["azureIdentityRef"]["spec"] = json!({
            "type": 3, "clientID": CLIENT, "tenantID": "contoso.com", "federatedBy": "Pod",
            "resourceID": testing::resource_id("db").as_str()
        });
        let view = read(object.clone()).unwrap();
        assert_eq!(
            view.resource_id,
            Some(testing::resource_id("db")),
            "applications know it by it"
        );
        let application = view.application.unwrap();
        assert_eq!((application.secret, application.federated_by), (None, Some(FederatedBy::Pod)));
        object["spec"]["azureIdentityRef"]["spec"]["federatedBy"] = json!("Moon");
        let view = read(object).unwrap();
        assert_eq!(view.application, None);
        assert!(view.problem.unwrap().contains("use Pod or NodeAgent"));
    }

    #[test]
    fn objects_that_could_take_an_identity_are_ignored() {
        type Change = fn(&mut serde_json::Value);
        let cases: [(Change, Distrust); 5] = [
            (
                |o| o["spec"]["podNamespace"] = json!("victim"),
                Distrust::ForeignNamespace("victim".to_owned()),
            ),
            (|o| o["spec"]["nodename"] = json!("other"), Distrust::OtherNode("other".to_owned())),
            (|o| o["spec"]["podUID"] = json!(""), Distrust::NoPodUid),
            (|o| o["spec"]["azureIdentityRef"] = json!(null), Distrust::NoIdentity),
            (
                |o| o["spec"]["azureIdentityRef"]["metadata"]["namespace"] = json!(null),
                Distrust::NoIdentity,
            ),
        ];
        for (change, expected) in cases {
            let mut object = object();
            change(&mut object);
            assert_eq!(read(object), Err(expected));
        }
    }

    #[test]
    fn namespaced_identities_are_for_their_own_namespace() {
        let cases = [
            (false, Scope::Cluster, "ids", true),
            (true, Scope::Cluster, "ids", false),
            (true, Scope::Cluster, "team", true),
            (false, Scope::Namespaced, "ids", false),
            (false, Scope::Namespaced, "team", true),
        ];
        for (namespaced, scope, namespace, expected) in cases {
            let mut view = testing::assigned("db", None);
            view.namespaced = namespaced;
            view.identity.namespace = namespace.to_owned();
            assert_eq!(view.in_scope(scope), expected, "{namespaced} {scope:?} {namespace}");
        }
    }
}
