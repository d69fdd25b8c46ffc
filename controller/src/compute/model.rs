//! The identity block of a VM or scale set: what ARM says of it, and the PATCH bodies that change it.
//!
//! Pure: a body becomes a [`View`], a view and a delta become bodies.

use std::collections::BTreeMap;

use api::{Guid, IdentityId};
use serde::{Deserialize, Serialize};

use super::{HostIdentities, IdentityDelta, IdentityDetails};

/// How many identities a request may hold. ARM publishes no limit; the predecessor's was proven.
const IDENTITIES_PER_REQUEST: usize = 150;

/// One host as ARM last reported it, with what is needed to change it safely.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) identities: HostIdentities,
    /// Attached identities whose ids we cannot read: not ours, but they must survive.
    pub(super) unreadable: usize,
    /// The version of the resource, where ARM tells it.
    pub(super) etag: Option<String>,
}

/// The body of one PATCH. Nothing but `identity` is in it: everything else stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PatchBody {
    identity: IdentityPatch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct IdentityPatch {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_assigned_identities: Option<BTreeMap<String, Option<Attach>>>,
}

/// `{}`: attach. (`null`, the absence of it, is detach.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Attach {}

#[derive(Deserialize)]
struct Resource {
    identity: Option<IdentityBlock>,
    properties: Option<Properties>,
    etag: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    provisioning_state: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IdentityBlock {
    r#type: Option<String>,
    user_assigned_identities: Option<BTreeMap<String, Option<Details>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    client_id: Option<String>,
    principal_id: Option<String>,
}

// === impl View ===

impl View {
    /// Reads the JSON of a VM or scale set.
    pub(super) fn parse(body: &[u8]) -> Result<Self, serde_json::Error> {
        let resource: Resource = serde_json::from_slice(body)?;
        let mut view = Self { etag: resource.etag, ..Self::default() };
        view.identities.provisioning_state =
            resource.properties.and_then(|properties| properties.provisioning_state);
        let Some(block) = resource.identity else { return Ok(view) };
        view.identities.system_assigned = block.r#type.is_some_and(|kind| {
            kind.split(',').any(|part| part.trim().eq_ignore_ascii_case("SystemAssigned"))
        });
        for (id, details) in block.user_assigned_identities.unwrap_or_default() {
            match id.parse::<IdentityId>() {
                Ok(id) => {
                    let details = details.unwrap_or_default().into();
                    view.identities.attached.insert(id, details);
                }
                Err(_) => view.unreadable += 1,
            }
        }
        Ok(view)
    }

    /// Whether the host is being deleted, in which state it takes no changes.
    pub(super) fn is_deleting(&self) -> bool {
        self.is_in_state("Deleting")
    }

    /// Whether ARM is still at work on the host.
    pub(super) fn is_settled(&self) -> bool {
        ["Succeeded", "Failed", "Canceled"].iter().any(|state| self.is_in_state(state))
    }

    fn is_in_state(&self, name: &str) -> bool {
        let state = self.identities.provisioning_state.as_deref();
        state.is_some_and(|state| state.eq_ignore_ascii_case(name))
    }

    /// `delta` without what is so already. What ARM spelled stays spelled as ARM did.
    pub(super) fn effective(&self, delta: &IdentityDelta) -> IdentityDelta {
        let attached = &self.identities.attached;
        let attach =
            delta.attach.iter().filter(|id| !attached.contains_key(*id)).cloned().collect();
        let detach = delta
            .detach
            .iter()
            .filter(|id| !delta.attach.contains(*id))
            .filter_map(|id| attached.get_key_value(id))
            .map(|(id, _)| id.clone())
            .collect();
        IdentityDelta { attach, detach }
    }

    /// The view after ARM reported the end of an effective `delta`, with an `answer` that describes
    /// the host or with none. An answer that misses part of the change is from before it, and good
    /// for nothing.
    pub(super) fn after(&self, delta: &IdentityDelta, answer: Option<Self>) -> Self {
        if let Some(answer) = answer.filter(|answer| answer.shows(delta)) {
            return answer;
        }
        let mut identities = self.identities.clone();
        identities.attached.retain(|id, _| !delta.detach.contains(id));
        for id in &delta.attach {
            identities.attached.entry(id.clone()).or_default();
        }
        identities.provisioning_state = Some("Succeeded".to_owned());
        Self { identities, unreadable: self.unreadable, etag: None }
    }

    /// Whether `delta` is in effect here.
    fn shows(&self, delta: &IdentityDelta) -> bool {
        let attached = &self.identities.attached;
        delta.attach.iter().all(|id| attached.contains_key(id))
            && !delta.detach.iter().any(|id| attached.contains_key(id))
    }

    /// Whether `delta` leaves no user-assigned identity: such a change also takes away what
    /// others attached since this view was taken.
    pub(super) fn is_emptied_by(&self, delta: &IdentityDelta) -> bool {
        let attached = self.identities.attached.keys();
        let stays = attached.filter(|id| !delta.detach.contains(*id)).count() + self.unreadable;
        stays == 0 && delta.attach.is_empty() && !delta.detach.is_empty()
    }

    /// Whether every identity of `ids` is here with its client id.
    pub(super) fn details_all<'a>(&self, ids: impl IntoIterator<Item = &'a IdentityId>) -> bool {
        ids.into_iter().all(|id| {
            self.identities.attached.get(id).is_some_and(|details| details.client_id.is_some())
        })
    }
}

impl From<Details> for IdentityDetails {
    fn from(details: Details) -> Self {
        let guid = |text: Option<String>| text.and_then(|text| text.parse::<Guid>().ok());
        Self { client_id: guid(details.client_id), object_id: guid(details.principal_id) }
    }
}

// === PATCH bodies ===

/// The deltas of one request each that together make an effective `delta`. Attaching comes first:
/// detaching first could leave the host without any in between, which is another type.
pub(super) fn batches(view: &View, delta: &IdentityDelta) -> Vec<IdentityDelta> {
    if delta.is_empty() {
        return Vec::new();
    }
    if view.is_emptied_by(delta) {
        return vec![delta.clone()]; // names nobody, so that no limit applies
    }
    let changes: Vec<_> = delta
        .attach
        .iter()
        .map(|id| (id, true))
        .chain(delta.detach.iter().map(|id| (id, false)))
        .collect();
    changes
        .chunks(IDENTITIES_PER_REQUEST)
        .map(|chunk| {
            let mut batch = IdentityDelta::default();
            for (id, attach) in chunk {
                let side = if *attach { &mut batch.attach } else { &mut batch.detach };
                side.insert((*id).clone());
            }
            batch
        })
        .collect()
}

/// The body for one batch on a host seen as `view`.
pub(super) fn body(view: &View, batch: &IdentityDelta) -> PatchBody {
    let system = view.identities.system_assigned;
    if view.is_emptied_by(batch) {
        // ARM refuses ids beside a type without user-assigned identities.
        let r#type = if system { "SystemAssigned" } else { "None" };
        return PatchBody { identity: IdentityPatch { r#type, user_assigned_identities: None } };
    }
    let r#type = if system { "SystemAssigned, UserAssigned" } else { "UserAssigned" };
    let attach = batch.attach.iter().map(|id| (id.as_str().to_owned(), Some(Attach {})));
    let detach = batch.detach.iter().map(|id| (id.as_str().to_owned(), None));
    let identities = attach.chain(detach).collect();
    PatchBody { identity: IdentityPatch { r#type, user_assigned_identities: Some(identities) } }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixtures::{delta, id, view};
    use super::*;

    fn sent(view: &View, change: &IdentityDelta) -> Vec<Value> {
        let mut view = view.clone();
        let mut bodies = Vec::new();
        for batch in batches(&view, &view.effective(change)) {
            bodies.push(serde_json::to_value(body(&view, &batch)).unwrap());
            view = view.after(&batch, None);
        }
        bodies
    }

    fn parsed(kind: Option<&str>, identities: &Value) -> View {
        let body = json!({
            "etag": "\"7\"",
            "identity": {"type": kind, "principalId": "x", "userAssignedIdentities": identities},
            "properties": {"provisioningState": "Updating"},
        });
        View::parse(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn every_shape_of_the_block_is_read() {
        assert_eq!(View::parse(b"{}").unwrap(), View::default());
        assert_eq!(
            View::parse(br#"{"identity":null,"properties":null}"#).unwrap(),
            View::default()
        );
        for (kind, system) in [
            (None, false),
            (Some("None"), false),
            (Some(""), false),
            (Some("UserAssigned"), false),
            (Some("SystemAssigned"), true),
            (Some("SystemAssigned, UserAssigned"), true),
            (Some("systemassigned,userassigned"), true),
        ] {
            assert_eq!(parsed(kind, &Value::Null).identities.system_assigned, system, "{kind:?}");
        }
    }

    #[test]
    fn details_are_read_and_foreign_shapes_survive() {
        let view = parsed(
            Some("UserAssigned"),
            &json!({
                id("a").as_str(): {
                    "clientId": "AAAAAAAA-0000-0000-0000-000000000001",
                    "principalId": "bbbbbbbb-0000-0000-0000-000000000002",
                },
                id("b").as_str(): {"clientId": "not a guid"},
                id("c").as_str(): null,
                "something else": {},
            }),
        );
        assert_eq!(view.etag.as_deref(), Some("\"7\""));
        assert_eq!(view.identities.provisioning_state.as_deref(), Some("Updating"));
        assert_eq!(view.unreadable, 1);
        let a = &view.identities.attached[&id("a")];
        assert_eq!(a.client_id.as_ref().unwrap().as_str(), "aaaaaaaa-0000-0000-0000-000000000001");
        assert_eq!(a.object_id.as_ref().unwrap().as_str(), "bbbbbbbb-0000-0000-0000-000000000002");
        assert_eq!(view.identities.attached[&id("b")], IdentityDetails::default());
        assert!(view.details_all([&id("a")]));
        assert!(!view.details_all([&id("a"), &id("c")]));
        assert!(!view.details_all([&id("d")]));
    }

    #[test]
    fn attaching_names_only_what_is_new() {
        for (system, kind) in [(false, "UserAssigned"), (true, "SystemAssigned, UserAssigned")] {
            let bodies = sent(&view(&["other"], system), &delta(&["other", "new"], &[]));
            let expected = json!({"identity": {
                "type": kind,
                "userAssignedIdentities": {id("new").as_str(): {}},
            }});
            assert_eq!(bodies, [expected]);
        }
    }

    #[test]
    fn detaching_is_null_by_the_name_that_arm_uses() {
        let seen = view(&["keep", "Gone"], true);
        let bodies = sent(&seen, &delta(&[], &["gone", "never-there"]));
        let expected = json!({"identity": {
            "type": "SystemAssigned, UserAssigned",
            "userAssignedIdentities": {id("Gone").as_str(): null},
        }});
        assert_eq!(bodies, [expected]);
    }

    #[test]
    fn the_last_user_assigned_identity_takes_its_type_along() {
        for (system, kind) in [(false, "None"), (true, "SystemAssigned")] {
            let bodies = sent(&view(&["a", "b"], system), &delta(&[], &["a", "b"]));
            assert_eq!(bodies, [json!({"identity": {"type": kind}})]);
        }
    }

    #[test]
    fn an_identity_with_an_unreadable_id_is_not_swept_away() {
        let seen = View { unreadable: 1, ..view(&["a"], false) };
        let bodies = sent(&seen, &delta(&[], &["a"]));
        let expected = json!({"identity": {
            "type": "UserAssigned",
            "userAssignedIdentities": {id("a").as_str(): null},
        }});
        assert_eq!(bodies, [expected]);
    }

    #[test]
    fn what_is_wanted_and_unwanted_at_once_stays() {
        assert!(sent(&view(&["a"], false), &delta(&["a"], &["A"])).is_empty());
        let bodies = sent(&view(&[], false), &delta(&["a"], &["A"]));
        assert_eq!(bodies[0]["identity"]["userAssignedIdentities"], json!({id("a").as_str(): {}}));
    }

    #[test]
    fn nothing_to_change_is_no_request() {
        for system in [false, true] {
            assert!(sent(&view(&["a"], system), &delta(&["A"], &["b"])).is_empty());
            assert!(sent(&view(&[], system), &delta(&[], &["b"])).is_empty());
        }
    }

    #[test]
    fn big_changes_are_cut_and_never_pass_through_none() {
        let names = |prefix: &str, count: usize| -> Vec<String> {
            (0..count).map(|n| format!("{prefix}{n:03}")).collect()
        };
        let (old, new) = (names("old", 200), names("new", 200));
        let refs = |names: &[String]| -> Vec<IdentityId> { names.iter().map(|n| id(n)).collect() };
        let change = IdentityDelta {
            attach: refs(&new).into_iter().collect(),
            detach: refs(&old).into_iter().collect(),
        };
        let old: Vec<&str> = old.iter().map(String::as_str).collect();
        let bodies = sent(&view(&old, false), &change);
        let sizes: Vec<_> = bodies
            .iter()
            .map(|body| body["identity"]["userAssignedIdentities"].as_object().unwrap().len())
            .collect();
        assert_eq!(sizes, [150, 150, 100]);
        assert!(bodies.iter().all(|body| body["identity"]["type"] == "UserAssigned"));
        let all_at_once = IdentityDelta { attach: [].into(), detach: change.detach };
        assert_eq!(sent(&view(&old, false), &all_at_once), [json!({"identity": {"type": "None"}})]);
    }

    #[test]
    fn an_answer_from_before_the_change_is_not_the_view_after_it() {
        let (before, change) = (view(&["a", "b"], true), delta(&["c"], &["a"]));
        for (answer, expected) in [
            (None, view(&["b", "c"], true)),
            (Some(view(&["a", "b"], true)), view(&["b", "c"], true)),
            (Some(view(&["b"], true)), view(&["b", "c"], true)),
            (Some(view(&["c", "d"], false)), view(&["c", "d"], false)),
        ] {
            let after = before.after(&change, answer.clone()).identities;
            assert_eq!(after.attached, expected.identities.attached, "{answer:?}");
            assert_eq!(after.system_assigned, expected.identities.system_assigned, "{answer:?}");
        }
    }
}
