//! The jump from a built-in chain into one of ours, kept at position 1 beside foreign writers.
//!
//! Pure, except that it is shaped by this: between our reading of a built-in chain and our writing,
//! a service mesh, kube-proxy or a CNI plugin may insert rules. A deletion by position could then
//! hit one of theirs, and a deletion by text would hit the upper of two equal jumps, the one just
//! inserted. So the jump has two spellings, which differ in the comment only: a new one is always
//! inserted in the spelling that is not there yet, and the old one is deleted by its text.

use crate::{Edit, Table};

/// A rule at position 1 of a built-in chain that sends packets to a chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The table of both chains.
    pub table: Table,
    /// The built-in chain.
    pub from: &'static str,
    /// Which packets, as iptables prints it; empty for all.
    pub matching: String,
    /// Why the rule is there, for whoever reads the listing. No quotes in it.
    pub comment: &'static str,
    /// Our chain.
    pub to: &'static str,
}

// === impl Jump ===

impl Jump {
    /// Whether the first of the built-in chain's rules `current` is this jump.
    pub fn is_first(&self, current: &[String]) -> bool {
        current.first().is_some_and(|first| self.spellings().contains(first))
    }

    /// The edits that leave `current` with this jump at position 1 and nowhere else.
    ///
    /// An old jump goes only after the new one is in place.
    pub fn edits(&self, current: &[String]) -> Vec<Edit> {
        let ours: Vec<&String> = self.all_in(current).collect();
        let copies = |text: &String| ours.iter().filter(|rule| **rule == text).count();
        let delete = |text: &String| Edit::Delete(text.clone());

        if let Some(first) = current.first()
            && self.is_first(current)
            && copies(first) == 1
        {
            return ours.into_iter().filter(|rule| *rule != first).map(delete).collect();
        }

        let [plain, moved] = self.spellings();
        let fresh = if copies(&plain) == 0 { plain } else { moved };
        // both spellings in use, neither at the top: one has to be freed, the other still stands
        let freed = vec![delete(&fresh); copies(&fresh)];
        let stale = ours.into_iter().filter(|rule| **rule != fresh).map(delete);
        freed.into_iter().chain([Edit::Insert(fresh.clone())]).chain(stale).collect()
    }

    /// Every rule of `current` that leads to our chain, whatever else it says.
    pub fn all_in<'a>(&self, current: &'a [String]) -> impl Iterator<Item = &'a String> {
        let targets = [format!("-j {}", self.to), format!("-g {}", self.to)];
        current.iter().filter(move |rule| {
            targets.iter().any(|target| {
                rule.strip_suffix(target.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with(' '))
            })
        })
    }

    /// The two texts that mean this jump.
    pub fn spellings(&self) -> [String; 2] {
        ["", " (moved)"].map(|suffix| {
            let space = if self.matching.is_empty() { "" } else { " " };
            let Self { matching, comment, to, .. } = self;
            format!("{matching}{space}-m comment --comment \"{comment}{suffix}\" -j {to}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "-d 10.0.0.1/32 -m comment --comment \"why\" -j OURS";
    const B: &str = "-d 10.0.0.1/32 -m comment --comment \"why (moved)\" -j OURS";
    const OLD: &str = "-j OURS";
    const X: &str = "-m comment --comment \"mesh\" -j THEIRS";

    fn jump() -> Jump {
        Jump {
            table: Table::Filter,
            from: "FORWARD",
            matching: "-d 10.0.0.1/32".to_owned(),
            comment: "why",
            to: "OURS",
        }
    }

    fn texts(rules: &[&str]) -> Vec<String> {
        rules.iter().map(|rule| (*rule).to_owned()).collect()
    }

    /// Applies the edits as the kernel would; checks that our jump is never lost on the way.
    fn settle(before: &[&str]) -> Vec<String> {
        let mut rules = texts(before);
        let mut best = jump().all_in(&rules).count().min(1);
        for edit in jump().edits(&rules) {
            match edit {
                Edit::Insert(rule) => rules.insert(0, rule),
                Edit::Delete(rule) => {
                    let at = rules.iter().position(|r| *r == rule).expect("a rule to delete");
                    rules.remove(at);
                }
                Edit::DeleteAt(_) => panic!("a position in a chain that others write"),
            }
            let now = jump().all_in(&rules).count().min(1);
            assert!(now >= best, "no jump at all for an instant, from {before:?}");
            best = now;
        }
        rules
    }

    #[test]
    fn one_jump_at_the_top_is_left_alone_in_either_spelling() {
        for top in [A, B] {
            assert_eq!(jump().edits(&texts(&[top, X])), []);
        }
    }

    #[test]
    fn every_other_state_ends_with_one_jump_on_top_and_foreign_rules_untouched() {
        for before in [
            &[X][..],
            &[X, A],
            &[X, B],
            &[A, A, X],
            &[B, B, X],
            &[A, X, B],
            &[X, A, B],
            &[X, B, A],
            &[X, A, A, B, B],
            &[OLD, X],
            &[X, OLD, OLD],
            &[OLD, A, X],
        ] {
            let after = settle(before);
            assert!(jump().is_first(&after), "{before:?} became {after:?}");
            assert_eq!(after[1..], texts(&[X]), "from {before:?}");
        }
    }

    #[test]
    fn a_chain_with_a_longer_name_is_not_ours() {
        let foreign = texts(&["-j NOT-OURS", "-j OURS-2", "-m comment --comment \"-j OURS\""]);
        assert_eq!(jump().all_in(&foreign).count(), 0);
    }

    #[test]
    fn a_jump_for_all_packets_has_no_leading_space() {
        let jump = Jump { matching: String::new(), ..jump() };
        assert_eq!(jump.spellings()[0], "-m comment --comment \"why\" -j OURS");
    }
}
