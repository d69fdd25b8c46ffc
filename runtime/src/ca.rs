//! Root certificates that clients trust: the system's, and a bundle of the admin's.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaBundleError {
    /// The file cannot be read.
    #[error("cannot read the CA bundle {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no certificate.
    #[error("the CA bundle {0} holds no PEM certificate")]
    Empty(PathBuf),
}

/// Reads every certificate of a PEM bundle, in DER.
pub fn read_bundle(path: &Path) -> Result<Vec<CertificateDer<'static>>, CaBundleError> {
    let pem = std::fs::read(path)
        .map_err(|source| CaBundleError::Unreadable { path: path.to_owned(), source })?;
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    if certificates.is_empty() {
        return Err(CaBundleError::Empty(path.to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_certificates_is_an_error_that_names_the_file() {
        let file = std::env::temp_dir().join(format!("no-ca-{}.pem", std::process::id()));
        std::fs::write(&file, "not pem").unwrap();
        let error = read_bundle(&file).unwrap_err().to_string();
        std::fs::remove_file(&file).unwrap();
        assert!(error.contains("holds no PEM certificate"), "{error}");
        assert!(read_bundle(Path::new("/nonexistent")).is_err());
    }
}
