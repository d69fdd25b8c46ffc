//! Installs the Debian packages that are missing, and says so.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::progress::Progress;

/// A program or file, and the package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Name of a program, or an absolute path.
    pub what: &'static str,
    /// Debian's package.
    pub package: &'static str,
}

const fn need(what: &'static str, package: &'static str) -> Need {
    Need { what, package }
}

/// To run nodes.
pub const RUN: &[Need] = &[
    need("ip", "iproute2"),
    need("nsenter", "util-linux"),
    need("containerd", "containerd"),
    need("runc", "runc"),
    need("/usr/lib/cni/ptp", "containernetworking-plugins"),
    need("iptables", "iptables"),
    need("conntrack", "conntrack"),
    need("mount", "mount"),
    need("buildah", "buildah"),
];

/// To build the product's images.
pub const BUILD_IMAGES: &[Need] = &[
    need("buildah", "buildah"),
    need("musl-gcc", "musl-tools"),
    need("xtables-nft-multi", "iptables"),
    need("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];

/// To build images of client applications in Python, and of command-line tools.
pub const BUILD_CLIENTS: &[Need] =
    &[need("buildah", "buildah"), need("mmdebstrap", "mmdebstrap"), need("pip3", "python3-pip")];

/// To build images of client applications in JavaScript. Node.js itself comes with pip.
pub const BUILD_JAVASCRIPT: &[Need] = &[
    need("buildah", "buildah"),
    need("pip3", "python3-pip"),
    need("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];

/// To build images of client applications in Java.
pub const BUILD_JAVA: &[Need] = &[
    need("buildah", "buildah"),
    need("javac", "default-jdk-headless"),
    need("jlink", "default-jdk-headless"),
    need("mvn", "maven"),
];

/// Installs what is missing of these.
pub async fn ensure(needs: &[Need], progress: &Progress) -> Result<()> {
    let missing = missing_packages(needs, is_present);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if exec::which("apt-get").is_none() {
        bail!("these are missing, and there is no apt-get to install them with: {list}");
    }
    progress.step(format!("installing with apt-get: {list}"));
    let install = async {
        exec::run(apt_get().arg("update")).await?;
        let mut install = apt_get();
        install.args(["install", "--yes", "--no-install-recommends"]).args(&missing);
        exec::run(&mut install).await
    };
    progress
        .watch("installing", install)
        .await
        .with_context(|| format!("cannot install {list}: do it by hand, then try again"))?;
    let still = missing_packages(needs, is_present);
    if !still.is_empty() {
        bail!("installed, but still not found: {}", still.join(" "));
    }
    Ok(())
}

fn apt_get() -> tokio::process::Command {
    let mut command = exec::command("apt-get");
    // Another installation may be under way.
    command.args(["--quiet", "--option=DPkg::Lock::Timeout=300"]);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_present(what: &str) -> bool {
    if what.starts_with('/') { Path::new(what).exists() } else { exec::which(what).is_some() }
}

fn missing_packages(needs: &[Need], present: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages: Vec<_> =
        needs.iter().filter(|need| !present(need.what)).map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_of_missing_things_are_installed_and_each_once() {
        let needs = [need("a", "one"), need("b", "one"), need("c", "two"), need("/d", "three")];
        assert_eq!(missing_packages(&needs, |what| what == "c"), ["one", "three"]);
        assert!(missing_packages(&needs, |_| true).is_empty());
    }

    #[test]
    fn programs_are_found_by_name_and_files_by_path() {
        assert!(is_present("sh") && is_present("/proc/self"));
        assert!(!is_present("no-such-program-here") && !is_present("/no/such/file"));
    }
}
