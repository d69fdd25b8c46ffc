//! A network of the measurement's own: nothing collides with the machine's ports, nothing leaves.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

/// A load with new connections uses more ports in a few seconds than the default range has.
const SETTINGS: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535"),
    ("/proc/sys/net/ipv4/tcp_tw_reuse", "1"),
];

/// Moves this process into a network namespace with nothing but loopback. To be called before
/// there are threads: only the calling one moves.
pub(crate) fn enter() -> Result<()> {
    match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => {}
        Err(Errno::EPERM) => enter_as_user().context(
            "cannot make a network namespace: run as root, or allow user namespaces to users",
        )?,
        Err(error) => return Err(error).context("cannot make a network namespace"),
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    let up = up.context("cannot run ip: install iproute2")?;
    ensure!(up.success(), "loopback of the new network namespace cannot be switched on");
    for (file, value) in SETTINGS {
        fs::write(file, value).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(())
}

/// As somebody who is root in a user namespace of their own.
fn enter_as_user() -> Result<()> {
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))?;
    Ok(())
}
