//! Kubernetes and Azure as the tests change them and look at them.

use std::time::Duration;

use fake_azure::FakeAzure;
use fake_azure::journal::{Entry, Page};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use crate::control_plane::ControlPlane;
use crate::subject::NAMESPACE;

/// Where users' objects are.
pub(crate) const TEAM: &str = "team";

/// Both, and how to ask them.
pub(crate) struct World<'a> {
    client: Client,
    azure: &'a FakeAzure,
    http: reqwest::Client,
}

impl<'a> World<'a> {
    pub(crate) fn new(plane: &ControlPlane, azure: &'a FakeAzure) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { client: plane.client.clone(), azure, http }
    }

    // === Kubernetes ===

    /// Nothing of an earlier case.
    pub(crate) async fn reset_cluster(&self) {
        let nothing = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let all = [
            ("Pod", TEAM),
            ("AzureIdentityBinding", TEAM),
            ("AzureIdentity", TEAM),
            ("AzureAssignedIdentity", TEAM),
            ("AzureIdentityAttachment", NAMESPACE),
            ("Lease", NAMESPACE),
            ("Node", ""),
        ];
        for (kind, namespace) in all {
            let api = self.api(kind, namespace);
            api.delete_collection(&nothing, &ListParams::default()).await.unwrap();
        }
    }

    /// It may be there from the case before.
    pub(crate) async fn ensure_namespace(&self, name: &str) {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        drop(self.api("Namespace", "").create(&PostParams::default(), &object(body)).await);
    }

    pub(crate) async fn create(&self, kind: &str, namespace: &str, name: &str, rest: Value) {
        let resource = resource(kind);
        let mut body = json!({"apiVersion": resource.api_version, "kind": kind});
        body.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        body["metadata"]["name"] = json!(name);
        let api = self.api(kind, namespace);
        api.create(&PostParams::default(), &object(body)).await.unwrap();
    }

    pub(crate) async fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        drop(self.api(kind, namespace).delete(name, &now).await.unwrap());
    }

    pub(crate) async fn list(&self, kind: &str) -> Vec<Value> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource(kind));
        let list = api.list(&ListParams::default()).await.unwrap();
        list.items.iter().map(|item| serde_json::to_value(item).unwrap()).collect()
    }

    pub(crate) async fn change(&self, kind: &str, namespace: &str, name: &str, patch: &Value) {
        let api = self.api(kind, namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// What the lease says now.
    pub(crate) async fn lease(&self) -> Option<LeaseSpec> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        leases.list(&ListParams::default()).await.unwrap().items.pop()?.spec
    }

    fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (client, resource) = (self.client.clone(), resource(kind));
        if namespace.is_empty() {
            return Api::all_with(client, &resource);
        }
        Api::namespaced_with(client, namespace, &resource)
    }

    // === Azure ===

    /// What a service was asked so far.
    pub(crate) async fn journal(&self, service: &str) -> Vec<Entry> {
        let page = self.look(&format!("journal?service={service}&limit=100000")).await;
        let page: Page = serde_json::from_value(page).unwrap();
        page.entries.iter().map(|entry| Entry::clone(entry)).collect()
    }

    /// A machine or scale set as it is.
    pub(crate) async fn host(&self, name: &str) -> Value {
        let state = self.look("state").await;
        let hosts = state["hosts"].as_array().cloned().unwrap();
        hosts.into_iter().find(|host| host["id"].as_str().unwrap().ends_with(name)).unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) {
        self.send(self.http.post(self.url(path)), body).await;
    }

    pub(crate) async fn set_faults(&self, faults: &Value) {
        self.send(self.http.put(self.url("faults")), faults).await;
    }

    async fn look(&self, path: &str) -> Value {
        self.http.get(self.url(path)).send().await.unwrap().json().await.unwrap()
    }

    async fn send(&self, request: reqwest::RequestBuilder, body: &Value) {
        let response = request.json(body).send().await.unwrap();
        let status = response.status();
        assert!(status.is_success(), "{status}: {}", response.text().await.unwrap());
    }

    fn url(&self, path: &str) -> String {
        format!("{}/_fake/{path}", self.azure.control_url())
    }

    // === the controller ===

    /// A page of a replica's own port, if it is there.
    pub(crate) async fn page(&self, port: u16, path: &str) -> Option<String> {
        let request = self.http.get(format!("http://127.0.0.1:{port}/{path}"));
        let response = request.timeout(Duration::from_secs(1)).send().await.ok()?;
        response.error_for_status().ok()?.text().await.ok()
    }
}

fn object(body: Value) -> DynamicObject {
    serde_json::from_value(body).unwrap()
}

fn resource(kind: &str) -> ApiResource {
    let group = match kind {
        "Pod" | "Node" | "Namespace" => "",
        "Lease" => "coordination.k8s.io",
        _ => "aadpodidentity.k8s.io",
    };
    let gvk = GroupVersionKind::gvk(group, "v1", kind);
    let plural = match kind {
        one if one.ends_with("ty") => format!("{}ies", one.trim_end_matches('y').to_lowercase()),
        other => format!("{}s", other.to_lowercase()),
    };
    ApiResource::from_gvk_with_plural(&gvk, &plural)
}
