//! Applications in Go: a static program and nothing else.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Client;
use crate::exec;
use crate::images::Built;
use crate::images::buildah::Recipe;
use crate::paths::Cache;
use crate::progress::Progress;

pub(super) async fn build(cache: &Cache, progress: &Progress) -> Result<Built> {
    let client = Client::Go;
    let Some(go) = exec::which("go") else {
        bail!("there is no Go: install it and put it on PATH");
    };
    let toolchain = exec::output(exec::command(&go).arg("version")).await?;
    let inputs = client.fingerprint()?.with("go", toolchain).short();
    let stage = async |context: &Path| {
        let mut command = exec::command(&go);
        command
            .current_dir(client.source())
            .env("CGO_ENABLED", "0")
            .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
            .arg(context.join("client"))
            .arg(".");
        progress
            .watch("compiling the Go client", exec::run(&mut command))
            .await
            .context("cannot compile the Go client")
    };
    Recipe { name: client.name(), inputs }.ensure(cache, progress, stage).await
}
