//! Command-line tools: the Azure CLI from PyPI, and Azure's MCP server, a program in .NET that npm
//! distributes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Client, debian, npm};
use crate::images::Built;
use crate::images::buildah::Recipe;
use crate::paths::Cache;
use crate::progress::Progress;

const MCP_SERVER: &str = "node_modules/@azure/mcp-linux-x64/dist/azmcp";

pub(super) async fn build(cache: &Cache, progress: &Progress) -> Result<Built> {
    let client = Client::CommandLine;
    let inputs = client
        .fingerprint()?
        .with("debian", debian::fingerprint())
        .with("node", npm::fingerprint()?)
        .short();
    let stage = async |context: &Path| {
        debian::place(&context.join("debian.tar"), cache, progress).await?;
        let root = context.join("root");
        let requirements = client.source().join("requirements.txt");
        debian::install_python(&requirements, &root.join("opt/azure-cli"), progress).await?;
        mcp_server(&root.join("opt/azmcp"), progress).await?;
        client.copy_programs(".py", &root.join("client"))
    };
    Recipe { name: client.name(), inputs }.ensure(cache, progress, stage).await
}

async fn mcp_server(to: &Path, progress: &Progress) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let node = npm::Node::install(folder.path(), progress).await?;
    node.install_packages(&Client::CommandLine.source(), folder.path(), progress).await?;
    fs::create_dir_all(to)
        .and_then(|()| fs::copy(folder.path().join(MCP_SERVER), to.join("azmcp")))
        .context("cannot take azmcp out of its package")?;
    Ok(())
}
