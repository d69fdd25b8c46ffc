//! Reads what `/proc` says about processes.

use std::fs;
use std::io::Result;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells a process from a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `Z`…
    pub state: char,
    /// Ticks since boot.
    pub start_time: u64,
}

impl Stat {
    /// Still doing something: a zombie only waits for its parent to notice.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

/// Reads the fields from a line of `/proc/<pid>/stat`.
///
/// The program's name is in parentheses and may itself contain spaces and parentheses.
#[must_use]
pub fn parse_stat(line: &str) -> Option<Stat> {
    let (_, after_name) = line.rsplit_once(") ")?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, start_time })
}

/// State of a process, if there is one of that number.
#[must_use]
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Changes with every boot.
pub fn boot_id() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The program and arguments of a process; empty if it is gone.
#[must_use]
pub fn arguments(pid: i32) -> Vec<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    raw.split(|byte| *byte == 0)
        .filter(|arg| !arg.is_empty())
        .map(|arg| String::from_utf8_lossy(arg).into_owned())
        .collect()
}

/// All processes, threads not.
#[must_use]
pub fn pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Processes that are in the network namespace that this file holds.
#[must_use]
pub fn pids_in_netns(namespace: &Path) -> Vec<i32> {
    let identity =
        |path: &Path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let Some(wanted) = identity(namespace) else { return Vec::new() };
    let is_inside = |pid: &i32| identity(Path::new(&format!("/proc/{pid}/ns/net"))) == Some(wanted);
    pids().into_iter().filter(is_inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let fields = "1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 200";
        let line = format!("4711 (a) b (c)) S {fields}");
        assert_eq!(parse_stat(&line), Some(Stat { state: 'S', start_time: 98765 }));
        assert_eq!(parse_stat("4711 (cut"), None);
        assert_eq!(parse_stat("4711 (cut) S 1 2"), None);
    }

    #[test]
    fn a_zombie_is_not_alive() {
        assert!(!Stat { state: 'Z', start_time: 1 }.is_alive());
        assert!(Stat { state: 'D', start_time: 1 }.is_alive());
    }

    #[test]
    fn this_process_is_found_in_its_own_namespace() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(stat(own).unwrap().is_alive());
        assert!(pids_in_netns(Path::new("/proc/self/ns/net")).contains(&own));
        assert!(!arguments(own).is_empty());
        assert!(pids_in_netns(Path::new("/etc/hostname")).is_empty());
    }
}
