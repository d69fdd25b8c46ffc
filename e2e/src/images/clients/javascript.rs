//! Applications in JavaScript: Node.js, the libraries that it is linked with, and npm's packages.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Client, npm};
use crate::images::buildah::Recipe;
use crate::images::{Built, libraries};
use crate::paths::Cache;
use crate::progress::Progress;

pub(super) async fn build(cache: &Cache, progress: &Progress) -> Result<Built> {
    let client = Client::JavaScript;
    let inputs = client.fingerprint()?.short();
    let stage = async |context: &Path| {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let node = npm::Node::install(folder.path(), progress).await?;
        let root = context.join("root");
        client.copy_programs(".js", &root.join("client"))?;
        node.install_packages(&client.source(), &root.join("client"), progress).await?;
        let program = node.program();
        fs::copy(&program, root.join("node")).context("cannot copy Node.js")?;
        libraries::copy_below(&root, &libraries::needed_by(&[program]).await?)
    };
    Recipe { name: client.name(), inputs }.ensure(cache, progress, stage).await
}
