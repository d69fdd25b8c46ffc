//! A chain that belongs to us, and the edits that bring it from what it is to what it should be.
//!
//! Pure: the order of the edits is the point, because each of them takes effect on its own.

use std::fmt;

/// The tables of iptables that we look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Where the first packet of a connection may get another destination.
    Nat,
    /// Where packets are let through or rejected.
    Filter,
    /// Where kubelet leaves a mark of the backend that it uses.
    Mangle,
}

/// One of our chains and all the rules it should hold.
///
/// A rule is the text that `iptables -S` prints for it, without `-A <chain>`: what is read back is
/// compared with it letter by letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The table it is in.
    pub table: Table,
    /// Its name.
    pub name: &'static str,
    /// Its rules, first to last.
    pub rules: Vec<String>,
}

/// One command that changes a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Put this rule at position 1.
    Insert(String),
    /// Delete the first rule with this text.
    Delete(String),
    /// Delete the rule at this position, counted from 1. Only for chains that nobody else writes.
    DeleteAt(usize),
}

// === impl Table ===

impl Table {
    /// The name that iptables gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
            Self::Mangle => "mangle",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Chain ===

impl Chain {
    /// The edits that turn `current` into this chain's rules; none if it is right already.
    ///
    /// The new rules go on top, last one first, before any old rule goes: a packet meets the old
    /// rules or the new ones, never a chain with a hole.
    pub fn edits(&self, current: &[String]) -> Vec<Edit> {
        if current == self.rules {
            return Vec::new();
        }
        let inserts = self.rules.iter().rev().cloned().map(Edit::Insert);
        let last = self.rules.len() + current.len();
        let deletes = (self.rules.len() + 1..=last).rev().map(Edit::DeleteAt);
        inserts.chain(deletes).collect()
    }
}

/// The rules of `chain` in what `iptables -S` printed.
pub(crate) fn rules_of(listing: &str, chain: &str) -> Vec<String> {
    listing
        .lines()
        .filter_map(|line| line.strip_prefix("-A ")?.strip_prefix(chain))
        // a rule without match and target is printed as the chain's name alone
        .filter_map(|rest| if rest.is_empty() { Some(rest) } else { rest.strip_prefix(' ') })
        .map(str::to_owned)
        .collect()
}

/// The chains in what `iptables -S` printed, built-in ones included.
pub(crate) fn chains_of(listing: &str) -> impl Iterator<Item = &str> {
    listing.lines().filter_map(|line| {
        let rest = line.strip_prefix("-P ").or_else(|| line.strip_prefix("-N "))?;
        rest.split(' ').next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(rules: &[&str]) -> Vec<String> {
        rules.iter().map(|rule| (*rule).to_owned()).collect()
    }

    fn chain(rules: &[&str]) -> Chain {
        Chain { table: Table::Filter, name: "OURS", rules: texts(rules) }
    }

    /// What the kernel would hold after each edit.
    fn states(current: &[&str], edits: &[Edit]) -> Vec<Vec<String>> {
        let mut rules = texts(current);
        let mut states = Vec::new();
        for edit in edits {
            match edit {
                Edit::Insert(rule) => rules.insert(0, rule.clone()),
                Edit::Delete(rule) => {
                    let at = rules.iter().position(|r| r == rule).expect("a rule to delete");
                    rules.remove(at);
                }
                Edit::DeleteAt(position) => {
                    rules.remove(position - 1);
                }
            }
            states.push(rules.clone());
        }
        states
    }

    #[test]
    fn a_chain_that_is_right_is_left_alone() {
        assert_eq!(chain(&["a", "b"]).edits(&texts(&["a", "b"])), []);
        assert_eq!(chain(&[]).edits(&[]), []);
    }

    #[test]
    fn any_other_chain_ends_up_with_exactly_the_wanted_rules() {
        for current in [&[][..], &["a"], &["b", "a"], &["a", "b", "x"], &["x"], &["a", "a", "b"]] {
            let wanted = chain(&["a", "b"]);
            let states = states(current, &wanted.edits(&texts(current)));
            assert_eq!(states.last().unwrap(), &wanted.rules, "from {current:?}");
        }
    }

    #[test]
    fn new_rules_are_complete_before_the_first_old_one_goes() {
        let wanted = chain(&["new 1", "new 2"]);
        let edits = wanted.edits(&texts(&["old 1", "old 2"]));
        for state in states(&["old 1", "old 2"], &edits) {
            let old = state.ends_with(&texts(&["old 1", "old 2"]));
            let new = state.starts_with(&wanted.rules);
            assert!(old || new, "a hole: {state:?}");
        }
    }

    #[test]
    fn a_listing_is_split_by_chain() {
        let listing = "-P OUTPUT ACCEPT\n-N OURS\n-N OURS-2\n-A OUTPUT -j OURS\n\
                       -A OURS -d 10.0.0.1/32 -j RETURN\n-A OURS-2 -j DROP\n-A OURS\n";
        assert_eq!(rules_of(listing, "OURS"), ["-d 10.0.0.1/32 -j RETURN", ""]);
        assert_eq!(rules_of(listing, "OUTPUT"), ["-j OURS"]);
        assert_eq!(rules_of(listing, "NONE"), [""; 0]);
        assert_eq!(chains_of(listing).collect::<Vec<_>>(), ["OUTPUT", "OURS", "OURS-2"]);
    }
}
