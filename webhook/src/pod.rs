//! Reading a pod that is kept as JSON, so that fields unknown here are never lost.

use serde_json::Value;

/// A pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodView<'a>(&'a Value);

/// A container of a pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContainerView<'a> {
    /// Which list it is in.
    pub(crate) kind: ContainerKind,
    value: &'a Value,
}

/// The lists of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerKind {
    /// `initContainers`, which holds native sidecars too.
    Init,
    /// `containers`.
    App,
    /// `ephemeralContainers`.
    Ephemeral,
}

// === impl PodView ===

impl<'a> PodView<'a> {
    /// Views any JSON value; what is not a pod has no containers, labels or flags.
    pub(crate) fn new(pod: &'a Value) -> Self {
        Self(pod)
    }

    /// The value of a label.
    pub(crate) fn label(self, key: &str) -> Option<&'a str> {
        self.0["metadata"]["labels"][key].as_str()
    }

    /// The value of an annotation.
    pub(crate) fn annotation(self, key: &str) -> Option<&'a str> {
        self.0["metadata"]["annotations"][key].as_str()
    }

    /// The keys of all annotations.
    pub(crate) fn annotation_keys(self) -> impl Iterator<Item = &'a str> {
        let annotations = self.0["metadata"]["annotations"].as_object();
        annotations.into_iter().flat_map(|map| map.keys().map(String::as_str))
    }

    /// The name, or what it will be generated from.
    pub(crate) fn name(self) -> &'a str {
        let metadata = &self.0["metadata"];
        metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or_default()
    }

    /// A field of the spec.
    pub(crate) fn spec(self, field: &str) -> &'a Value {
        &self.0["spec"][field]
    }

    /// Whether a flag of the spec is set.
    pub(crate) fn flag(self, field: &str) -> bool {
        self.spec(field).as_bool().unwrap_or(false)
    }

    /// All containers, in the order of their lists.
    pub(crate) fn containers(self) -> impl Iterator<Item = ContainerView<'a>> {
        [
            (ContainerKind::Init, "initContainers"),
            (ContainerKind::App, "containers"),
            (ContainerKind::Ephemeral, "ephemeralContainers"),
        ]
        .into_iter()
        .flat_map(move |(kind, field)| {
            items(self.spec(field)).map(move |value| ContainerView { kind, value })
        })
    }

    /// The init containers, in order.
    pub(crate) fn init_containers(self) -> impl Iterator<Item = ContainerView<'a>> {
        self.containers().take_while(|container| container.kind == ContainerKind::Init)
    }

    /// The volumes.
    pub(crate) fn volumes(self) -> impl Iterator<Item = &'a Value> {
        items(self.spec("volumes"))
    }
}

// === impl ContainerView ===

impl<'a> ContainerView<'a> {
    /// The name.
    pub(crate) fn name(self) -> &'a str {
        self.value["name"].as_str().unwrap_or_default()
    }

    /// A field.
    pub(crate) fn field(self, field: &str) -> &'a Value {
        &self.value[field]
    }

    /// Whether it is privileged.
    pub(crate) fn privileged(self) -> bool {
        self.value["securityContext"]["privileged"].as_bool().unwrap_or(false)
    }

    /// The capabilities that it adds, in upper case and without `CAP_`: runtimes take all spellings.
    pub(crate) fn added_capabilities(self) -> impl Iterator<Item = String> {
        items(&self.value["securityContext"]["capabilities"]["add"])
            .filter_map(Value::as_str)
            .map(|name| name.trim().to_ascii_uppercase())
            .map(|name| name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned))
    }

    /// The TCP ports that it says it listens on.
    pub(crate) fn tcp_ports(self) -> impl Iterator<Item = u64> {
        items(&self.value["ports"])
            .filter(|port| matches!(port["protocol"].as_str(), None | Some("TCP")))
            .filter_map(|port| port["containerPort"].as_u64())
    }

    /// Whether it mounts a volume.
    pub(crate) fn mounts(self, volume: &str) -> bool {
        items(&self.value["volumeMounts"]).any(|mount| mount["name"].as_str() == Some(volume))
    }

    /// The entry of an environment variable.
    pub(crate) fn env(self, name: &str) -> Option<&'a Value> {
        items(&self.value["env"]).find(|entry| entry["name"].as_str() == Some(name))
    }

    /// The arguments.
    pub(crate) fn args(self) -> impl Iterator<Item = &'a str> {
        items(&self.value["args"]).filter_map(Value::as_str)
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn capabilities_are_read_in_every_spelling() {
        let pod = json!({"spec": {"containers": [
            {"securityContext": {"capabilities": {"add": ["cap_net_admin", "SYS_ADMIN", "All"]}}}
        ]}});
        let container = PodView::new(&pod).containers().next().unwrap();
        let names: Vec<_> = container.added_capabilities().collect();
        assert_eq!(names, ["NET_ADMIN", "SYS_ADMIN", "ALL"]);
    }

    #[test]
    fn a_port_without_protocol_is_tcp_and_others_do_not_count() {
        let pod = json!({"spec": {"containers": [{"ports": [
            {"containerPort": 1}, {"containerPort": 2, "protocol": "TCP"},
            {"containerPort": 3, "protocol": "UDP"}, {"containerPort": "4"}
        ]}]}});
        let container = PodView::new(&pod).containers().next().unwrap();
        assert_eq!(container.tcp_ports().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_is_not_a_pod_has_nothing() {
        for value in
            [json!(null), json!([]), json!({"spec": 1}), json!({"spec": {"containers": 3}})]
        {
            let pod = PodView::new(&value);
            assert_eq!(pod.containers().count() + pod.volumes().count(), 0, "{value}");
            assert_eq!(pod.label("x"), None);
            assert!(!pod.flag("hostNetwork"));
        }
    }
}
