//! The fake's own certificate authority and the certificate that its doors show.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;

use crate::files::{self, Access};

/// A certificate authority.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The state directory cannot be used.
    #[error("{0} of the state directory cannot be read or written")]
    File(&'static str, #[source] io::Error),
    /// The files are not an authority.
    #[error("ca.crt and ca.key are not an authority: remove both to have a new one made")]
    Authority(#[source] rcgen::Error),
    /// The name cannot be in a certificate.
    #[error("{0:?} cannot be in a certificate: use a DNS name")]
    Name(String, #[source] rcgen::Error),
    /// The library refuses to make a certificate.
    #[error("the serving certificate cannot be made")]
    Certificate(#[source] rcgen::Error),
    /// The library refuses to serve it.
    #[error("the serving certificate cannot be used")]
    Serve(#[source] rustls::Error),
}

impl Authority {
    /// The authority in `dir`, or a new one written there.
    pub(crate) fn open(dir: &Path) -> Result<Self, TlsError> {
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let cert = files::read(&cert_path).map_err(|error| TlsError::File("ca.crt", error))?;
        let key = files::read(&key_path).map_err(|error| TlsError::File("ca.key", error))?;
        if let (Some(cert), Some(key)) = (cert, key) {
            let pem = String::from_utf8_lossy(&cert).into_owned();
            let key =
                KeyPair::from_pem(&String::from_utf8_lossy(&key)).map_err(TlsError::Authority)?;
            let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(TlsError::Authority)?;
            return Ok(Self { pem, issuer });
        }
        let (pem, key, issuer) = new_authority().map_err(TlsError::Certificate)?;
        // The key first: a certificate without its key would be published for nothing.
        files::replace(&key_path, key.as_bytes(), Access::Owner)
            .map_err(|error| TlsError::File("ca.key", error))?;
        files::replace(&cert_path, pem.as_bytes(), Access::Everyone)
            .map_err(|error| TlsError::File("ca.crt", error))?;
        Ok(Self { pem, issuer })
    }

    /// The authority's certificate, PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A server that shows a certificate for these names and addresses.
    pub(crate) fn server(
        &self,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "fake-azure");
        for name in names {
            let dns =
                name.as_str().try_into().map_err(|error| TlsError::Name(name.clone(), error))?;
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        long_lived(&mut params);
        let key = KeyPair::generate().map_err(TlsError::Certificate)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(TlsError::Certificate)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .and_then(|builder| {
                    builder.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key)
                })
                .map_err(TlsError::Serve)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn new_authority() -> Result<(String, String, Issuer<'static, KeyPair>), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "fake-azure CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    long_lived(&mut params);
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    Ok((cert.pem(), key.serialize_pem(), Issuer::new(params, key)))
}

/// Fixed dates, far apart: the fake must work whatever a test does to its clock.
fn long_lived(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{Authority, TlsError};

    #[test]
    fn the_authority_survives_a_restart_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path()).unwrap();
        let second = Authority::open(dir.path()).unwrap();
        assert_eq!(first.pem(), second.pem());
        assert!(second.server(&["login.example".to_owned()], &[]).is_ok());
        let mode = dir.path().join("ca.key").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_authority_is_an_error_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("ca.crt"), "nonsense").unwrap();
        assert!(matches!(Authority::open(dir.path()), Err(TlsError::Authority(_))));
    }
}
