//! Turns a Dockerfile and a folder into an archive in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::exec;
use crate::files::Fingerprint;
use crate::images::{Built, reference};
use crate::paths::{self, Cache};
use crate::progress::Progress;

/// What one image is made from.
pub(super) struct Recipe {
    pub(super) name: &'static str,
    /// Hash of everything besides the Dockerfile that goes into it.
    pub(super) inputs: String,
}

impl Recipe {
    fn dockerfile(&self) -> PathBuf {
        paths::workspace().join("images").join(format!("{}.Dockerfile", self.name))
    }

    /// What the image will be called in the cache; whether it is there is another question.
    pub(super) fn target(&self, cache: &Cache) -> Result<Built> {
        let key = Fingerprint::default()
            .with_file("dockerfile", &self.dockerfile())?
            .with("inputs", &self.inputs)
            .short();
        let archive = archive(cache, self.name, &key);
        Ok(Built { name: self.name, key, archive })
    }

    /// Builds it if the cache does not have it. `stage` fills the folder that COPY reads from.
    pub(super) async fn ensure<Stage>(
        &self,
        cache: &Cache,
        progress: &Progress,
        stage: Stage,
    ) -> Result<Built>
    where
        Stage: AsyncFnOnce(&Path) -> Result<()>,
    {
        let target = self.target(cache)?;
        if target.archive.is_file() {
            return Ok(target);
        }
        let context = tempfile::tempdir_in(cache.images()).context("cannot make a folder")?;
        stage(context.path()).await.with_context(|| format!("cannot prepare {}", self.name))?;
        progress
            .watch(
                &format!("building the image {}", self.name),
                self.build(cache, &context, &target),
            )
            .await
            .with_context(|| format!("cannot build the image {}", self.name))?;
        remove_older(&target.archive, target.name)?;
        progress.step(format!("built the image {}", self.name));
        Ok(target)
    }

    async fn build(
        &self,
        cache: &Cache,
        context: &tempfile::TempDir,
        target: &Built,
    ) -> Result<()> {
        let temporary = target.archive.with_extension("new");
        crate::files::remove(&temporary).context("cannot remove an unfinished archive")?;
        let name = reference(self.name);
        // A fixed time makes the same input the same image.
        exec::run(
            buildah(cache)
                .args(["bud", "--quiet", "--format=docker", "--timestamp=0", "--layers=false"])
                .args(["--isolation=chroot", "--file"])
                .arg(self.dockerfile())
                .args(["--tag", &name])
                .arg(context.path()),
        )
        .await?;
        let destination = format!("docker-archive:{}:{name}", temporary.display());
        exec::run(buildah(cache).args(["push", "--quiet", &name, &destination])).await?;
        exec::run(buildah(cache).args(["rmi", "--force", &name])).await?;
        fs::rename(&temporary, &target.archive).context("cannot put the image into the cache")
    }
}

fn buildah(cache: &Cache) -> Command {
    let dir = cache.buildah();
    let mut command = exec::command("buildah");
    command
        .arg(format!("--root={}", dir.join("root").display()))
        .arg(format!("--runroot={}", dir.join("run").display()))
        .arg("--storage-driver=overlay");
    command
}

/// Where the cache has the archive of that name and hash.
pub(super) fn archive(cache: &Cache, name: &str, key: &str) -> PathBuf {
    cache.images().join(format!("{name}-{key}.tar"))
}

/// An archive of other inputs is not needed any more.
pub(super) fn remove_older(newest: &Path, name: &str) -> Result<()> {
    let folder = newest.parent().unwrap_or(Path::new("/"));
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let file = entry.file_name().to_string_lossy().into_owned();
        if path != newest && is_archive_of(&file, name) {
            crate::files::remove(&path).context("cannot remove an old image")?;
        }
    }
    Ok(())
}

/// `webhook-0123456789abcdef.tar` is of `webhook`, `nmi-host-…` not of `nmi`.
fn is_archive_of(file: &str, image: &str) -> bool {
    file.strip_prefix(image)
        .and_then(|rest| rest.strip_prefix('-'))
        .and_then(|rest| rest.strip_suffix(".tar"))
        .is_some_and(|key| key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_apart_by_the_whole_name() {
        assert!(is_archive_of("nmi-host-0123456789abcdef.tar", "nmi-host"));
        assert!(!is_archive_of("nmi-host-0123456789abcdef.tar", "nmi"));
        assert!(!is_archive_of("nmi-host-0123456789abcdef.new", "nmi-host"));
        assert!(!is_archive_of("nmi-host.tar", "nmi-host"));
    }

    #[test]
    fn other_inputs_are_another_archive() {
        let cache = Cache::at("/cache".into());
        let target = |inputs: &str| {
            Recipe { name: "pause", inputs: inputs.to_owned() }.target(&cache).unwrap().archive
        };
        assert_eq!(target("a"), target("a"));
        assert_ne!(target("a"), target("b"));
    }

    #[test]
    fn only_the_newest_archive_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        for name in [
            "pause-0000000000000000.tar",
            "pause-1111111111111111.tar",
            "other-0000000000000000.tar",
        ] {
            fs::write(file(name), "").unwrap();
        }
        let archive = file("pause-1111111111111111.tar");
        remove_older(&archive, "pause").unwrap();
        assert!(!file("pause-0000000000000000.tar").exists());
        assert!(file("pause-1111111111111111.tar").exists());
        assert!(file("other-0000000000000000.tar").exists());
    }
}
