//! The HTTP client for ARM, Entra and IMDS: explicit roots, no proxy, no redirects.
//!
//! Not the library's own: that one panics where the system has no roots, and takes a proxy from
//! the environment, which must never see a request for a managed identity's token.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use azure_core::http::Transport;
use reqwest::{Certificate, Client, redirect};
use runtime::ca::CaBundleError;

/// There can be no secure connection.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The CA bundle.
    #[error(transparent)]
    CaBundle(#[from] CaBundleError),
    /// Nobody to trust.
    #[error(
        "found no root certificates on this system: install ca-certificates, set SSL_CERT_FILE or give --ca-bundle"
    )]
    NoRoots,
    /// A root certificate cannot be used.
    #[error("cannot set up TLS with the root certificates of the system and of --ca-bundle")]
    Tls(#[source] reqwest::Error),
}

/// Where distributions keep the roots that they trust.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Shorter than Azure's front ends keep idle connections, so that none breaks in our hands.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A client that trusts the system's roots and those of `bundle`.
pub fn transport(bundle: Option<&Path>) -> Result<Transport, TransportError> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let system =
        named.or_else(|| SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists()));
    Ok(Transport::new(Arc::new(client(system.as_deref(), bundle)?)))
}

fn client(system: Option<&Path>, bundle: Option<&Path>) -> Result<Client, TransportError> {
    let mut roots = Vec::new();
    for path in [system, bundle].into_iter().flatten() {
        for certificate in runtime::ca::read_bundle(path)? {
            roots.push(Certificate::from_der(&certificate).map_err(TransportError::Tls)?);
        }
    }
    if roots.is_empty() {
        return Err(TransportError::NoRoots);
    }
    Client::builder()
        .tls_certs_only(roots)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build()
        .map_err(TransportError::Tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_anybody_to_trust_the_error_says_what_to_do() {
        let error = client(None, None).unwrap_err();
        assert!(error.to_string().contains("--ca-bundle"), "{error}");
    }

    #[test]
    fn a_bundle_that_is_not_there_is_named() {
        let error = client(None, Some(Path::new("/nonexistent/ca.pem"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
    }
}
