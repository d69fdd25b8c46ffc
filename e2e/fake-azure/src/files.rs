//! Files of the state directory: written whole or not at all, and readable by the owner only.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Owner,
    Everyone,
}

/// Replaces `path` atomically, so that a crash leaves the old content or the new one.
pub(crate) fn replace(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mode = match access {
        Access::Owner => 0o600,
        Access::Everyone => 0o644,
    };
    // A left-over of a crash keeps its old mode otherwise.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
    file.write_all(content)?;
    drop(file);
    fs::rename(&partial, path)
}

/// The content of `path`, or `None` where there is no such file.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
