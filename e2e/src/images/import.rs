//! Gives images to the nodes' container runtimes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::files::{self, Access};
use crate::images::Built;
use crate::paths::State;
use crate::progress::Progress;
use crate::topology::Node;

/// Imports an image into every node that has another build of it, or none.
pub async fn load_built(
    image: &Built,
    state: &State,
    nodes: &[Node],
    progress: &Progress,
) -> Result<()> {
    for node in nodes {
        let marker = state.image_marker(node, image.name);
        if fs::read_to_string(&marker).is_ok_and(|present| present == image.key) {
            continue;
        }
        let label = format!("importing {} into {}", image.name, node.name());
        progress.watch(&label, import(&image.archive, state, node)).await?;
        files::write(&marker, &image.key, Access::Public)?;
        progress.step(format!("imported {} into {}", image.name, node.name()));
    }
    Ok(())
}

/// Imports a docker or OCI archive into every node.
pub async fn load_archive(
    archive: &Path,
    state: &State,
    nodes: &[Node],
    progress: &Progress,
) -> Result<()> {
    if !archive.is_file() {
        bail!("{} is no file", archive.display());
    }
    for node in nodes {
        let label = format!("importing {} into {}", archive.display(), node.name());
        progress.watch(&label, import(archive, state, node)).await?;
        progress.step(format!("imported {} into {}", archive.display(), node.name()));
    }
    Ok(())
}

async fn import(archive: &Path, state: &State, node: &Node) -> Result<()> {
    let mut command = exec::command("ctr");
    command
        .arg("--address")
        .arg(state.containerd_socket(node))
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(archive);
    exec::run(&mut command)
        .await
        .with_context(|| format!("cannot import {} into {}", archive.display(), node.name()))
}
