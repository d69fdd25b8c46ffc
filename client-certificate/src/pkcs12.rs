//! What is in a PKCS#12 file: one private key, its certificate, and the certificates between that
//! and a root. Pure, but possibly slow: the file's author decides how long decrypting takes.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RsaKeyPair};
use p12_keystore::{Certificate, Pkcs12Archive};
use x509_parser::parse_x509_certificate;

/// A private key with its certificates, in DER.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// PKCS#8.
    pub(crate) key: Vec<u8>,
    /// The key's certificate first, then its issuers; no root.
    pub(crate) chain: Vec<Vec<u8>>,
}

/// Why a file has no usable key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// Not such a file, or the wrong password.
    #[error("the certificate is no PKCS#12 file, or the password is not its password")]
    Unreadable,
    /// None or several.
    #[error("its file must hold exactly one private key")]
    NotOneKey,
    /// No certificate for the key.
    #[error("its file has no certificate of its private key")]
    NoCertificate,
    /// Entra takes no such key.
    #[error("the private key must be RSA with 2048 bits or more, or ECDSA with P-256")]
    KeyType,
    /// More than a certificate and its chain need.
    #[error("its PKCS#12 file is larger than 64 kB")]
    TooLarge,
    /// More than a certificate and its chain need.
    #[error("its PKCS#12 file takes too much time or memory to decrypt")]
    TooExpensive,
    /// Nothing is known of the file.
    #[error("its PKCS#12 file could not be looked into; it is tried again")]
    NotTried,
    /// A private key in one of the older forms.
    #[error(
        "its private key is not PKCS#8: convert it, for example by `openssl pkcs8 -topk8 -nocrypt`"
    )]
    NotPkcs8,
}

/// A key that can sign for Entra.
pub(crate) enum SigningKey {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

const MAX_CHAIN: usize = 8;

/// Takes a file apart.
pub(crate) fn unpack(file: &[u8], password: &str) -> Result<Unpacked, UnpackError> {
    let archive =
        Pkcs12Archive::from_pkcs12(file, password).map_err(|_| UnpackError::Unreadable)?;
    let [key] = archive.keys.as_slice() else { return Err(UnpackError::NotOneKey) };
    let certificates: Vec<Vec<u8>> =
        archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect();
    arranged(key.key.as_der().to_vec(), &certificates)
}

/// A key with its own certificate and that one's issuers, of all that came along.
pub(crate) fn arranged(key: Vec<u8>, all: &[Vec<u8>]) -> Result<Unpacked, UnpackError> {
    let public = SigningKey::read(&key)?.public();
    // One that cannot be read is nobody's.
    let certificates: Vec<Certificate> =
        all.iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
    let leaf = certificates
        .iter()
        .find(|certificate| public_key(certificate.as_der()).as_deref() == Some(&public))
        .ok_or(UnpackError::NoCertificate)?;
    Ok(Unpacked { key, chain: chain(leaf, &certificates.iter().collect::<Vec<_>>()) })
}

fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

fn chain(leaf: &Certificate, all: &[&Certificate]) -> Vec<Vec<u8>> {
    let mut chain = vec![leaf];
    let mut last = leaf;
    while chain.len() < MAX_CHAIN {
        let is_issuer = |other: &&&Certificate| {
            other.subject() == last.issuer() && other.issuer() != other.subject()
        };
        match all.iter().find(is_issuer) {
            Some(issuer) if !chain.contains(issuer) => {
                chain.push(issuer);
                last = issuer;
            }
            _ => break,
        }
    }
    chain.into_iter().map(|certificate| certificate.as_der().to_vec()).collect()
}

// === impl SigningKey ===

impl SigningKey {
    /// Reads a PKCS#8 key.
    pub(crate) fn read(key: &[u8]) -> Result<Self, UnpackError> {
        let rsa = RsaKeyPair::from_pkcs8(key).map(Self::Rsa).ok();
        let ec = || EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key).map(Self::Ec);
        rsa.or_else(|| ec().ok()).ok_or(UnpackError::KeyType)
    }

    fn public(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key) => key.public_key().as_ref().to_vec(),
            Self::Ec(key) => key.public_key().as_ref().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};

    use super::*;
    use crate::testing;

    #[test]
    fn keys_that_entra_takes_are_found_with_their_certificates() {
        for algorithm in [&PKCS_RSA_SHA256, &PKCS_ECDSA_P256_SHA256] {
            let (file, certificate) = testing::file(algorithm, "p4ss");
            let unpacked = unpack(&file, "p4ss").unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(unpacked.chain, [certificate]);
        }
    }

    #[test]
    fn what_is_not_usable_is_told_apart() {
        let error = |file: &[u8], password: &str| unpack(file, password).err().unwrap();
        let (file, certificate) = testing::file(&PKCS_ECDSA_P256_SHA256, "p4ss");
        assert_eq!(error(&file, "other"), UnpackError::Unreadable);
        assert_eq!(error(&file[..file.len() / 2], "p4ss"), UnpackError::Unreadable);
        assert_eq!(error(b"", ""), UnpackError::Unreadable);
        let (file, _) = testing::file(&PKCS_ECDSA_P384_SHA384, "p4ss");
        assert_eq!(error(&file, "p4ss"), UnpackError::KeyType);
        let other = KeyPair::generate().unwrap();
        let foreign = testing::pack(&[(&other, &certificate)], "p4ss");
        assert_eq!(error(&foreign, "p4ss"), UnpackError::NoCertificate);
        let two = testing::pack(&[(&other, &certificate), (&other, &certificate)], "p4ss");
        assert_eq!(error(&two, "p4ss"), UnpackError::NotOneKey);
    }

    #[test]
    fn the_chain_goes_from_the_leaf_to_below_the_root() {
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let root =
            CertifiedIssuer::self_signed(authority("root"), KeyPair::generate().unwrap()).unwrap();
        let middle =
            CertifiedIssuer::signed_by(authority("middle"), KeyPair::generate().unwrap(), &root)
                .unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        let leaf = params.signed_by(&key, &middle).unwrap();
        let read = |der: &[u8]| Certificate::from_der(der).unwrap();
        let (root, middle, leaf) =
            (read(root.as_ref().der()), read(middle.as_ref().der()), read(leaf.der()));
        let expected = [leaf.as_der().to_vec(), middle.as_der().to_vec()];
        assert_eq!(chain(&leaf, &[&root, &leaf, &middle]), expected);
    }
}
