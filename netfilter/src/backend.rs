//! The two implementations of iptables, and which of them a namespace already uses.

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;

use crate::Table;

/// One of the two implementations of iptables; each sees only the rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// `iptables-nft`: the iptables syntax over nf_tables.
    Nft,
    /// `iptables-legacy`: the x_tables interface of the kernel.
    Legacy,
}

/// Which implementation the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// Whichever fits the kernel and what is there already.
    #[default]
    Auto,
    /// This one, or fail.
    Only(Backend),
}

/// A backend name that is neither `auto`, `nft` nor `legacy`.
#[derive(Debug, thiserror::Error)]
#[error("unknown iptables backend {0:?}: use auto, nft or legacy")]
pub struct ParseBackendError(String);

/// Whether this network namespace has `table` of the legacy kind.
///
/// Asked before `iptables-legacy` is run for a mere look: that command creates the table, and with
/// it hooks that every packet then passes. Where the kernel does not tell, the answer is yes.
pub fn legacy_in_use(table: Table) -> bool {
    match fs::read_to_string("/proc/thread-self/net/ip_tables_names") {
        Ok(names) => names.lines().any(|name| name == table.as_str()),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

// === impl Backend ===

impl Backend {
    /// The program's name, looked up in `PATH`.
    pub fn command(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        }
    }

    /// The implementation that this one is not.
    pub fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }

    /// The Linux capabilities without which the kernel refuses this implementation.
    pub fn capabilities(self) -> &'static str {
        match self {
            Self::Nft => "NET_ADMIN",
            Self::Legacy => "NET_ADMIN and NET_RAW",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.command())
    }
}

// === impl BackendChoice ===

impl FromStr for BackendChoice {
    type Err = ParseBackendError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self::Auto),
            "nft" => Ok(Self::Only(Backend::Nft)),
            "legacy" => Ok(Self::Only(Backend::Legacy)),
            other => Err(ParseBackendError(other.to_owned())),
        }
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Only(Backend::Nft) => "nft",
            Self::Only(Backend::Legacy) => "legacy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_parsed_as_it_is_printed_and_nothing_else_is() {
        for name in ["auto", "nft", "legacy"] {
            assert_eq!(name.parse::<BackendChoice>().unwrap().to_string(), name);
        }
        for name in ["", "NFT", "iptables-nft", "true", " nft"] {
            let error = name.parse::<BackendChoice>().unwrap_err();
            assert!(error.to_string().contains("use auto, nft or legacy"), "{error}");
        }
    }
}
