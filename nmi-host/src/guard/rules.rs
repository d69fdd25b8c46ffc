//! The rules of the node guard, and the edits that change who is excepted.
//!
//! Pure: text in the words of `iptables -S`, which is also what it is compared with afterwards.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use netfilter::{Chain, Edit, Jump, Table};

/// Our chain.
const CHAIN: &str = "POD-IDENTITY-GUARD";

/// What everyone meets who is not excepted. TCP is reset, so that applications fail at once
/// instead of waiting for an answer.
const REJECTIONS: [&str; 2] = [
    "-p tcp -m comment --comment \"pod-identity: node guard\" -j REJECT --reject-with tcp-reset",
    "-m comment --comment \"pod-identity: node guard\" -j REJECT --reject-with icmp-port-unreachable",
];

/// The rule that sends pods' traffic to the metadata service into our chain.
pub(super) fn jump(metadata: Ipv4Addr) -> Jump {
    Jump {
        table: Table::Filter,
        from: "FORWARD",
        matching: format!("-d {metadata}/32"),
        comment: "pod-identity: node guard",
        to: CHAIN,
    }
}

/// Whether the chain rejects everyone but these. The order of the exceptions does not matter.
pub(super) fn are_right(current: &[String], excepted: &BTreeSet<Ipv4Addr>) -> bool {
    exceptions_of(current).is_some_and(|found| found == *excepted)
}

/// The edits that leave exactly these excepted.
///
/// Each takes effect on its own: who is no longer excepted goes first, and the rejections stay
/// below throughout.
pub(super) fn edits(current: &[String], excepted: &BTreeSet<Ipv4Addr>) -> Vec<Edit> {
    let Some(found) = exceptions_of(current) else {
        // rejections on top of whatever it is, before any of it goes
        return chain(excepted).edits(current);
    };
    let stale = found.difference(excepted).map(|ip| Edit::Delete(exception(*ip)));
    let missing = excepted.difference(&found).map(|ip| Edit::Insert(exception(*ip)));
    stale.chain(missing).collect()
}

fn chain(excepted: &BTreeSet<Ipv4Addr>) -> Chain {
    let exceptions = excepted.iter().copied().map(exception);
    let rules = exceptions.chain(REJECTIONS.map(str::to_owned)).collect();
    Chain { table: Table::Filter, name: CHAIN, rules }
}

/// Back to FORWARD, where the network policies of the CNI still decide.
fn exception(pod: Ipv4Addr) -> String {
    format!("-s {pod}/32 -m comment --comment \"pod-identity: excepted pod\" -j RETURN")
}

/// Who is excepted by a chain that consists of exceptions, each once, and the rejections; none if
/// it holds anything else.
fn exceptions_of(current: &[String]) -> Option<BTreeSet<Ipv4Addr>> {
    let rules = current.strip_suffix(&REJECTIONS.map(str::to_owned))?;
    let pods: BTreeSet<_> = rules.iter().map(|rule| excepted_by(rule)).collect::<Option<_>>()?;
    (pods.len() == rules.len()).then_some(pods)
}

fn excepted_by(rule: &str) -> Option<Ipv4Addr> {
    let pod = rule.strip_prefix("-s ")?.split('/').next()?.parse().ok()?;
    (rule == exception(pod)).then_some(pod)
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn rules(pods: impl IntoIterator<Item = Ipv4Addr>) -> Vec<String> {
        chain(&pods.into_iter().collect()).rules
    }

    /// Whether any packet of this pod gets through.
    fn passes(rules: &[String], pod: Ipv4Addr) -> bool {
        let of_pod = format!("-s {pod}/32 ");
        let rejected = |is_tcp: bool| {
            let verdict = rules.iter().find(|rule| match rule.strip_prefix("-s ") {
                Some(_) => rule.starts_with(&of_pod) || rule.starts_with("-s 10.0.0.0/8 "),
                None => is_tcp || !rule.starts_with("-p tcp "),
            });
            // at the end of the chain packets return
            verdict.is_some_and(|rule| rule.contains("-j REJECT"))
        };
        !(rejected(true) && rejected(false))
    }

    fn apply(edit: Edit, rules: &mut Vec<String>) {
        match edit {
            Edit::Insert(rule) => rules.insert(0, rule),
            Edit::Delete(rule) => {
                let at = rules.iter().position(|r| *r == rule).expect("a rule to delete");
                rules.remove(at);
            }
            Edit::DeleteAt(position) => {
                rules.remove(position - 1);
            }
        }
    }

    #[test]
    fn the_rules_are_the_golden_ones() {
        let jump = jump(Ipv4Addr::new(169, 254, 169, 254));
        let [plain, _] = jump.spellings();
        let lines = rules([A]).into_iter().map(|rule| format!("-A {CHAIN} {rule}"));
        let lines: Vec<_> =
            [format!("-A {} {plain}", jump.from)].into_iter().chain(lines).collect();
        assert_eq!(
            lines,
            [
                "-A FORWARD -d 169.254.169.254/32 -m comment --comment \"pod-identity: node guard\" \
                 -j POD-IDENTITY-GUARD",
                "-A POD-IDENTITY-GUARD -s 10.0.0.1/32 -m comment --comment \
                 \"pod-identity: excepted pod\" -j RETURN",
                "-A POD-IDENTITY-GUARD -p tcp -m comment --comment \"pod-identity: node guard\" \
                 -j REJECT --reject-with tcp-reset",
                "-A POD-IDENTITY-GUARD -m comment --comment \"pod-identity: node guard\" \
                 -j REJECT --reject-with icmp-port-unreachable",
            ]
        );
    }

    #[test]
    fn a_chain_that_is_right_is_left_alone_in_any_order() {
        let mut current = rules([A, B]);
        assert_eq!(edits(&current, &[A, B].into()), []);
        current.swap(0, 1);
        assert_eq!(edits(&current, &[A, B].into()), []);
        assert!(are_right(&current, &[A, B].into()));
    }

    #[test]
    fn anything_else_in_the_chain_makes_it_wrong() {
        let right = rules([A]);
        let wrong = |change: fn(&mut Vec<String>)| {
            let mut rules = right.clone();
            change(&mut rules);
            assert!(!are_right(&rules, &[A].into()), "{rules:?}");
        };
        wrong(Vec::clear);
        wrong(|rules| drop(rules.remove(0)));
        wrong(|rules| drop(rules.pop()));
        wrong(|rules| rules.swap(1, 2));
        wrong(|rules| rules.insert(0, rules[0].clone()));
        wrong(|rules| rules.insert(0, exception(B)));
        wrong(|rules| rules.insert(0, "-s 10.0.0.0/8 -j ACCEPT".to_owned()));
        wrong(|rules| rules.push("-j ACCEPT".to_owned()));
        wrong(|rules| rules[0] = rules[0].replace("/32", "/8"));
    }

    #[test]
    fn an_exception_that_ends_goes_before_a_new_one_comes() {
        assert_eq!(
            edits(&rules([A]), &[B].into()),
            [Edit::Delete(exception(A)), Edit::Insert(exception(B))]
        );
    }

    /// A few addresses, so that sets overlap.
    fn pods() -> impl Strategy<Value = BTreeSet<Ipv4Addr>> {
        btree_set((0..6u8).prop_map(|n| Ipv4Addr::new(10, 0, 0, n)), 0..6)
    }

    proptest! {
        #[test]
        fn no_edit_lets_a_pod_through_that_is_in_neither_set(old in pods(), new in pods()) {
            let mut current = rules(old.clone());
            for edit in edits(&current, &new) {
                apply(edit, &mut current);
                for pod in (0..6).map(|n| Ipv4Addr::new(10, 0, 0, n)) {
                    let allowed = old.contains(&pod) || new.contains(&pod);
                    prop_assert!(allowed || !passes(&current, pod), "{pod} passes {current:?}");
                }
            }
            prop_assert!(are_right(&current, &new), "{current:?}");
        }

        /// However the chain was mangled: from the first edit on nobody passes who should not.
        #[test]
        fn a_mangled_chain_is_closed_at_once_and_then_repaired(
            new in pods(),
            mangled in vec(prop_oneof![
                Just("-j ACCEPT".to_owned()),
                Just("-s 10.0.0.0/8 -j ACCEPT".to_owned()),
                Just(REJECTIONS[0].to_owned()),
                Just(REJECTIONS[1].to_owned()),
                (0..6u8).prop_map(|n| exception(Ipv4Addr::new(10, 0, 0, n))),
            ], 0..6),
        ) {
            prop_assume!(exceptions_of(&mangled).is_none());
            let mut current = mangled;
            for edit in edits(&current, &new) {
                apply(edit, &mut current);
                for pod in (0..6).map(|n| Ipv4Addr::new(10, 0, 0, n)) {
                    let allowed = new.contains(&pod);
                    prop_assert!(allowed || !passes(&current, pod), "{pod} passes {current:?}");
                }
            }
            prop_assert!(are_right(&current, &new), "{current:?}");
        }
    }
}
