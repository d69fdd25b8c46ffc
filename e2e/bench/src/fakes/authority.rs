//! The certificates of a run: an authority that lives as long as this process, and what it signs.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The name of the agent in its certificate, as the chart gives it.
pub(crate) const SERVER_NAME: &str = "nmi-host.pod-identity-system.svc";

/// Signs the certificates of the servers here.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A server's certificate and key, both PEM.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) chain: String,
    pub(crate) key: String,
}

// === impl Authority ===

impl Authority {
    /// A new one.
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "bench CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.self_signed(&key).context("cannot make a certificate")?;
        Ok(Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority's certificate, PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for [`SERVER_NAME`] and loopback.
    pub(crate) fn leaf(&self) -> Result<Leaf> {
        let mut params = CertificateParams::new([SERVER_NAME.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, SERVER_NAME);
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate =
            params.signed_by(&key, &self.issuer).context("cannot sign a certificate")?;
        Ok(Leaf { chain: certificate.pem(), key: key.serialize_pem() })
    }

    /// How a client checks the servers here.
    pub(crate) fn client(&self) -> Result<(Arc<ClientConfig>, ServerName<'static>)> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok((Arc::new(config), ServerName::try_from(SERVER_NAME)?))
    }
}

// === impl Leaf ===

impl Leaf {
    /// How a server shows it.
    pub(crate) fn server(&self) -> Result<Arc<ServerConfig>> {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().context("the certificate is no PEM")?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .context("the certificate's key is no PEM")?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Arc::new(config))
    }
}
