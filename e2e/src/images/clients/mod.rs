//! Images of client applications: Azure's libraries and tools as they come from their registries,
//! with a small program around them from `e2e/clients`.

mod cli;
mod debian;
mod go;
mod java;
mod javascript;
mod npm;
mod python;
mod rust;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::files::Fingerprint;
use crate::images::Built;
use crate::paths::{self, Cache};
use crate::progress::Progress;
use crate::tools::debian::{self as packages, Need};

/// A client application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// Libraries for Python. Also the base of whatever pod a test needs: it has curl and a shell.
    Python,
    /// The Azure CLI, and Azure's MCP server, which is in .NET.
    CommandLine,
    /// Libraries for JavaScript.
    JavaScript,
    /// Libraries for Java.
    Java,
    /// Modules for Go.
    Go,
    /// The crate for Rust.
    Rust,
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Python, Self::CommandLine, Self::JavaScript, Self::Java, Self::Go, Self::Rust];

    /// Name of the image.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "client-python",
            Self::CommandLine => "client-cli",
            Self::JavaScript => "client-javascript",
            Self::Java => "client-java",
            Self::Go => "client-go",
            Self::Rust => "client-rust",
        }
    }

    fn needs(self) -> &'static [Need] {
        match self {
            Self::Python | Self::CommandLine => packages::BUILD_CLIENTS,
            Self::JavaScript => packages::BUILD_JAVASCRIPT,
            Self::Java => packages::BUILD_JAVA,
            Self::Go | Self::Rust => packages::BUILD_IMAGES,
        }
    }

    /// Its folder in this checkout.
    fn source(self) -> PathBuf {
        let name = self.name();
        paths::workspace().join("e2e/clients").join(name.strip_prefix("client-").unwrap_or(name))
    }

    /// Hash of its folder.
    fn fingerprint(self) -> Result<Fingerprint> {
        let folder = self.source();
        let mut fingerprint = Fingerprint::default();
        for name in file_names(&folder)? {
            fingerprint = fingerprint.with_file(&name, &folder.join(&name))?;
        }
        Ok(fingerprint)
    }

    /// Copies its programs, which need no compiler, into the folder that will be `/client`.
    fn copy_programs(self, suffix: &str, to: &Path) -> Result<()> {
        let folder = self.source();
        fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
        for name in file_names(&folder)?.iter().filter(|name| name.ends_with(suffix)) {
            fs::copy(folder.join(name), to.join(name))
                .with_context(|| format!("cannot copy {name}"))?;
        }
        Ok(())
    }
}

/// Builds one unless the cache has it.
pub(super) async fn build(client: Client, cache: &Cache, progress: &Progress) -> Result<Built> {
    packages::ensure(client.needs(), progress).await?;
    match client {
        Client::Python => python::build(cache, progress).await,
        Client::CommandLine => cli::build(cache, progress).await,
        Client::JavaScript => javascript::build(cache, progress).await,
        Client::Java => java::build(cache, progress).await,
        Client::Go => go::build(cache, progress).await,
        Client::Rust => rust::build(cache, progress).await,
    }
}

/// The files of a folder, in a fixed order.
fn file_names(folder: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    let mut names: Vec<_> =
        files.filter_map(|entry| entry.file_name().to_str().map(str::to_owned)).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_a_folder_and_a_dockerfile_from_scratch() {
        for client in Client::ALL {
            assert!(client.fingerprint().is_ok(), "{client:?}");
            let file = format!("images/{}.Dockerfile", client.name());
            let text = fs::read_to_string(paths::workspace().join(file)).unwrap();
            assert!(text.contains("FROM scratch"), "{client:?}");
            assert!(text.contains("USER 65532:65532"), "{client:?}");
        }
    }

    #[test]
    fn every_version_is_fixed() {
        for client in [Client::Python, Client::CommandLine, Client::JavaScript] {
            let path = client.source().join("requirements.txt");
            let text = fs::read_to_string(path).unwrap();
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                assert!(line.contains("=="), "{client:?}: {line}");
            }
        }
        for client in [Client::JavaScript, Client::CommandLine] {
            let lock = fs::read_to_string(client.source().join("package-lock.json")).unwrap();
            assert!(lock.contains("integrity"), "{client:?}");
            assert!(!lock.contains("\"resolved\""), "{client:?} names a host");
        }
    }
    #[test]
    fn the_documents_name_the_versions_that_are_tested() {
        let documents = fs::read_to_string(paths::workspace().join("docs/clients.md")).unwrap();
        for (file, before) in [
            ("e2e/clients/python/requirements.txt", "azure-identity=="),
            ("e2e/clients/python/requirements.txt", "msal=="),
            ("e2e/clients/cli/requirements.txt", "azure-cli=="),
            ("e2e/clients/cli/package.json", "\"@azure/mcp-linux-x64\": \""),
            ("e2e/clients/javascript/package.json", "\"@azure/identity\": \""),
            ("e2e/clients/javascript/package.json", "\"@azure/msal-node\": \""),
            (
                "e2e/clients/java/pom.xml",
                "<artifactId>azure-identity</artifactId>\n      <version>",
            ),
            ("e2e/clients/java/pom.xml", "<artifactId>msal4j</artifactId>\n      <version>"),
            ("e2e/clients/go/go.mod", "sdk/azidentity v"),
            ("e2e/clients/go/go.mod", "authentication-library-for-go v"),
            ("Cargo.lock", "name = \"azure_identity\"\nversion = \""),
        ] {
            let text = fs::read_to_string(paths::workspace().join(file)).unwrap();
            let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("{before} in {file}"));
            let is_version = |symbol: &char| symbol.is_ascii_digit() || *symbol == '.';
            let version: String = rest.chars().take_while(is_version).collect();
            assert!(documents.contains(&format!("| {version} |")), "{before}{version}");
        }
    }
}
