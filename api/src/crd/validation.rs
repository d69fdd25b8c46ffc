//! The CEL rules and lengths that the API server checks: bad objects are refused at `kubectl apply`.

use serde_json::{Value, json};

const ARM_ID: &str = "(?i)^/subscriptions/[^/]+/resourcegroups/[^/]+/providers/microsoft[.]managedidentity/userassignedidentities/[A-Za-z0-9_.()-]+$";
const GUID: &str = "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$";
const TENANT: &str = "^[A-Za-z0-9.-]+$";

/// A field in its present spelling and those of the oldest releases, which are still read.
pub(super) struct Spelling {
    pub(super) now: &'static str,
    pub(super) once: &'static [&'static str],
    max_length: Option<u32>,
}

/// Fields of `AzureIdentity.spec` that were capitalised once.
pub(super) const IDENTITY: &[Spelling] = &[
    Spelling { now: "resourceID", once: &["ResourceID"], max_length: Some(512) },
    Spelling { now: "clientID", once: &["ClientID"], max_length: Some(64) },
    Spelling { now: "clientPassword", once: &["ClientPassword"], max_length: None },
    Spelling { now: "tenantID", once: &["TenantID"], max_length: Some(253) },
    Spelling { now: "auxiliaryTenantIDs", once: &["AuxiliaryTenantIDs"], max_length: None },
    Spelling { now: "adEndpoint", once: &["ADEndpoint", "AdEndpoint"], max_length: Some(512) },
    Spelling {
        now: "adResourceID",
        once: &["ADResourceID", "AdResourceID"],
        max_length: Some(512),
    },
];

/// Fields of `AzureIdentityBinding.spec` that were capitalised once.
pub(super) const BINDING: &[Spelling] = &[
    Spelling { now: "azureIdentity", once: &["AzureIdentity"], max_length: Some(253) },
    Spelling { now: "selector", once: &["Selector"], max_length: Some(63) },
    Spelling { now: "weight", once: &["Weight"], max_length: None },
];

/// Fields of `AzurePodIdentityException.spec` that were capitalised once.
pub(super) const EXCEPTION: &[Spelling] =
    &[Spelling { now: "podLabels", once: &["PodLabels"], max_length: None }];

/// Adds the old spellings to a spec's properties (they would be pruned otherwise), the lengths
/// that keep the rules cheap, and a rule against using two spellings at once.
pub(super) fn add_spellings(spec: &mut Value, spellings: &[Spelling]) {
    let mut rules = Vec::new();
    for Spelling { now, once, max_length } in spellings {
        let mut schema = spec["properties"][now].clone();
        if let Some(max) = max_length {
            schema["maxLength"] = json!(max);
        }
        spec["properties"][now] = schema.clone();
        for old in *once {
            let mut schema = schema.clone();
            schema["description"] = json!(format!("Old spelling of {now}."));
            spec["properties"][old] = schema;
        }
        let all: Vec<String> = std::iter::once(now)
            .chain(once.iter())
            .map(|name| format!("(has(self.{name}) ? 1 : 0)"))
            .collect();
        rules.push(json!({
            "rule": format!("{} <= 1", all.join(" + ")),
            "message": format!("set {now} once, in one spelling"),
        }));
    }
    extend_rules(spec, rules);
}

/// What an `AzureIdentity` must fulfil.
pub(super) fn add_identity_rules(spec: &mut Value) {
    let resource_id = either("resourceID", "ResourceID");
    let client_id = either("clientID", "ClientID");
    let tenant_id = either("tenantID", "TenantID");
    let endpoint = format!(
        "(has(self.adEndpoint) ? self.adEndpoint : (has(self.ADEndpoint) ? self.ADEndpoint : {}))",
        "(has(self.AdEndpoint) ? self.AdEndpoint : '')"
    );
    let auxiliary = format!(
        "(has(self.auxiliaryTenantIDs) ? self.auxiliaryTenantIDs : {})",
        "(has(self.AuxiliaryTenantIDs) ? self.AuxiliaryTenantIDs : [])"
    );
    let secret = "((has(self.clientPassword) && has(self.clientPassword.name) && self.clientPassword.name != '') || (has(self.ClientPassword) && has(self.ClientPassword.name) && self.ClientPassword.name != ''))";
    let rules = vec![
        json!({
            "rule": format!("(has(self.type) && self.type != 0) || {resource_id}.matches('{ARM_ID}')"),
            "message": "type 0 needs resourceID in the form /subscriptions/<id>/resourceGroups/<name>/providers/Microsoft.ManagedIdentity/userAssignedIdentities/<name>, as `az identity show --query id` prints it",
        }),
        json!({
            "rule": format!("{client_id} == '' || {client_id}.matches('{GUID}')"),
            "message": "clientID must be a GUID, as `az identity show --query clientId` prints it",
        }),
        json!({
            "rule": format!("!has(self.type) || !(self.type in [1, 2]) || ({client_id} != '' && {tenant_id}.matches('{TENANT}') && {secret})"),
            "message": "types 1 and 2 need clientID, tenantID and clientPassword.name",
        }),
        json!({
            "rule": format!("!has(self.type) || self.type != 3 || ({client_id} != '' && {tenant_id}.matches('{TENANT}') && has(self.federatedBy))"),
            "message": "type 3 needs clientID, tenantID and federatedBy (Pod or NodeAgent)",
        }),
        json!({
            "rule": format!("!has(self.type) || self.type != 3 || !{secret}"),
            "message": "type 3 has no credential: remove clientPassword",
        }),
        json!({
            "rule": format!("!has(self.type) || self.type != 3 || {resource_id} == '' || {resource_id}.matches('{ARM_ID}')"),
            "message": "resourceID of type 3 must be the ARM id of a managed identity, as `az identity show --query id` prints it, or be left out",
        }),
        json!({
            "rule": "!has(self.federatedBy) || (has(self.type) && self.type == 3)",
            "message": "federatedBy is for type 3 only",
        }),
        json!({
            "rule": format!("size({auxiliary}) == 0 || (has(self.type) && self.type == 1)"),
            "message": "auxiliaryTenantIDs are for type 1 only",
        }),
        json!({
            "rule": format!("{endpoint} == '' || {endpoint}.startsWith('https://')"),
            "message": "adEndpoint must be an https URL",
        }),
    ];
    extend_rules(spec, rules);
}

/// What an `AzureIdentityBinding` must fulfil.
pub(super) fn add_binding_rules(spec: &mut Value) {
    let identity = either("azureIdentity", "AzureIdentity");
    let selector = either("selector", "Selector");
    let rules = vec![
        json!({
            "rule": format!("{identity} != ''"),
            "message": "azureIdentity must name an AzureIdentity of this namespace",
        }),
        json!({
            "rule": format!("{selector}.matches('^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$')"),
            "message": "selector must be a label value: the value of the label aadpodidbinding on the pods",
        }),
    ];
    extend_rules(spec, rules);
}

fn either(now: &str, once: &str) -> String {
    format!("(has(self.{now}) ? self.{now} : (has(self.{once}) ? self.{once} : ''))")
}

fn extend_rules(spec: &mut Value, rules: Vec<Value>) {
    let list = &mut spec["x-kubernetes-validations"];
    if let Value::Array(existing) = list {
        existing.extend(rules);
    } else {
        *list = Value::Array(rules);
    }
}
