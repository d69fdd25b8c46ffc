//! What a decision needs to know of the pod's namespace.

use std::collections::BTreeMap;

use api::labels::{ALLOW_UNSAFE_PODS, INJECT, INJECT_ENABLED, strict_bool};

use crate::warnings::Warnings;

/// Labels and annotations of a namespace, or that they are not known (yet).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceView {
    labels: Option<BTreeMap<String, String>>,
    annotations: BTreeMap<String, String>,
}

/// Whether pods of a namespace are injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptIn<'a> {
    /// It carries the label.
    Enabled,
    /// The API server asked about a namespace that the local watch has not seen: it found the label.
    Unknown,
    /// It does not carry the label.
    Absent,
    /// The label has a value that means nothing.
    Other(&'a str),
}

// === impl NamespaceView ===

impl NamespaceView {
    /// A namespace with these labels and annotations.
    pub fn known(labels: BTreeMap<String, String>, annotations: BTreeMap<String, String>) -> Self {
        Self { labels: Some(labels), annotations }
    }

    /// A namespace of which nothing is known.
    pub fn unknown() -> Self {
        Self::default()
    }

    /// Whether its pods are injected.
    pub(crate) fn opt_in(&self) -> OptIn<'_> {
        let Some(labels) = &self.labels else { return OptIn::Unknown };
        match labels.get(INJECT).map(String::as_str) {
            Some(INJECT_ENABLED) => OptIn::Enabled,
            None => OptIn::Absent,
            Some(other) => OptIn::Other(other),
        }
    }

    /// The value of a label.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The value of an annotation.
    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    /// Whether pods that could undo the redirect are let in, by the namespace or else `default`.
    pub(crate) fn allows_unsafe_pods(&self, default: bool, warnings: &mut Warnings) -> bool {
        match strict_bool(ALLOW_UNSAFE_PODS, self.annotation(ALLOW_UNSAFE_PODS)) {
            Ok(choice) => choice.unwrap_or(default),
            Err(error) => {
                warnings.push(format!("namespace annotation ignored: {error}"));
                default
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(annotation: &str) -> NamespaceView {
        let annotations = [(ALLOW_UNSAFE_PODS.to_owned(), annotation.to_owned())];
        NamespaceView::known(BTreeMap::new(), annotations.into())
    }

    #[test]
    fn the_namespace_goes_before_the_chart_and_nonsense_changes_nothing() {
        for (view, default, expected, warned) in [
            (NamespaceView::unknown(), true, true, false),
            (NamespaceView::unknown(), false, false, false),
            (with("true"), false, true, false),
            (with("false"), true, false, false),
            (with("True"), false, false, true),
            (with("False"), true, true, true),
        ] {
            let mut warnings = Warnings::default();
            assert_eq!(view.allows_unsafe_pods(default, &mut warnings), expected, "{view:?}");
            assert_eq!(!warnings.as_slice().is_empty(), warned, "{view:?}");
        }
    }
}
