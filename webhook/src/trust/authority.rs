//! Making certificates and reading what matters of them. No clock, no API.

use std::collections::BTreeSet;
use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

/// Clocks of nodes may be behind ours by this much.
const SKEW_SECONDS: i64 = 3600;

/// A certificate and its private key, both PEM. The key never prints.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) cert: String,
    pub(super) key: String,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Unix time, seconds.
    pub(super) not_after: i64,
    pub(super) dns_names: BTreeSet<String>,
    pub(super) subject: String,
    pub(super) issuer: String,
    public_key: Vec<u8>,
}

/// The certificate library refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    /// A key or certificate could not be made, or the authority's not be read.
    #[error("the certificate library refused")]
    Library(#[from] rcgen::Error),
    /// The point in time cannot be expressed.
    #[error("the clock is out of range")]
    Clock(#[from] time::error::ComponentRange),
}

/// A new authority. Its name is unique, so that what it signed can be told from what another did.
pub(super) fn new_authority(now: i64, lifetime: i64) -> Result<Pair, IssueError> {
    let key = KeyPair::generate()?;
    let mut params = valid(CertificateParams::default(), now, lifetime)?;
    let id: String =
        key.public_key_raw().iter().rev().take(8).map(|b| format!("{b:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("pod-identity-sidecar {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let cert = params.self_signed(&key)?;
    Ok(Pair { cert: cert.pem(), key: key.serialize_pem() })
}

/// A server certificate for the names, signed by the authority.
pub(super) fn issue(
    authority: &Pair,
    dns_names: &BTreeSet<String>,
    now: i64,
    lifetime: i64,
) -> Result<Pair, IssueError> {
    let issuer = Issuer::from_ca_cert_pem(&authority.cert, KeyPair::from_pem(&authority.key)?)?;
    let key = KeyPair::generate()?;
    let names: Vec<String> = dns_names.iter().cloned().collect();
    let mut params = valid(CertificateParams::new(names)?, now, lifetime)?;
    params.distinguished_name.push(DnType::CommonName, "pod-identity-sidecar server");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let cert = params.signed_by(&key, &issuer)?;
    Ok(Pair { cert: cert.pem(), key: key.serialize_pem() })
}

fn valid(
    mut params: CertificateParams,
    now: i64,
    lifetime: i64,
) -> Result<CertificateParams, IssueError> {
    params.not_before = OffsetDateTime::from_unix_timestamp(now - SKEW_SECONDS)?;
    params.not_after = OffsetDateTime::from_unix_timestamp(now + lifetime)?;
    Ok(params)
}

// === impl Pair ===

impl Pair {
    /// What the certificate says, if it can be read and the key belongs to it.
    pub(super) fn facts(&self) -> Option<Facts> {
        let facts = Facts::read(&self.cert)?;
        let key = KeyPair::from_pem(&self.key).ok()?;
        (key.public_key_raw() == facts.public_key).then_some(facts)
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("facts", &Facts::read(&self.cert)).finish_non_exhaustive()
    }
}

// === impl Facts ===

impl Facts {
    pub(super) fn read(pem: &str) -> Option<Self> {
        let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
        let cert = pem.parse_x509().ok()?;
        let alternative = cert.subject_alternative_name().ok()?;
        let dns_names = alternative
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect();
        Some(Self {
            not_after: cert.validity().not_after.timestamp(),
            dns_names,
            subject: cert.subject().to_string(),
            issuer: cert.issuer().to_string(),
            public_key: cert.public_key().subject_public_key.data.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn a_leaf_says_who_signed_it_and_for_which_names() {
        let authority = new_authority(NOW, 1000).unwrap();
        let names = BTreeSet::from(["nmi-host.ns.svc".to_owned()]);
        let leaf = issue(&authority, &names, NOW, 100).unwrap();
        let (ca, facts) = (authority.facts().unwrap(), leaf.facts().unwrap());
        assert_eq!(facts.issuer, ca.subject);
        assert_eq!(facts.dns_names, names);
        assert_eq!(facts.not_after, NOW + 100);
        assert_ne!(new_authority(NOW, 1000).unwrap().facts().unwrap().subject, ca.subject);
    }

    #[test]
    fn a_key_of_another_pair_is_noticed() {
        let (a, b) = (new_authority(NOW, 1000).unwrap(), new_authority(NOW, 1000).unwrap());
        assert_eq!(Pair { cert: a.cert, key: b.key }.facts(), None);
        assert_eq!(Pair::default().facts(), None);
    }

    #[test]
    fn debug_shows_no_key() {
        let authority = new_authority(NOW, 1000).unwrap();
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }
}
