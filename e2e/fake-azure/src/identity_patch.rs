//! The `identity` block of an ARM write: what it asks for, and what that changes on a host. Pure.

use serde_json::Value;

use crate::arm_error::ArmError;
use crate::arm_id::{ArmId, ResourceKind};
use crate::host::Host;

/// The combination of identities that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdentityType {
    pub(crate) system: bool,
    pub(crate) user: bool,
}

/// The block as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentityPatch {
    pub(crate) kind: IdentityType,
    /// Ids with an object as the value, as spelled.
    pub(crate) attach: Vec<ArmId>,
    /// Ids with `null` as the value.
    pub(crate) detach: Vec<ArmId>,
}

/// What the block changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) system: bool,
    pub(crate) attach: Vec<ArmId>,
    pub(crate) detach: Vec<ArmId>,
}

impl IdentityType {
    fn parse(text: &str) -> Option<Self> {
        let mut kind = Self { system: false, user: false };
        if text.eq_ignore_ascii_case("None") {
            return Some(kind);
        }
        for word in text.split(',').map(str::trim) {
            match word.to_ascii_lowercase().as_str() {
                "systemassigned" => kind.system = true,
                "userassigned" => kind.user = true,
                _ => return None,
            }
        }
        Some(kind)
    }
}

impl IdentityPatch {
    /// The block of a request body; `None` if the body leaves the identity alone.
    pub(crate) fn parse(body: &Value) -> Result<Option<Self>, ArmError> {
        let block = match body.get("identity") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(block)) => block,
            Some(_) => return Err(invalid_content("'identity' is not an object")),
        };
        let kind = block
            .get("type")
            .and_then(Value::as_str)
            .ok_or_else(|| invalid_content("'identity.type' is required"))?;
        let kind = IdentityType::parse(kind)
            .ok_or_else(|| invalid_content(&format!("'identity.type' cannot be '{kind}'")))?;
        let mut patch = Self { kind, attach: Vec::new(), detach: Vec::new() };
        match block.get("userAssignedIdentities") {
            None | Some(Value::Null) => {}
            Some(Value::Object(identities)) => {
                for (id, value) in identities {
                    patch.take(id, value)?;
                }
            }
            Some(_) => return Err(invalid_content("'userAssignedIdentities' is not an object")),
        }
        if !patch.kind.user && !patch.attach.is_empty() {
            return Err(ArmError::bad(
                "InvalidParameter",
                "ResourceIdentity identityIds should not be provided if the type does not contain \
                 \"UserAssigned\".",
            ));
        }
        Ok(Some(patch))
    }

    fn take(&mut self, id: &str, value: &Value) -> Result<(), ArmError> {
        let parsed: ArmId = id.parse().map_err(|_| invalid_id(id))?;
        if parsed.kind() != ResourceKind::UserAssignedIdentity {
            return Err(invalid_id(id));
        }
        if self.attach.contains(&parsed) || self.detach.contains(&parsed) {
            return Err(invalid_content(&format!("'{id}' is named twice, in different case")));
        }
        match value {
            Value::Null => self.detach.push(parsed),
            Value::Object(_) => self.attach.push(parsed),
            _ => {
                return Err(ArmError::bad(
                    "InvalidIdentityValues",
                    format!(
                        "Invalid value for the identities '{id}'. The 'UserAssignedIdentities' \
                         property keys should only be empty json objects, null or the resource \
                         exisiting property."
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// What the block changes on this host: identities that it does not name stay, unless the type has
/// no user-assigned ones any more.
pub(crate) fn plan(host: &Host, patch: &IdentityPatch) -> Result<Change, ArmError> {
    let detach: Vec<ArmId> = if patch.kind.user {
        patch.detach.clone()
    } else {
        host.identities.ids().cloned().collect()
    };
    let stays = host.identities.ids().any(|id| !detach.contains(id));
    if patch.kind.user && !stays && patch.attach.is_empty() {
        return Err(ArmError::bad(
            "InvalidParameter",
            "The identity type contains \"UserAssigned\", but no user assigned identity would \
             remain: use \"None\" or \"SystemAssigned\".",
        ));
    }
    Ok(Change { system: patch.kind.system, attach: patch.attach.clone(), detach })
}

fn invalid_content(detail: &str) -> ArmError {
    let message =
        format!("The request content was invalid and could not be deserialized: '{detail}'.");
    ArmError::bad("InvalidRequestContent", message)
}

fn invalid_id(id: &str) -> ArmError {
    let message = format!(
        "Property id '{id}' at path 'identity.userAssignedIdentities' is invalid. Expect fully \
         qualified resource Id that start with '/subscriptions/{{subscriptionId}}' or \
         '/providers/{{resourceProviderNamespace}}/'."
    );
    ArmError::bad("LinkedInvalidPropertyId", message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Change, IdentityPatch, plan};
    use crate::arm_id::ArmId;
    use crate::host::Attached;
    use crate::seed;

    fn id(name: &str) -> ArmId {
        seed::identity_id(name)
    }

    /// A host with identities a and b and a system-assigned one, after `identity` was sent.
    fn planned(identity: &Value) -> Result<Change, String> {
        let mut host = seed::world().hosts[&seed::machine_id()].clone();
        host.identities = Attached::from(vec![id("a"), id("b")]);
        IdentityPatch::parse(&json!({"identity": identity}))
            .and_then(|patch| plan(&host, &patch.unwrap()))
            .map_err(|error| error.code)
    }

    #[test]
    fn null_removes_an_object_adds_and_the_others_stay() {
        let change = planned(&json!({
            "type": "SystemAssigned,UserAssigned",
            "userAssignedIdentities": {id("A").as_str(): null, id("c").as_str(): {}},
        }));
        let expected = Change { system: true, attach: vec![id("c")], detach: vec![id("a")] };
        assert_eq!(change, Ok(expected));
    }

    #[test]
    fn a_type_without_user_assigned_detaches_everything() {
        for (kind, system) in [("None", false), ("SystemAssigned", true)] {
            let change = planned(&json!({"type": kind})).unwrap();
            assert_eq!((change.system, change.detach), (system, vec![id("a"), id("b")]), "{kind}");
        }
    }

    #[test]
    fn user_assigned_alone_switches_the_system_identity_off() {
        let change = planned(&json!({"type": "UserAssigned"})).unwrap();
        assert_eq!(change, Change { system: false, attach: vec![], detach: vec![] });
    }

    #[test]
    fn what_azure_refuses_is_refused() {
        let (a, b, c) = (id("a"), id("b"), id("c"));
        for (identity, code) in [
            (json!({}), "InvalidRequestContent"),
            (json!({"type": "Both"}), "InvalidRequestContent"),
            (
                json!({"type": "UserAssigned", "userAssignedIdentities": []}),
                "InvalidRequestContent",
            ),
            (
                json!({"type": "UserAssigned", "userAssignedIdentities": {"demo": {}}}),
                "LinkedInvalidPropertyId",
            ),
            (
                json!({"type": "UserAssigned", "userAssignedIdentities": {c.as_str(): "x"}}),
                "InvalidIdentityValues",
            ),
            (
                json!({"type": "SystemAssigned", "userAssignedIdentities": {c.as_str(): {}}}),
                "InvalidParameter",
            ),
            (
                json!({"type": "UserAssigned",
                       "userAssignedIdentities": {a.as_str(): null, b.as_str(): null}}),
                "InvalidParameter",
            ),
            (
                json!({"type": "UserAssigned",
                       "userAssignedIdentities": {a.as_str(): {}, a.as_str().to_uppercase(): null}}),
                "InvalidRequestContent",
            ),
        ] {
            assert_eq!(planned(&identity), Err(code.to_owned()), "{identity}");
        }
        assert_eq!(IdentityPatch::parse(&json!({"tags": {}})), Ok(None));
    }
}
