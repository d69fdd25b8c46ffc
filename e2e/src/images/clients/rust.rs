//! Applications in Rust: a static program and CA roots, without which Azure's crate does not start.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Client;
use crate::files::Fingerprint;
use crate::images::buildah::Recipe;
use crate::images::{Built, product};
use crate::paths::Cache;
use crate::progress::Progress;

pub(super) async fn build(cache: &Cache, progress: &Progress) -> Result<Built> {
    let name = Client::Rust.name();
    product::compile(&[name], progress).await?;
    let program = product::program(name)?;
    let roots = Path::new(product::CA_ROOTS);
    let inputs = Fingerprint::default()
        .with_file("program", &program)?
        .with_file("ca roots", roots)?
        .short();
    let stage = async |context: &Path| {
        fs::copy(&program, context.join("client"))
            .and_then(|_| fs::copy(roots, context.join("ca-certificates.crt")))
            .context("cannot copy the Rust client")?;
        Ok(())
    };
    Recipe { name, inputs }.ensure(cache, progress, stage).await
}
