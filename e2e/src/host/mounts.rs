//! Finds and undoes mounts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Kind of file system.
    pub kind: String,
    /// The file system's own options, such as the controllers of a cgroup hierarchy.
    pub options: String,
}

/// The mounts of this process, in the order they were made.
pub fn read() -> Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    Ok(parse(&text))
}

/// Undoes every mount below a folder, the latest first.
///
/// A busy one is detached: its users were killed before, and the rest vanishes with them.
pub fn unmount_below(root: &Path) -> Result<usize> {
    let below: Vec<_> = read()?.into_iter().filter(|mount| mount.point.starts_with(root)).collect();
    for mount in below.iter().rev() {
        umount2(&mount.point, MntFlags::MNT_DETACH)
            .with_context(|| format!("cannot unmount {}", mount.point.display()))?;
    }
    Ok(below.len())
}

fn parse(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let point = unescape(before.split(' ').nth(4)?);
    let mut after = after.split(' ');
    let kind = after.next()?.to_owned();
    let options = after.nth(1).unwrap_or_default().to_owned();
    Some(Mount { point: point.into(), kind, options })
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_its_place_kind_and_options() {
        let text = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
            40 30 0:35 / /sys/fs/cgroup/cpu rw shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct\n\
            41 30 0:36 / /with\\040space rw - tmpfs tmpfs rw,size=1k\n\
            broken\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[1].point, Path::new("/sys/fs/cgroup/cpu"));
        assert_eq!(mounts[1].kind, "cgroup");
        assert_eq!(mounts[1].options, "rw,cpu,cpuacct");
        assert_eq!(mounts[2].point, Path::new("/with space"));
    }

    #[test]
    fn a_folder_without_mounts_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unmount_below(dir.path()).unwrap(), 0);
    }
}
