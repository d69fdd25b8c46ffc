//! Keeps pods that were not injected away from the metadata service, in the node's FORWARD path.
//!
//! Blocking: call it from `spawn_blocking`. It stays in place when the process ends, so that a
//! restart or an upgrade opens nothing; only an uninstall takes it away, by [`Guard::remove`].
//! Which pods are excepted is decided elsewhere.

mod backend;
mod predecessor;
mod rules;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use netfilter::{Backend, BackendChoice, Edit, Error, Iptables, Jump};
use parking_lot::Mutex;

/// What the guard protects, and how.
#[derive(Clone, Debug)]
pub(crate) struct GuardConfig {
    /// The address that pods must not reach.
    pub(crate) metadata_ip: Ipv4Addr,
    /// Which iptables to use; `Auto` follows kubelet and kube-proxy.
    pub(crate) backend: BackendChoice,
    /// How long one command may take, the wait for other writers included.
    pub(crate) command_timeout: Duration,
}

/// The rules on this node. All calls are serialised.
#[derive(Debug)]
pub(crate) struct Guard {
    config: GuardConfig,
    jump: Jump,
    state: Mutex<Option<InPlace>>,
    predecessor: predecessor::Predecessor,
}

/// What this process has put in place.
#[derive(Clone, Debug)]
struct InPlace {
    backend: Backend,
    excepted: BTreeSet<Ipv4Addr>,
}

/// What one call of [`Guard::apply`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The implementation that is used on this node.
    pub(crate) backend: Backend,
    /// How many changes of our chain it took; none if it was right.
    pub(crate) edits: usize,
    /// Whether the jump was missing, or another rule had got in front of it.
    pub(crate) repositioned: bool,
}

/// Why the guard is not, or not surely, as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuardError {
    /// A command failed. What was in place before it still is.
    #[error("the node guard's rules could not be brought up to date or read")]
    Rules(#[from] Error),

    /// Our chain is not what was asked for.
    #[error("the node guard's chain was changed by somebody else: it holds {found:?}")]
    Changed {
        /// Its rules.
        found: Vec<String>,
    },

    /// Nothing was applied by this process yet.
    #[error("the node guard was not applied yet")]
    NotApplied,
}

// === impl Guard ===

impl Guard {
    /// Nothing is read or written yet.
    pub(crate) fn new(config: GuardConfig) -> Self {
        let jump = rules::jump(config.metadata_ip);
        Self { config, jump, state: Mutex::new(None), predecessor: Default::default() }
    }

    /// Rejects every pod's traffic to the metadata service, except from these addresses.
    ///
    /// To be called again and again: it repairs what was changed, and puts the jump back in front
    /// of what kube-proxy or a CNI plugin inserted. At no instant is a pod let through that is not
    /// in the old set or in the new one.
    pub(crate) fn apply(&self, excepted: &BTreeSet<Ipv4Addr>) -> Result<Applied, GuardError> {
        let mut state = self.state.lock();
        let known = state.as_ref().map(|in_place| in_place.backend);
        let backend = match (known, self.config.backend) {
            (Some(backend), _) | (None, BackendChoice::Only(backend)) => backend,
            (None, BackendChoice::Auto) => backend::of_node(self.config.command_timeout)?,
        };
        let iptables = self.iptables(backend);
        let edits = self.sync_chain(&iptables, excepted)?;
        let repositioned = iptables.sync_jump(&self.jump)? > 0;
        if known.is_none() {
            // an earlier process may have chosen otherwise, and its exceptions would be stale
            self.remove_from(backend.other())?;
        }
        *state = Some(InPlace { backend, excepted: excepted.clone() });
        self.predecessor.look(self.config.command_timeout);
        Ok(Applied { backend, edits, repositioned })
    }

    /// Fails unless what was applied last is still in place. Changes nothing.
    pub(crate) fn verify(&self) -> Result<(), GuardError> {
        let state = self.state.lock();
        let InPlace { backend, excepted } = state.as_ref().ok_or(GuardError::NotApplied)?;
        let iptables = self.iptables(*backend);
        let found = iptables.rules(self.jump.table, self.jump.to)?;
        if !rules::are_right(&found, excepted) {
            return Err(GuardError::Changed { found });
        }
        iptables.check_jump(&self.jump)?;
        self.predecessor.look(self.config.command_timeout);
        Ok(())
    }

    /// Takes everything of ours away, whoever put it there. From then on pods reach the service.
    pub(crate) fn remove(&self) -> Result<(), GuardError> {
        let mut state = self.state.lock();
        // one that cannot be cleaned must not keep the other from being cleaned
        let results = [Backend::Nft, Backend::Legacy].map(|backend| self.remove_from(backend));
        *state = None;
        results.into_iter().collect()
    }

    fn iptables(&self, backend: Backend) -> Iptables {
        Iptables::new(backend, self.config.command_timeout)
    }

    fn sync_chain(
        &self,
        iptables: &Iptables,
        excepted: &BTreeSet<Ipv4Addr>,
    ) -> Result<usize, GuardError> {
        let Jump { table, to, .. } = self.jump;
        let edits: Vec<Edit> = rules::edits(&iptables.ensure_chain(table, to)?, excepted);
        if edits.is_empty() {
            return Ok(0);
        }
        iptables.edit(table, to, &edits)?;
        let found = iptables.rules(table, to)?;
        if rules::are_right(&found, excepted) {
            Ok(edits.len())
        } else {
            Err(GuardError::Changed { found })
        }
    }

    /// A backend that does not work here at all holds nothing of ours.
    fn remove_from(&self, backend: Backend) -> Result<(), GuardError> {
        let iptables = self.iptables(backend);
        match iptables.chains(self.jump.table) {
            Ok(_) => {
                iptables.remove(&self.jump)?;
                Ok(())
            }
            Err(Error::NotInstalled { .. } | Error::Failed { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
