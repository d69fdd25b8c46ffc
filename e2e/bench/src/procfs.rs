//! What the kernel counts of a process, read from `/proc`.

use std::time::Duration;

/// Processor time is counted in these: `USER_HZ`, 100 a second on every architecture that the
/// images are built for.
const TICK: Duration = Duration::from_millis(10);

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All resident pages, those of the program file included.
    pub(crate) resident: u64,
    /// Resident pages that no file backs: heap and stacks.
    pub(crate) anonymous: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

/// Processor time in user and kernel mode, all threads, from `/proc/<pid>/stat`.
pub(crate) fn processor_time(stat: &str) -> Option<Duration> {
    // The program's name is in parentheses and may hold anything, also parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<u32>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(TICK * user + TICK * system)
}

/// Memory from `/proc/<pid>/status`.
pub(crate) fn memory(status: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kilobytes * 1024)
    };
    Some(Memory { resident: bytes("VmRSS")?, anonymous: bytes("RssAnon")?, peak: bytes("VmHWM")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let tail = "S 1 1 1 0 -1 4194304 90 0 0 0 23 4 7 8 20 0 1 0 1214042 2654208 364";
        for name in ["sh", "a b", "x) S 1 (", "nmi-sidecar"] {
            let stat = format!("31423 ({name}) {tail}");
            assert_eq!(processor_time(&stat), Some(Duration::from_millis(270)), "{name}");
        }
        for broken in ["", "1 (sh) S 1", "1 sh S 1 1 1"] {
            assert_eq!(processor_time(broken), None, "{broken}");
        }
    }

    #[test]
    fn memory_is_read_by_name_and_unit() {
        let status = "Name:\tx\nVmHWM:\t    7000 kB\nVmRSS:\t    6000 kB\nRssAnon:\t    1500 kB\n";
        let expected = Memory { resident: 6000 * 1024, anonymous: 1500 * 1024, peak: 7000 * 1024 };
        assert_eq!(memory(status), Some(expected));
        assert_eq!(memory(&status.replace(" kB", " MB")), None);
        assert_eq!(memory("VmRSS:\t1 kB\n"), None);
    }

    #[test]
    fn this_process_has_both() {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
        assert!(processor_time(&read("stat")).is_some());
        assert!(memory(&read("status")).unwrap().resident > 0);
    }
}
