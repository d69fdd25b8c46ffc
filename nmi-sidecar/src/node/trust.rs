//! What the agent's certificate must be signed by: nothing but the CA file. Read again for every
//! connection, because the CA rotates while pods run.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use runtime::ca::{CaBundleError, read_bundle};
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

/// The TLS configuration that belongs to the present CA file.
pub(super) struct Trust {
    file: PathBuf,
    last: Mutex<Option<(Vec<CertificateDer<'static>>, Arc<ClientConfig>)>>,
}

/// The CA file is of no use (yet).
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    #[error(transparent)]
    Bundle(#[from] CaBundleError),
    #[error("the CA bundle {0} holds no certificate that can be used")]
    Unusable(PathBuf),
}

impl Trust {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, last: Mutex::new(None) }
    }

    /// The configuration for a new connection.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, TrustError> {
        let certificates = read_bundle(&self.file)?;
        let mut last = self.last.lock();
        if let Some((known, config)) = &*last
            && *known == certificates
        {
            return Ok(config.clone());
        }
        let mut roots = RootCertStore::empty();
        let (usable, _) = roots.add_parsable_certificates(certificates.iter().cloned());
        if usable == 0 {
            return Err(TrustError::Unusable(self.file.clone()));
        }
        let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS13])
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // One server; the default keeps room for hundreds.
        config.resumption = Resumption::in_memory_sessions(4);
        let config = Arc::new(config);
        *last = Some((certificates, config.clone()));
        Ok(config)
    }
}
