//! Why a command on the packet filter failed, told apart by what its reader has to do.

use std::io;
use std::process::Output;
use std::time::Duration;

use crate::{Backend, Table};

/// What went wrong with a command, or with the rules that it wrote.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not in the image.
    #[error("{backend} is not installed: the image must have it in its PATH")]
    NotInstalled {
        /// The implementation that was asked for.
        backend: Backend,
    },

    /// The kernel refused, for want of a capability.
    #[error("{backend} is not permitted here ({detail}): it needs uid 0 and the capabilities {}", backend.capabilities())]
    NotPermitted {
        /// The implementation that was refused.
        backend: Backend,
        /// What it said.
        detail: String,
    },

    /// `iptables-legacy` takes a lock in a file, and could not open it.
    #[error("{detail}: mount a writable directory there, or set XTABLES_LOCKFILE to another path")]
    LockFile {
        /// What it said.
        detail: String,
    },

    /// Somebody else held the lock for too long.
    #[error("another process kept the lock of {backend}: {detail}")]
    Locked {
        /// The implementation whose lock it is.
        backend: Backend,
        /// What it said.
        detail: String,
    },

    /// The command did not end; it was killed.
    #[error("{backend} {arguments}: killed, because it did not finish within {timeout:?}")]
    TimedOut {
        /// The implementation that was run.
        backend: Backend,
        /// With what.
        arguments: String,
        /// How long it was waited for.
        timeout: Duration,
    },

    /// The command could not be run at all.
    #[error("{backend} could not be run")]
    Start {
        /// The implementation that was asked for.
        backend: Backend,
        /// Why not.
        #[source]
        source: io::Error,
    },

    /// Any other failure that the command itself reported.
    #[error("{backend} {arguments}: {detail}")]
    Failed {
        /// The implementation that was run.
        backend: Backend,
        /// With what.
        arguments: String,
        /// What it said, and its exit status.
        detail: String,
    },

    /// The commands succeeded, and yet the rules are others.
    #[error("chain {chain} of table {table} holds {found:?} where {wanted:?} was written")]
    ReadBack {
        /// The chain's table.
        table: Table,
        /// The chain.
        chain: &'static str,
        /// What was written.
        wanted: Vec<String>,
        /// What was read.
        found: Vec<String>,
    },
}

// === impl Error ===

impl Error {
    /// Whether the process lacks a right, so that no other attempt of it could succeed either.
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Self::NotPermitted { .. })
    }

    /// Tells failures apart by what the programs print: their exit status does not (4 is a missing
    /// capability, a held lock and an unknown match alike).
    pub(crate) fn of_output(backend: Backend, arguments: &str, output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stderr);
        // one line each, because it ends in a termination message or a log field
        let detail = text.split('\n').map(str::trim).filter(|line| !line.is_empty());
        let detail = detail.collect::<Vec<_>>().join(" / ");

        // before the permission: a lock file may be what was not permitted
        if detail.contains("can't open lock file") {
            Self::LockFile { detail }
        } else if detail.contains("holding the xtables lock") {
            Self::Locked { backend, detail }
        } else if detail.contains("Permission denied") || detail.contains("not permitted") {
            Self::NotPermitted { backend, detail }
        } else {
            let detail = format!("{detail} ({})", output.status);
            Self::Failed { backend, arguments: arguments.to_owned(), detail }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn kind(status: i32, stderr: &str) -> &'static str {
        let output = Output {
            status: ExitStatus::from_raw(status << 8),
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
        };
        match Error::of_output(Backend::Nft, "-S", &output) {
            Error::NotPermitted { .. } => "permission",
            Error::LockFile { .. } => "lock file",
            Error::Locked { .. } => "locked",
            Error::Failed { .. } => "failed",
            other => panic!("{other}"),
        }
    }

    /// The texts are those of iptables 1.8.9.
    #[test]
    fn what_the_programs_print_decides_the_kind() {
        for (expected, status, stderr) in [
            (
                "permission",
                4,
                "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)\n",
            ),
            (
                "permission",
                3,
                "iptables v1.8.9 (legacy): can't initialize iptables table `filter': Permission denied (you must be root)\nPerhaps iptables or your kernel needs to be upgraded.\n",
            ),
            ("lock file", 4, "Fatal: can't open lock file /run/xtables.lock: Permission denied\n"),
            (
                "lock file",
                4,
                "Fatal: can't open lock file /run/xtables.lock: Read-only file system\n",
            ),
            (
                "locked",
                4,
                "Can't lock /run/xtables.lock: Resource temporarily unavailable\nAnother app is currently holding the xtables lock. Stopped waiting after 1s.\n",
            ),
            ("failed", 1, "iptables: No chain/target/match by that name.\n"),
            (
                "failed",
                1,
                "iptables v1.8.9 (nf_tables): chain `X' in table `filter' is incompatible, use 'nft' tool.\n",
            ),
            ("failed", 1, ""),
        ] {
            assert_eq!(kind(status, stderr), expected, "{stderr}");
        }
    }

    #[test]
    fn a_message_is_one_line_and_names_the_remedy() {
        let output = Output {
            status: ExitStatus::from_raw(3 << 8),
            stdout: Vec::new(),
            stderr: b"Permission denied (you must be root)\nPerhaps so.\n".to_vec(),
        };
        assert_eq!(
            Error::of_output(Backend::Legacy, "-t nat -S", &output).to_string(),
            "iptables-legacy is not permitted here (Permission denied (you must be root) / \
             Perhaps so.): it needs uid 0 and the capabilities NET_ADMIN and NET_RAW"
        );
    }
}
