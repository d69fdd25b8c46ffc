//! Says in one sentence why this machine cannot run the cluster, before anything is touched.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::host::cgroup::Hierarchies;

/// Bits of a capability set.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// What the decision is made from.
#[derive(Clone, Debug)]
struct Machine {
    is_root: bool,
    capabilities: u64,
    missing_controllers: Vec<&'static str>,
}

/// Refuses if this machine cannot run the cluster.
pub fn check() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("/proc is not mounted")?;
    judge(&Machine {
        is_root: nix::unistd::geteuid().is_root(),
        capabilities: effective_capabilities(&status).unwrap_or_default(),
        missing_controllers: Hierarchies::of_this_machine()?.missing(),
    })
}

fn judge(machine: &Machine) -> Result<()> {
    if !machine.is_root {
        bail!("the local cluster makes network namespaces and mounts: run this as root");
    }
    for (bit, name) in [(CAP_SYS_ADMIN, "CAP_SYS_ADMIN"), (CAP_NET_ADMIN, "CAP_NET_ADMIN")] {
        if machine.capabilities & (1 << bit) == 0 {
            bail!("{name} is missing: run this on the machine itself or in a privileged container");
        }
    }
    if !machine.missing_controllers.is_empty() {
        bail!(
            "kubelet needs the cgroup controllers {}: mount the cgroup file system, or enable them on the kernel's command line",
            machine.missing_controllers.join(", ")
        );
    }
    Ok(())
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able() -> Machine {
        Machine { is_root: true, capabilities: u64::MAX, missing_controllers: Vec::new() }
    }

    #[test]
    fn an_able_machine_is_not_refused() {
        judge(&able()).unwrap();
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let cases = [
            (Machine { is_root: false, ..able() }, "run this as root"),
            (Machine { capabilities: !(1 << 21), ..able() }, "CAP_SYS_ADMIN is missing"),
            (Machine { capabilities: !(1 << 12), ..able() }, "CAP_NET_ADMIN is missing"),
            (Machine { missing_controllers: vec!["memory", "pids"], ..able() }, "memory, pids"),
        ];
        for (machine, expected) in cases {
            let error = judge(&machine).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = "CapPrm:\t0000000000000000\nCapEff:\t000001fffeffffff\n";
        assert_eq!(effective_capabilities(status), Some(0x1ff_feff_ffff));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
