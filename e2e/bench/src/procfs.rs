//! What the kernel counts of a process, read from `/proc`.

use std::time::Duration;

/// Processor time is counted in these: `USER_HZ`, 100 a second on every architecture that the
/// images are built for.
const TICK_MS: u64 = 10;

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
    times(stat).map(|[user, system, ..]| user + system)
}

/// Processor time of a process and of its children that have ended, from `/proc/<pid>/stat`.
pub(crate) fn family_time(stat: &str) -> Option<Duration> {
    times(stat).map(|times| times.iter().sum())
}

/// Processor time of everybody, interrupts included, from `/proc/stat`.
pub(crate) fn busy_time(stat: &str) -> Option<Duration> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?;
    let numbers: Vec<u64> =
        numbers.split_whitespace().map_while(|text| text.parse().ok()).collect();
    // Idle time and time to wait for a disk are the fourth and fifth, time stolen the eighth.
    let [user, nice, system, _, _, irq, soft, ..] = numbers[..] else { return None };
    Some(Duration::from_millis(TICK_MS * (user + nice + system + irq + soft)))
}

/// In user and kernel mode, own and of children that have ended.
fn times(stat: &str) -> Option<[Duration; 4]> {
    // The program's name is in parentheses and may hold anything, also parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11).map(str::parse::<u64>);
    let mut next = || Some(Duration::from_millis(TICK_MS * fields.next()?.ok()?));
    Some([next()?, next()?, next()?, next()?])
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
            assert_eq!(family_time(&stat), Some(Duration::from_millis(420)), "{name}");
        }
        for broken in ["", "1 (sh) S 1", "1 sh S 1 1 1"] {
            assert_eq!(processor_time(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_busy_machine_is_neither_idle_nor_waiting() {
        let stat = "cpu  100 20 3000 99999999999 8888 4 50 7777 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_time(stat), Some(Duration::from_millis(31_740)));
        assert_eq!(busy_time("cpu  100 20"), None);
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
