//! The shared libraries of this machine that a program needs in an image without a distribution.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::exec;

/// What these programs and libraries are linked with, besides one another.
pub(super) async fn needed_by(files: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for file in files {
        let listing = exec::output(exec::command("ldd").arg(file)).await?;
        let needed = libraries_of(&listing, |name| is_among(files, name));
        found.extend(needed.with_context(|| format!("cannot run {}", file.display()))?);
    }
    Ok(found)
}

/// Copies files to where they lie here, below a folder that will be the image's root. Links are
/// followed, so that no library hangs in the air.
pub(super) fn copy_below<'a>(
    root: &Path,
    files: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<()> {
    for file in files {
        let target = root.join(file.strip_prefix("/").unwrap_or(file));
        let parent = target.parent().unwrap_or(root);
        fs::create_dir_all(parent)
            .and_then(|()| fs::copy(file, &target))
            .with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

fn is_among(files: &[PathBuf], name: &str) -> bool {
    files.iter().any(|file| file.file_name().is_some_and(|own| own == name))
}

/// Paths in the output of `ldd`: `name => path (address)`, or the loader's bare `path (address)`.
fn libraries_of(listing: &str, comes_along: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in listing.lines().map(str::trim) {
        let (name, place) = line.split_once("=>").unwrap_or((line, line));
        if comes_along(name.trim()) {
            continue;
        }
        if place.contains("not found") {
            bail!("a library is missing: {line}");
        }
        let path = place.split_whitespace().next().filter(|word| word.starts_with('/'));
        found.extend(path.map(PathBuf::from));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\tlinux-vdso.so.1 (0x00007fd2)\n\
        \tlibxtables.so.12 => /lib/x86_64-linux-gnu/libxtables.so.12 (0x00007fd2)\n\
        \tlibjvm.so => not found\n\
        \tlibjli.so => /opt/java/bin/../lib/libjli.so (0x00007fd2)\n\
        \t/lib64/ld-linux-x86-64.so.2 (0x00007fd2)\n";

    #[test]
    fn libraries_and_the_loader_are_found_and_the_kernels_own_is_not() {
        let files = ["/jre/lib/libjli.so", "/jre/lib/server/libjvm.so"].map(PathBuf::from);
        assert_eq!(
            libraries_of(LISTING, |name| is_among(&files, name)).unwrap(),
            [
                Path::new("/lib/x86_64-linux-gnu/libxtables.so.12"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }

    #[test]
    fn a_library_that_is_nowhere_is_named() {
        let error = libraries_of(LISTING, |_| false).unwrap_err().to_string();
        assert!(error.contains("libjvm.so"), "{error}");
    }
}
