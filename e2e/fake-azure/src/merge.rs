//! JSON merge patch (RFC 7386): what a control request changes, and what it leaves alone.

use serde_json::Value;

/// `patch` applied to `base`: objects merge, `null` removes, everything else replaces.
pub(crate) fn merge(base: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut merged = match base {
        Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    };
    for (key, change) in patch {
        let old = merged.remove(&key).unwrap_or(Value::Null);
        if !change.is_null() {
            merged.insert(key, merge(old, change));
        }
    }
    Value::Object(merged)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::merge;

    #[test]
    fn merge_replaces_removes_and_keeps() {
        for (base, patch, expected) in [
            (json!({"a": 1, "b": 2}), json!({"b": 3}), json!({"a": 1, "b": 3})),
            (json!({"a": 1, "b": 2}), json!({"b": null}), json!({"a": 1})),
            (json!({"a": {"x": 1}}), json!({"a": {"y": 2}}), json!({"a": {"x": 1, "y": 2}})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!(null), json!({"a": {"b": null}}), json!({"a": {}})),
        ] {
            assert_eq!(merge(base, patch.clone()), expected, "{patch}");
        }
    }
}
