//! Which iptables the node's other components use, so that the guard's rules stand among theirs.
//!
//! A rejection holds in either: a packet passes the rules of both. But an administrator looks for
//! rules where the others are, and two backends in use warn and confuse.

use std::collections::BTreeSet;
use std::time::Duration;

use netfilter::{Backend, Error, Iptables, Table};

/// Chains that kubelet keeps in the backend of the node, for others to see.
const MARKS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];

/// The start of all chains of kubelet and kube-proxy.
const NODE_CHAIN_PREFIX: &str = "KUBE-";

/// What is to be seen of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// It has chains of the node's components.
    InUse,
    /// It works, and has none.
    Unused,
    /// It does not work here.
    Broken,
}

/// The backend of this node.
pub(super) fn of_node(timeout: Duration) -> Result<Backend, Error> {
    let nft = Iptables::new(Backend::Nft, timeout);
    let nft = see(nft.chains(Table::Mangle), |chain| MARKS.contains(&chain))?;
    let legacy = Iptables::new(Backend::Legacy, timeout);
    let mut chains = BTreeSet::new();
    for table in [Table::Mangle, Table::Nat, Table::Filter] {
        match legacy.chains(table) {
            Ok(found) => chains.extend(found),
            // without a right to look there is no right to use it
            Err(Error::NotPermitted { .. }) => {}
            Err(error) => return Ok(choose(nft, see(Err(error), |_| false)?)),
        }
    }
    Ok(choose(nft, see(Ok(chains), |chain| chain.starts_with(NODE_CHAIN_PREFIX))?))
}

/// A backend that does not work is as good as unused; a refusal or a busy lock is not an answer.
fn see(
    chains: Result<BTreeSet<String>, Error>,
    is_mark: impl Fn(&str) -> bool,
) -> Result<Sight, Error> {
    match chains {
        Ok(chains) if chains.iter().any(|chain| is_mark(chain)) => Ok(Sight::InUse),
        Ok(_) => Ok(Sight::Unused),
        Err(Error::NotInstalled { .. } | Error::Failed { .. } | Error::LockFile { .. }) => {
            Ok(Sight::Broken)
        }
        Err(error) => Err(error),
    }
}

/// The one in use; nft if both are or none is, unless it does not work.
fn choose(nft: Sight, legacy: Sight) -> Backend {
    match (nft, legacy) {
        (Sight::InUse, _) | (Sight::Unused, Sight::Unused | Sight::Broken) => Backend::Nft,
        (Sight::Unused | Sight::Broken, _) => Backend::Legacy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_goes_where_the_nodes_chains_are() {
        use Backend::{Legacy, Nft};
        use Sight::{Broken, InUse, Unused};
        for (nft, legacy, expected) in [
            (InUse, InUse, Nft),
            (InUse, Unused, Nft),
            (InUse, Broken, Nft),
            (Unused, InUse, Legacy),
            (Unused, Unused, Nft),
            (Unused, Broken, Nft),
            (Broken, InUse, Legacy),
            (Broken, Unused, Legacy),
            (Broken, Broken, Legacy),
        ] {
            assert_eq!(choose(nft, legacy), expected, "nft {nft:?}, legacy {legacy:?}");
        }
    }

    #[test]
    fn a_refusal_is_an_error_and_not_an_unused_backend() {
        let denied = Error::NotPermitted { backend: Backend::Nft, detail: "no".to_owned() };
        see(Err(denied), |_| true).unwrap_err();
        let missing = Error::NotInstalled { backend: Backend::Nft };
        assert_eq!(see(Err(missing), |_| true).unwrap(), Sight::Broken);
    }
}
