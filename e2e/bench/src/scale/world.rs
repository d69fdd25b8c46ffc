//! What is in the cluster: nodes of scale sets, identities with a binding each, and pods that are
//! scheduled already. API objects only; nothing runs.

use anyhow::{Context, Result};
use api::{AzureIdentity, AzureIdentityBinding, labels};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{azure, control_plane};

/// Where everything of users is.
pub(super) const NAMESPACE: &str = "bench";
/// Where the controller is.
pub(super) const SYSTEM: &str = "pod-identity-system";

/// Requests that are made at a time: more than this only waits in the API server.
const IN_FLIGHT: usize = 16;

/// A pod to create.
#[derive(Clone, Debug)]
pub(super) struct NewPod {
    pub(super) name: String,
    pub(super) identity: String,
    pub(super) node: String,
}

/// Makes what every measurement needs.
pub(super) async fn prepare(client: &Client) -> Result<()> {
    for name in [NAMESPACE, SYSTEM] {
        create(client, None, &read::<Namespace>(json!({"metadata": {"name": name}}))?).await?;
    }
    let admins = json!({
        "metadata": {"name": "bench"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": control_plane::CONTROLLERS}],
    });
    create(client, None, &read::<ClusterRoleBinding>(admins)?).await?;
    let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk(&gvk);
    let definitions = Api::<DynamicObject>::all_with(client.clone(), &resource);
    for (_, manifest) in api::crd::manifests() {
        let name = manifest["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        definitions.create(&PostParams::default(), &read(manifest)?).await?;
        wait_for_definition(&definitions, &name).await?;
    }
    Ok(())
}

async fn wait_for_definition(definitions: &Api<DynamicObject>, name: &str) -> Result<()> {
    for _ in 0..200 {
        let found = definitions.get(name).await?;
        let conditions = found.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True") {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    anyhow::bail!("the definition {name} is not served")
}

/// The name of a node.
pub(super) fn node(number: usize) -> String {
    format!("node-{number}")
}

/// Makes `count` nodes, in turn of each of `sets` scale sets.
pub(super) async fn add_nodes(client: &Client, count: usize, sets: usize) -> Result<()> {
    let nodes = (0..count).map(|number| {
        let set = azure::scale_set(number % sets);
        let id = format!("azure://{set}/virtualMachines/{}", number / sets);
        read::<Node>(json!({"metadata": {"name": node(number)}, "spec": {"providerID": id}}))
    });
    create_all(client, None, nodes).await
}

/// Makes identities, each with a binding whose selector is its name.
pub(super) async fn add_identities(client: &Client, names: &[String]) -> Result<()> {
    let identities = names.iter().map(|name| {
        let spec = json!({"type": 0, "resourceID": azure::identity(name)});
        typed::<AzureIdentity>(name, &spec)
    });
    create_all(client, Some(NAMESPACE), identities).await?;
    let bindings = names.iter().map(|name| {
        typed::<AzureIdentityBinding>(name, &json!({"azureIdentity": name, "selector": name}))
    });
    create_all(client, Some(NAMESPACE), bindings).await
}

/// Makes pods; returns when the API server has taken all of them.
pub(super) async fn add_pods(client: &Client, pods: &[NewPod]) -> Result<()> {
    let pods = pods.iter().map(|pod| {
        read::<Pod>(json!({
            "metadata": {"name": pod.name, "labels": {labels::BINDING: pod.identity, "app": "bench"}},
            "spec": {
                "nodeName": pod.node,
                "containers": [{"name": "app", "image": "example.com/app:1"}],
            },
        }))
    });
    create_all(client, Some(NAMESPACE), pods).await
}

/// Deletes pods at once, as a kubelet does when their containers have ended.
pub(super) async fn delete_pods(client: &Client, pods: &[NewPod]) -> Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let params = DeleteParams::default().grace_period(0);
    futures::stream::iter(pods)
        .map(|pod| api.delete(&pod.name, &params))
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|_| futures::future::ok(()))
        .await
        .context("cannot delete the pods")
}

/// Removes everything of users, and what the controller recorded.
pub(super) async fn clear(client: &Client) -> Result<()> {
    let now = DeleteParams::default().grace_period(0);
    let all = ListParams::default();
    Api::<Pod>::namespaced(client.clone(), NAMESPACE).delete_collection(&now, &all).await?;
    Api::<Node>::all(client.clone()).delete_collection(&now, &all).await?;
    delete_all::<AzureIdentityBinding>(client, NAMESPACE).await?;
    delete_all::<AzureIdentity>(client, NAMESPACE).await?;
    delete_all::<api::AzureAssignedIdentity>(client, NAMESPACE).await?;
    delete_all::<api::crd::AzureIdentityAttachment>(client, SYSTEM).await?;
    delete_all::<k8s_openapi::api::events::v1::Event>(client, NAMESPACE).await?;
    delete_all::<k8s_openapi::api::coordination::v1::Lease>(client, SYSTEM).await
}

async fn delete_all<K>(client: &Client, namespace: &str) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api = Api::<K>::namespaced(client.clone(), namespace);
    api.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    Ok(())
}

async fn create_all<K>(
    client: &Client,
    namespace: Option<&str>,
    objects: impl Iterator<Item = Result<K>>,
) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    futures::stream::iter(objects)
        .map(|object| async { create(client, namespace, &object?).await })
        .buffer_unordered(IN_FLIGHT)
        .try_for_each(|()| futures::future::ok(()))
        .await
}

async fn create<K>(client: &Client, namespace: Option<&str>, object: &K) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let url = K::url_path(&(), namespace);
    let body = serde_json::to_vec(object)?;
    let request = kube::core::Request::new(url).create(&PostParams::default(), body)?;
    // The answer is not looked into: this side should cost as little as it can.
    client
        .request_text(request)
        .await
        .with_context(|| format!("cannot create a {}", K::kind(&())))?;
    Ok(())
}

fn typed<K>(name: &str, spec: &Value) -> Result<K>
where
    K: DeserializeOwned + Resource<DynamicType = ()>,
{
    read(json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": {"name": name}, "spec": spec,
    }))
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("an object of the measurement is malformed")
}
