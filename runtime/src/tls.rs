//! A server certificate that can be replaced while connections are served.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The present certificate of a server. Clones are the same certificate; until one is set,
/// handshakes fail.
#[derive(Clone, Default)]
pub struct ServingCert(Arc<ArcSwapOption<CertifiedKey>>);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The chain is not PEM, or empty.
    #[error("the certificate chain is not PEM or has no certificate")]
    Chain,
    /// The key is not PEM.
    #[error("the private key is not PEM (PKCS#8, PKCS#1 or SEC1)")]
    Key,
    /// The key's type cannot sign for TLS.
    #[error("the private key cannot be used for TLS")]
    Unusable(#[source] rustls::Error),
    /// Key and certificate belong to different pairs.
    #[error("the private key does not belong to the certificate")]
    Mismatch(#[source] rustls::Error),
}

impl ServingCert {
    /// Replaces the certificate for new connections.
    pub fn set(&self, chain_pem: &[u8], key_pem: &[u8]) -> Result<(), CertError> {
        let chain = CertificateDer::pem_slice_iter(chain_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CertError::Chain)?;
        if chain.is_empty() {
            return Err(CertError::Chain);
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| CertError::Key)?;
        let key = any_supported_type(&key).map_err(CertError::Unusable)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(CertError::Mismatch)?;
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }

    /// Whether there is a certificate.
    pub fn is_set(&self) -> bool {
        self.0.load().is_some()
    }

    /// A server configuration that always presents the present certificate.
    pub fn server_config(&self) -> ServerConfig {
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }
}

impl ResolvesServerCert for ServingCert {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl fmt::Debug for ServingCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingCert").field("is_set", &self.is_set()).finish()
    }
}
