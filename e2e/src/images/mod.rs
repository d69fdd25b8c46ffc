//! The images that the cluster runs: built from scratch, archived in the cache, imported into nodes.

mod buildah;
mod clients;
mod import;
mod iptables;
mod libraries;
mod product;

use std::path::PathBuf;

use anyhow::{Result, bail};

pub use clients::Client;
pub use import::{load_archive, load_built};
pub use product::Component;

use crate::lock::Lock;
use crate::paths::Cache;
use crate::progress::Progress;
use crate::tools::control_plane::ControlPlane;
use crate::tools::debian;

/// Registry and project of every image here.
const PREFIX: &str = "localhost/pod-identity-sidecar";
/// Tag of every image here.
const TAG: &str = "dev";

/// An image that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// A part of the product.
    Product(Component),
    /// An application that uses Azure's libraries.
    Client(Client),
}

/// An image in the cache, ready to be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Last part of its name.
    pub name: &'static str,
    /// Hash of all that it was built from.
    pub key: String,
    /// A docker archive.
    pub archive: PathBuf,
}

impl Image {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let clients = Client::ALL.into_iter().map(Self::Client);
        Component::ALL.into_iter().map(Self::Product).chain(clients)
    }

    /// Those of the product, and the client that the demo and most tests use.
    pub fn standard() -> impl Iterator<Item = Self> {
        Component::ALL.into_iter().map(Self::Product).chain([Self::Client(Client::Python)])
    }

    /// Last part of its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Product(component) => component.name(),
            Self::Client(client) => client.name(),
        }
    }

    /// The image of that name.
    pub fn by_name(name: &str) -> Result<Self> {
        let Some(image) = Self::all().find(|image| image.name() == name) else {
            let known: Vec<_> = Self::all().map(Self::name).collect();
            bail!("there is no image {name}: choose from {}", known.join(", "));
        };
        Ok(image)
    }
}

/// The reference by which pods name the image `name`.
#[must_use]
pub fn reference(name: &str) -> String {
    format!("{PREFIX}/{name}:{TAG}")
}

/// Builds those of these images whose inputs changed.
pub async fn build(images: &[Image], cache: &Cache, progress: &Progress) -> Result<Vec<Built>> {
    let _lock = lock(cache, progress).await?;
    let mut built = Vec::new();
    let mut components = Vec::new();
    let mut clients = Vec::new();
    for image in images {
        match image {
            Image::Product(component) => components.push(*component),
            Image::Client(client) => clients.push(*client),
        }
    }
    if !components.is_empty() {
        debian::ensure(debian::BUILD_IMAGES, progress).await?;
        built.extend(product::build(&components, cache, progress).await?);
    }
    for client in clients {
        built.push(clients::build(client, cache, progress).await?);
    }
    Ok(built)
}

/// The image that holds a pod's namespaces open; no pod starts without it.
pub async fn build_pause(
    cache: &Cache,
    programs: &ControlPlane,
    progress: &Progress,
) -> Result<Built> {
    let _lock = lock(cache, progress).await?;
    product::build_pause(programs.program("pause"), cache, progress).await
}

async fn lock(cache: &Cache, progress: &Progress) -> Result<Lock> {
    Lock::take(&cache.images().join(".lock"), "building images", progress).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_found_by_its_name_and_no_other() {
        for image in Image::all() {
            assert_eq!(Image::by_name(image.name()).unwrap(), image);
        }
        let error = Image::by_name("nginx").unwrap_err().to_string();
        assert!(error.contains("nmi-sidecar") && error.contains("client-java"), "{error}");
        assert_eq!(reference("webhook"), "localhost/pod-identity-sidecar/webhook:dev");
    }
}
