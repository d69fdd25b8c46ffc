//! The files that a scratch image needs to run iptables, both flavours, taken from Debian's package.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::files::Fingerprint;

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
        let mut libraries = BTreeSet::new();
        for program in PROGRAMS {
            let path = Path::new("/usr/sbin").join(program);
            if !path.is_file() {
                bail!("{} is missing: install the package iptables", path.display());
            }
            let listing = exec::output(exec::command("ldd").arg(&path)).await?;
            libraries.extend(libraries_of(&listing)?);
            files.push(path);
        }
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

    /// Copies them below a folder that will be the image's root. Links are followed, so that no
    /// library hangs in the air.
    pub(super) fn copy_to(&self, root: &Path) -> Result<()> {
        for file in &self.files {
            let target = root.join(file.strip_prefix("/").unwrap_or(file));
            let parent = target.parent().unwrap_or(root);
            fs::create_dir_all(parent)
                .and_then(|()| fs::copy(file, &target))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
        for (link, target) in LINKS {
            symlink(target, root.join("usr/sbin").join(link))
                .with_context(|| format!("cannot link {link}"))?;
        }
        // iptables-legacy makes its lock file there.
        fs::create_dir_all(root.join("run")).context("cannot make /run")
    }
}

/// Paths in the output of `ldd`: `name => path (address)`, or the loader's bare `path (address)`.
fn libraries_of(listing: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in listing.lines() {
        if line.contains("not found") {
            bail!("a library of iptables is missing: {}", line.trim());
        }
        let place = line.split_once("=>").map_or(line, |(_, place)| place);
        let path = place.split_whitespace().next().filter(|word| word.starts_with('/'));
        found.extend(path.map(PathBuf::from));
    }
    Ok(found)
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

    #[test]
    fn libraries_and_the_loader_are_found_and_the_kernels_own_is_not() {
        let listing = "\tlinux-vdso.so.1 (0x00007fd2)\n\
            \tlibxtables.so.12 => /lib/x86_64-linux-gnu/libxtables.so.12 (0x00007fd2)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007fd2)\n";
        assert_eq!(
            libraries_of(listing).unwrap(),
            [
                Path::new("/lib/x86_64-linux-gnu/libxtables.so.12"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert!(libraries_of("\tlibmnl.so.0 => not found\n").is_err());
    }
}
