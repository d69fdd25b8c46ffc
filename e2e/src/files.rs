//! Files written whole or not at all, and the hashes that decide whether something must be done again.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The owner alone: keys and tokens.
    Private,
    /// Everybody.
    Public,
}

/// A hash over named parts; the names keep two neighbouring parts from running into each other.
#[derive(Clone, Debug, Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds a part.
    #[must_use]
    pub fn with(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        self.0.update(format!("{name} {}\n", content.len()));
        self.0.update(content);
        self
    }

    /// Adds the content of a file.
    pub fn with_file(self, name: &str, path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(self.with(name, content))
    }

    /// 16 hexadecimal digits: short enough for a file name, long enough not to meet its like.
    #[must_use]
    pub fn short(self) -> String {
        hex(&self.0.finalize()[..8])
    }
}

/// Writes the whole file or leaves the old one.
pub fn write(path: &Path, content: impl AsRef<[u8]>, access: Access) -> Result<()> {
    let mode = match access {
        Access::Private => 0o600,
        Access::Public => 0o644,
    };
    let temporary = path.with_added_extension("new");
    let written = (|| -> std::io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        remove(&temporary)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content.as_ref())?;
        fs::rename(&temporary, path)
    })();
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// Removes a file; one that is not there is fine.
pub fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A random token of 128 bits in hexadecimal.
pub fn random_token() -> Result<String> {
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_fingerprint_depends_on_every_part_and_on_where_parts_end() {
        let base = || Fingerprint::default().with("a", "1").with("b", "2").short();
        assert_eq!(base(), base());
        assert_eq!(base().len(), 16);
        assert_ne!(base(), Fingerprint::default().with("a", "1").with("b", "3").short());
        assert_ne!(base(), Fingerprint::default().with("b", "2").with("a", "1").short());
        assert_ne!(
            Fingerprint::default().with("a", "12").with("b", "").short(),
            Fingerprint::default().with("a", "1").with("b", "2").short()
        );
    }

    #[test]
    fn a_private_file_is_readable_by_its_owner_alone_and_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/key.pem");
        write(&path, "old", Access::Public).unwrap();
        write(&path, "new", Access::Private).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn tokens_are_long_and_differ() {
        let (one, two) = (random_token().unwrap(), random_token().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, two);
    }
}
