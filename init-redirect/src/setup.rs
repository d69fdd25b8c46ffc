//! Sets the redirect with the first backend that is seen to work.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use netfilter::{Backend, BackendChoice, Iptables, Table, legacy_in_use};

use crate::args::Config;
use crate::failure::{AttemptError, Failure};
use crate::host::{Chains, HostNamespace};
use crate::rules::{Redirect, Wireserver};
use crate::verify::verify;

/// What was achieved.
#[derive(Debug)]
pub(crate) struct Outcome {
    backend: Backend,
    redirect: Redirect,
    /// How many changes that took; none if it was all there.
    edits: usize,
}

/// Refuses the host's namespace, then tries one backend after the other.
pub(crate) fn run(config: &Config) -> Result<Outcome, Failure> {
    refuse_host(config)?;
    let mut attempts = Vec::new();
    for backend in order(config.backend, is_legacy_ground(config.command_timeout)) {
        let iptables = Iptables::new(backend, config.command_timeout);
        match attempt(&iptables, &config.redirect, config.verify_timeout) {
            Ok(edits) => {
                return Ok(Outcome { backend, redirect: config.redirect.clone(), edits });
            }
            Err(error) => {
                // legacy needs more rights than nft, never fewer
                let hopeless = backend == Backend::Nft && error.is_not_permitted();
                attempts.push((backend, error));
                if hopeless {
                    break;
                }
            }
        }
    }
    Err(Failure::NotSet(attempts))
}

fn refuse_host(config: &Config) -> Result<(), Failure> {
    let by_address = HostNamespace::by_address(config.node_ip, config.pod_ip)
        .map_err(|error| Failure::Internal("tell whether the node's address is local", error))?;
    if let Some(found) = by_address {
        return Err(Failure::HostNamespace(found));
    }
    let mut chains = Chains::default();
    for backend in [Backend::Nft, Backend::Legacy] {
        let iptables = Iptables::new(backend, config.command_timeout);
        chains = chains
            .read(&iptables)
            .map_err(|error| Failure::NotSet(vec![(backend, AttemptError::Unusable(error))]))?;
    }
    HostNamespace::by_chains(chains).map_or(Ok(()), |found| Err(Failure::HostNamespace(found)))
}

/// Whether somebody, for example a mesh's CNI plugin or we ourselves, already redirects here with
/// `iptables-legacy` only. Among nat chains of both kinds the kernel asks the older one first.
fn is_legacy_ground(timeout: Duration) -> bool {
    let redirects = |backend| {
        let rules = Iptables::new(backend, timeout).look(Table::Nat, "OUTPUT");
        rules.is_ok_and(|rules| !rules.is_empty())
    };
    legacy_in_use(Table::Nat) && redirects(Backend::Legacy) && !redirects(Backend::Nft)
}

/// Which backends to try, in which order.
fn order(choice: BackendChoice, legacy_ground: bool) -> Vec<Backend> {
    match choice {
        BackendChoice::Only(backend) => vec![backend],
        BackendChoice::Auto if legacy_ground => vec![Backend::Legacy, Backend::Nft],
        BackendChoice::Auto => vec![Backend::Nft, Backend::Legacy],
    }
}

/// Writes, reads back and verifies; returns how many edits it took.
///
/// What was written is not taken back on failure: in a pod that runs already it may be all that
/// stands between the application and the node's identity.
fn attempt(
    iptables: &Iptables,
    redirect: &Redirect,
    timeout: Duration,
) -> Result<usize, AttemptError> {
    for table in [Table::Nat, Table::Filter] {
        iptables.look(table, "OUTPUT").map_err(AttemptError::Unusable)?;
    }
    let mut edits = 0;
    for (chain, jump) in redirect.chains() {
        edits += iptables.sync_chain(&chain).map_err(AttemptError::Apply)?;
        edits += iptables.sync_jump(&jump).map_err(AttemptError::Apply)?;
    }
    // an earlier run may have used the other backend, with another port
    let other = iptables.with_backend(iptables.backend().other());
    for (_, jump) in redirect.chains() {
        match other.remove(&jump) {
            Ok(removed) => edits += usize::from(removed),
            // cannot be used here, so it was not; the verification finds out if that is wrong
            Err(_) => break,
        }
    }
    verify(redirect, timeout).map_err(AttemptError::Verify)?;
    Ok(edits)
}

// === impl Outcome ===

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, redirect: Redirect { metadata, to_port, wireserver }, edits } = self;
        let rules: usize =
            self.redirect.chains().iter().map(|(chain, _)| chain.rules.len() + 1).sum();
        let rejected = match wireserver {
            Wireserver::Blocked => " and the wireserver except for DNS",
            Wireserver::Open => "",
        };
        write!(
            f,
            "Redirected {metadata} to {}:{to_port}, rejected the rest of {}{rejected}: \
             {rules} rules of {backend}, {edits} edits, verified",
            Ipv4Addr::LOCALHOST,
            metadata.ip(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nft_is_first_unless_the_namespace_is_legacys_already() {
        use Backend::{Legacy, Nft};
        for (choice, legacy_ground, expected) in [
            (BackendChoice::Auto, false, vec![Nft, Legacy]),
            (BackendChoice::Auto, true, vec![Legacy, Nft]),
            (BackendChoice::Only(Nft), true, vec![Nft]),
            (BackendChoice::Only(Legacy), false, vec![Legacy]),
        ] {
            assert_eq!(order(choice, legacy_ground), expected, "{choice} {legacy_ground}");
        }
    }

    #[test]
    fn the_outcome_is_one_line() {
        let metadata = "169.254.169.254:80".parse().unwrap();
        let redirect = Redirect { metadata, to_port: 2579, wireserver: Wireserver::Blocked };
        let outcome = Outcome { backend: Backend::Nft, redirect, edits: 0 };
        assert_eq!(
            outcome.to_string(),
            "Redirected 169.254.169.254:80 to 127.0.0.1:2579, rejected the rest of \
             169.254.169.254 and the wireserver except for DNS: 10 rules of iptables-nft, 0 edits, \
             verified"
        );
    }
}
