//! Applications in Python: a small Debian with Azure's libraries, as a user would have.

use std::path::Path;

use anyhow::Result;

use super::{Client, debian};
use crate::images::Built;
use crate::images::buildah::Recipe;
use crate::paths::Cache;
use crate::progress::Progress;

const SITE_PACKAGES: &str = "root/usr/lib/python3/dist-packages";

pub(super) async fn build(cache: &Cache, progress: &Progress) -> Result<Built> {
    let client = Client::Python;
    let inputs = client.fingerprint()?.with("debian", debian::fingerprint()).short();
    let stage = async |context: &Path| {
        debian::place(&context.join("debian.tar"), cache, progress).await?;
        let requirements = client.source().join("requirements.txt");
        debian::install_python(&requirements, &context.join(SITE_PACKAGES), progress).await?;
        client.copy_programs(".py", &context.join("root/client"))
    };
    Recipe { name: client.name(), inputs }.ensure(cache, progress, stage).await
}
