//! Rules of aad-pod-identity's node agent (NMI): it takes them along when it ends, unless it was
//! killed. They send pods' requests for the metadata service to a port of the node, past the
//! FORWARD path. Seen and said here, removed by a person.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use netfilter::{Backend, Iptables, Table, legacy_in_use};

/// NMI's chain in the nat table.
const CHAIN: &str = "aad-metadata";

/// Every so many checks of our own rules.
const EVERY: u32 = 10;

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Predecessor {
    looks: AtomicU32,
    seen: AtomicBool,
}

// === impl Predecessor ===

impl Predecessor {
    /// Looks now and then, and says what is new.
    pub(super) fn look(&self, timeout: Duration) {
        if !self.looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERY) {
            return;
        }
        let now = has_rules(timeout);
        match (self.seen.swap(now, Ordering::Relaxed), now) {
            (false, true) => tracing::warn!(
                chain = CHAIN,
                "Rules of aad-pod-identity are on this node; if NMI does not run here any more, remove them as docs/migrate.md says"
            ),
            (true, false) => {
                tracing::info!("Rules of aad-pod-identity are not on this node any more");
            }
            _ => {}
        }
    }
}

/// A listing that fails shows no chain: mostly there is none.
fn has_rules(timeout: Duration) -> bool {
    let has = |backend| {
        let rules = Iptables::new(backend, timeout).rules(Table::Nat, CHAIN);
        rules.is_ok_and(|rules| !rules.is_empty())
    };
    has(Backend::Nft) || legacy_in_use(Table::Nat) && has(Backend::Legacy)
}
