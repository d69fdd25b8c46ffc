//! The files that a scratch image needs to run iptables, both flavours, taken from Debian's package.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::files::Fingerprint;
use crate::images::libraries;

const PROGRAMS: [&str; 2] = ["xtables-nft-multi", "xtables-legacy-multi"];
/// Plain `iptables` is the flavour of nft, like Debian's; legacy is there for kernels without it.
const LINKS: [(&str, &str); 9] = [
    ("iptables", "xtables-nft-multi"),
    ("iptables-save", "xtables-nft-multi"),
    ("iptables-restore", "xtables-nft-multi"),
    ("iptables-nft", "xtables-nft-multi"),
    ("iptables-nft-save", "xtables-nft-multi"),
    ("iptables-nft-restore", "xtables-nft-multi"),
    ("iptables-legacy", "xtables-legacy-multi"),
    ("iptables-legacy-save", "xtables-legacy-multi"),
    ("iptables-legacy-restore", "xtables-legacy-multi"),
];
/// All matches and targets of IPv4, and not only those of our rules: a chain cannot be read back if
/// one of its rules, of whatever other program, uses one that is missing.
const PLUGINS: [&str; 2] = ["libxt_", "libipt_"];

/// Files of this machine, which lie in the image where they lie here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    files: Vec<PathBuf>,
}

impl Base {
    /// Finds the files on this machine.
    pub(super) async fn find() -> Result<Self> {
        let mut files = Vec::new();
        for program in PROGRAMS {
            let path = Path::new("/usr/sbin").join(program);
            if !path.is_file() {
                bail!("{} is missing: install the package iptables", path.display());
            }
            files.push(path);
        }
        let libraries = libraries::needed_by(&files).await?;
        files.extend(plugins(&plugin_folder()?)?);
        files.extend(libraries);
        Ok(Self { files })
    }

    /// Hash of all contents and of how they are laid out.
    pub(super) fn fingerprint(&self) -> Result<String> {
        let mut fingerprint = Fingerprint::default();
        for file in &self.files {
            fingerprint = fingerprint.with_file(&file.to_string_lossy(), file)?;
        }
        for (link, target) in LINKS {
            fingerprint = fingerprint.with(link, target);
        }
        Ok(fingerprint.short())
    }

    /// Copies them below a folder that will be the image's root.
    pub(super) fn copy_to(&self, root: &Path) -> Result<()> {
        libraries::copy_below(root, &self.files)?;
        for (link, target) in LINKS {
            symlink(target, root.join("usr/sbin").join(link))
                .with_context(|| format!("cannot link {link}"))?;
        }
        // iptables-legacy makes its lock file there.
        fs::create_dir_all(root.join("run")).context("cannot make /run")
    }
}

/// In a fixed order, because it goes into the fingerprint.
fn plugins(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let is_plugin = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        PLUGINS.iter().any(|prefix| name.starts_with(prefix)) && name.ends_with(".so")
    };
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_plugin).collect())
}

/// `/usr/lib/<architecture>/xtables`.
fn plugin_folder() -> Result<PathBuf> {
    let entries = fs::read_dir("/usr/lib").context("cannot list /usr/lib")?;
    entries
        .flatten()
        .map(|entry| entry.path().join("xtables"))
        .find(|folder| folder.join("libxt_standard.so").is_file())
        .context("iptables' plugins are missing: install the package iptables")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_and_targets_of_ipv4_are_taken_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["libxt_tcp.so", "libipt_REJECT.so", "libip6t_ah.so", "libebt_ip.so", "libxt_x"]
        {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = plugins(dir.path()).unwrap();
        let expected = ["libipt_REJECT.so", "libxt_tcp.so"].map(|name| dir.path().join(name));
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
    }
}
