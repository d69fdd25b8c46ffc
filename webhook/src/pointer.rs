//! Building a JSON patch that only adds: what the pod holds already is neither replaced, nor
//! removed, nor moved.

use std::collections::BTreeSet;

use json_patch::{AddOperation, Patch, PatchOperation};
use jsonptr::PointerBuf;
use serde_json::{Value, json};

/// Collects operations on one document.
pub(crate) struct PatchBuilder<'a> {
    document: &'a Value,
    created: BTreeSet<String>,
    operations: Vec<PatchOperation>,
}

/// The document cannot be patched.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// It is not shaped like a pod.
    #[error("{path} of the pod is not {expected}")]
    Shape {
        /// Where.
        path: String,
        /// What was expected there.
        expected: &'static str,
    },
    /// A value to add cannot be written as JSON.
    #[error("cannot write what is injected as JSON")]
    Encode(#[from] serde_json::Error),
}

#[derive(Clone, Copy)]
enum Parent {
    Array,
    Object,
}

// === impl PatchBuilder ===

impl<'a> PatchBuilder<'a> {
    pub(crate) fn new(document: &'a Value) -> Self {
        Self { document, created: BTreeSet::new(), operations: Vec::new() }
    }

    /// Inserts into an array, before what is at the index.
    pub(crate) fn insert(
        &mut self,
        array: &[&str],
        index: usize,
        value: Value,
    ) -> Result<(), PatchError> {
        self.ensure(array, Parent::Array)?;
        self.add(array, &index.to_string(), value);
        Ok(())
    }

    /// Adds to the end of an array.
    pub(crate) fn append(&mut self, array: &[&str], value: Value) -> Result<(), PatchError> {
        self.ensure(array, Parent::Array)?;
        self.add(array, "-", value);
        Ok(())
    }

    /// Sets a key of an object.
    pub(crate) fn set(
        &mut self,
        object: &[&str],
        key: &str,
        value: Value,
    ) -> Result<(), PatchError> {
        self.ensure(object, Parent::Object)?;
        self.add(object, key, value);
        Ok(())
    }

    /// Whether nothing has been added.
    pub(crate) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub(crate) fn finish(self) -> Patch {
        Patch(self.operations)
    }

    /// Creates what is missing on the way to a parent, and the parent.
    fn ensure(&mut self, path: &[&str], parent: Parent) -> Result<(), PatchError> {
        let pointer = PointerBuf::from_tokens(path.iter().copied()).to_string();
        if self.created.contains(&pointer) {
            return Ok(());
        }
        let Some((last, before)) = path.split_last() else {
            return self.document.is_object().then_some(()).ok_or_else(|| parent.expected(pointer));
        };
        self.ensure(before, Parent::Object)?;
        // A null is what some clients send for an empty list.
        match self.document.pointer(&pointer).filter(|value| !value.is_null()) {
            Some(value) if parent.fits(value) => Ok(()),
            Some(_) => Err(parent.expected(pointer)),
            None => {
                self.add(before, last, parent.empty());
                self.created.insert(pointer);
                Ok(())
            }
        }
    }

    fn add(&mut self, parent: &[&str], token: &str, value: Value) {
        let path = PointerBuf::from_tokens(parent.iter().chain([&token]).copied());
        self.operations.push(PatchOperation::Add(AddOperation { path, value }));
    }
}

// === impl Parent ===

impl Parent {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }

    fn empty(self) -> Value {
        match self {
            Self::Array => json!([]),
            Self::Object => json!({}),
        }
    }

    fn expected(self, path: String) -> PatchError {
        let expected = match self {
            Self::Array => "a list",
            Self::Object => "an object",
        };
        PatchError::Shape { path, expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(document: &Value) -> Result<Value, PatchError> {
        let mut builder = PatchBuilder::new(document);
        builder.set(&["metadata", "annotations"], "a/b~c", json!("1"))?;
        builder.set(&["metadata", "annotations"], "d", json!("2"))?;
        let mut patched = document.clone();
        json_patch::patch(&mut patched, &builder.finish()).unwrap();
        Ok(patched)
    }

    #[test]
    fn missing_parents_are_created_once_and_keys_escaped() {
        let added = json!({"a/b~c": "1", "d": "2"});
        for document in [
            json!({}),
            json!({"metadata": null}),
            json!({"metadata": {}}),
            json!({"metadata": {"annotations": null}}),
            json!({"metadata": {"annotations": {}}}),
        ] {
            assert_eq!(annotated(&document).unwrap()["metadata"]["annotations"], added);
        }
        let document = json!({"metadata": {"annotations": {"x": "y"}, "name": "n"}});
        let patched = annotated(&document).unwrap();
        assert_eq!(patched["metadata"]["annotations"]["x"], "y");
        assert_eq!(patched["metadata"]["name"], "n");
    }

    #[test]
    fn a_parent_of_another_kind_is_an_error_and_not_overwritten() {
        for document in [json!(1), json!([]), json!({"metadata": []}), json!({"metadata": 1})] {
            assert!(matches!(annotated(&document), Err(PatchError::Shape { .. })), "{document}");
        }
        let document = json!({"list": {}});
        let mut builder = PatchBuilder::new(&document);
        assert!(builder.append(&["list"], json!(1)).is_err());
        assert!(builder.is_empty());
    }

    #[test]
    fn insertion_keeps_the_order() {
        let document = json!({"list": [1, 2]});
        let mut builder = PatchBuilder::new(&document);
        builder.insert(&["list"], 0, json!("a")).unwrap();
        builder.insert(&["list"], 1, json!("b")).unwrap();
        builder.append(&["list"], json!("z")).unwrap();
        let mut patched = document.clone();
        json_patch::patch(&mut patched, &builder.finish()).unwrap();
        assert_eq!(patched["list"], json!(["a", "b", 1, 2, "z"]));
    }
}
