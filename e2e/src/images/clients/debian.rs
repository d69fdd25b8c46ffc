//! A small Debian with Python, made once for all images that are built on it, and Python packages
//! for it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::exec;
use crate::files::Fingerprint;
use crate::images::buildah;
use crate::paths::Cache;
use crate::progress::Progress;

const NAME: &str = "debian-python";
const SUITE: &str = "bookworm";
/// The suite's Python: the packages must fit it, whatever this machine's own is.
const PYTHON: &str = "3.11";
const PACKAGES: &str = "python3,ca-certificates,curl,iproute2,openssl";
const WITHOUT: [&str; 4] = [
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
];

/// Hash of what it is made from.
pub(super) fn fingerprint() -> String {
    Fingerprint::default()
        .with("suite", SUITE)
        .with("packages", PACKAGES)
        .with("without", WITHOUT.join(" "))
        .short()
}

/// Puts the archive at `to`; makes it first if the cache does not have it.
pub(super) async fn place(to: &Path, cache: &Cache, progress: &Progress) -> Result<()> {
    let archive = buildah::archive(cache, NAME, &fingerprint());
    if !archive.is_file() {
        progress.step("making a small Debian with Python (once)");
        let temporary = archive.with_extension("new");
        crate::files::remove(&temporary).context("cannot remove an unfinished archive")?;
        progress.watch("making the Debian", make(&temporary)).await?;
        fs::rename(&temporary, &archive).context("cannot put the Debian into the cache")?;
        buildah::remove_older(&archive, NAME)?;
    }
    // The folder of a build is in the cache too.
    fs::hard_link(&archive, to).context("cannot use the Debian in the cache")
}

async fn make(archive: &Path) -> Result<()> {
    let mut command = exec::command("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", "--format=tar"]);
    command.arg(format!("--include={PACKAGES}"));
    for option in WITHOUT {
        command.arg(format!("--dpkgopt={option}"));
    }
    // Debian's default mirror, or the one that this machine is set up for.
    exec::run(command.arg(SUITE).arg(archive)).await.context("cannot make a small Debian")
}

/// Installs a complete list of packages, without a package manager in the image, and for its
/// Python, not for this machine's.
pub(super) async fn install_python(
    requirements: &Path,
    target: &Path,
    progress: &Progress,
) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
    let mut command = exec::command("pip3");
    command
        .args(["install", "--quiet", "--no-compile", "--no-deps", "--only-binary=:all:"])
        .args(["--disable-pip-version-check", "--root-user-action=ignore"])
        .args(["--python-version", PYTHON, "--implementation", "cp"])
        .args(["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"])
        .arg("--target")
        .arg(target)
        .arg("--requirement")
        .arg(requirements);
    progress
        .watch("installing from PyPI", exec::run(&mut command))
        .await
        .context("cannot install the Python packages")
}
