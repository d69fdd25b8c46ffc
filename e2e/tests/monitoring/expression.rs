//! As much of PromQL as dashboard and alerts use: which metrics, which labels, which values.

use std::collections::BTreeSet;

use crate::PREFIX;

/// A metric in an expression, with what is asked of its labels.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) metric: String,
    /// A label and the values that it is compared with.
    pub(crate) asked: Vec<(String, Vec<String>)>,
}

/// The metrics of ours that an expression uses.
pub(crate) fn uses(expression: &str) -> Vec<Use> {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let at_start = |at: usize| !expression[..at].ends_with(inner);
    let found = expression.match_indices(PREFIX).filter(|(at, _)| at_start(*at));
    found
        .map(|(at, _)| {
            let text = &expression[at..];
            let (metric, rest) = text.split_at(text.find(|c| !inner(c)).unwrap_or(text.len()));
            let asked = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
            let asked = asked.map(|(selector, _)| matchers(selector)).unwrap_or_default();
            Use { metric: metric.to_owned(), asked }
        })
        .collect()
}

/// The labels by which an expression groups or joins.
pub(crate) fn grouped(expression: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for keyword in ["by (", "on (", "ignoring (", "without ("] {
        for part in expression.split(keyword).skip(1) {
            let labels = part.split_once(')').map_or(part, |(labels, _)| labels);
            all.extend(labels.split(',').map(|label| label.trim().to_owned()));
        }
    }
    all
}

/// `a="x", b=~"y|z"`.
fn matchers(selector: &str) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    let mut rest = selector;
    while let Some((label, tail)) = rest.split_once('"') {
        let (values, tail) = tail.split_once('"').unwrap();
        let label = label.trim_matches(|c| ", =~!".contains(c)).to_owned();
        all.push((label, values.split('|').map(str::to_owned).collect()));
        rest = tail;
    }
    all
}

#[test]
fn metrics_labels_and_values_are_found_in_an_expression() {
    let text =
        r#"sum by (call, le) (rate(podidentity_a_total{x="1", y=~"2|3"}[5m])) > podidentity_b"#;
    let pair = |label: &str, values: &[&str]| {
        (label.to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
    };
    let a = Use {
        metric: "podidentity_a_total".to_owned(),
        asked: vec![pair("x", &["1"]), pair("y", &["2", "3"])],
    };
    let b = Use { metric: "podidentity_b".to_owned(), asked: Vec::new() };
    assert_eq!(uses(text), [a, b]);
    assert_eq!(grouped(text), ["call".to_owned(), "le".to_owned()].into());
}
