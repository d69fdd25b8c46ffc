//! How large the programs and their images are.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::report::{Figure, Report};
use crate::summary::mebibytes;

const PROGRAMS: [&str; 5] = ["nmi-sidecar", "init-redirect", "nmi-host", "webhook", "controller"];

/// The programs in `programs` and, as far as they have been built, the image archives in `images`.
pub(crate) fn measure(programs: &Path, images: Option<&Path>, report: &mut Report) -> Result<()> {
    for program in PROGRAMS {
        let file = programs.join(program);
        // Only what this checkout built: others may not have been asked for.
        let Ok(metadata) = fs::metadata(&file) else { continue };
        let peer = if program == "init-redirect" { "" } else { "36–37" };
        report.figure(
            Figure::new(format!("{program}: program"), "MiB", vec![mebibytes(metadata.len())])
                .peer(peer),
        );
    }
    for program in PROGRAMS {
        if let Some(size) = images.map(|dir| newest_archive(dir, program)).transpose()?.flatten() {
            report.figure(Figure::new(
                format!("{program}: image archive"),
                "MiB",
                vec![mebibytes(size)],
            ));
        }
    }
    Ok(())
}

/// Size of the newest archive `<name>-<fingerprint>.tar`.
fn newest_archive(dir: &Path, name: &str) -> Result<Option<u64>> {
    let mut newest: Option<(SystemTime, u64)> = None;
    let Ok(entries) = fs::read_dir(dir) else { return Ok(None) };
    for entry in entries {
        let entry = entry.context("the folder of images cannot be read")?;
        if is_archive_of(&entry.path(), name) {
            let metadata = entry.metadata().context("an image archive went away")?;
            let found = (metadata.modified()?, metadata.len());
            newest = newest.max(Some(found));
        }
    }
    Ok(newest.map(|(_, size)| size))
}

fn is_archive_of(path: &Path, name: &str) -> bool {
    let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
    let fingerprint = file
        .strip_prefix(name)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.strip_suffix(".tar"));
    fingerprint
        .is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_archive_of_that_very_name_counts() {
        let dir = tempfile::tempdir().unwrap();
        // A file with so many bytes, made so many seconds after the epoch.
        let write = |name: &str, bytes: u64, second: u64| {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(bytes).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second)).unwrap();
        };
        assert_eq!(newest_archive(dir.path(), "nmi-host").unwrap(), None);
        write("nmi-host-ff00.tar", 20, 2);
        write("nmi-host-00ff.tar", 10, 1);
        write("nmi-host-ff00.tar.part", 30, 3);
        write("nmi-host-extra-ff.tar", 40, 4);
        assert_eq!(newest_archive(dir.path(), "nmi-host").unwrap(), Some(20));
        assert_eq!(newest_archive(Path::new("/nowhere"), "nmi-host").unwrap(), None);
    }
}
