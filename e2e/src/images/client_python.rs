//! The base of client applications in Python: a small Debian with Azure's SDK, as a user would have.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::exec;
use crate::files::Fingerprint;
use crate::images::Built;
use crate::images::buildah::Recipe;
use crate::paths::Cache;
use crate::progress::Progress;

pub(super) const NAME: &str = "client-python";

const SUITE: &str = "bookworm";
/// The suite's Python: the packages must fit it, whatever this machine's own is.
const PYTHON: &str = "3.11";
const PACKAGES: &str = "python3,ca-certificates,curl,iproute2";
const REQUIREMENTS: [&str; 1] = ["azure-identity==1.27.0"];
const SITE_PACKAGES: &str = "usr/lib/python3/dist-packages";
const WITHOUT: [&str; 4] = [
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
];

/// Builds it unless the cache has it.
pub(super) async fn build(cache: &Cache, progress: &Progress) -> Result<Built> {
    let recipe = Recipe { name: NAME, inputs: recipe_hash() };
    let stage = async |context: &Path| {
        progress.step("making a small Debian with Python (once)");
        progress.watch("making the Debian", debian(&context.join("debian.tar"))).await?;
        progress.watch("installing Python packages", packages(&context.join("python"))).await
    };
    recipe.ensure(cache, progress, stage).await
}

fn recipe_hash() -> String {
    Fingerprint::default()
        .with("suite", SUITE)
        .with("packages", PACKAGES)
        .with("requirements", REQUIREMENTS.join(" "))
        .with("without", WITHOUT.join(" "))
        .short()
}

async fn debian(archive: &Path) -> Result<()> {
    let mut command = exec::command("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}")]);
    for option in WITHOUT {
        command.arg(format!("--dpkgopt={option}"));
    }
    // Debian's default mirror, or the one that this machine is set up for.
    exec::run(command.arg(SUITE).arg(archive)).await.context("cannot make a small Debian")
}

/// Without a package manager in the image, and for its Python, not for this machine's.
async fn packages(root: &Path) -> Result<()> {
    let target = root.join(SITE_PACKAGES);
    fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let mut command = exec::command("pip3");
    command
        .args(["install", "--quiet", "--no-compile", "--only-binary=:all:"])
        .args(["--disable-pip-version-check", "--root-user-action=ignore"])
        .args(["--python-version", PYTHON, "--implementation", "cp"])
        .args(["--platform", "manylinux_2_28_x86_64", "--platform", "manylinux2014_x86_64"])
        .arg("--target")
        .arg(&target)
        .args(REQUIREMENTS);
    exec::run(&mut command).await.context("cannot install the Python packages")
}
