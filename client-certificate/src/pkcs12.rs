//! What is in a PKCS#12 file: one private key, its certificate, and the certificates between that
//! and a root. Pure, but possibly slow: the file's author decides how long decrypting takes.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RsaKeyPair};
use p12_keystore::{Certificate, Pkcs12Archive};
use x509_parser::parse_x509_certificate;

/// A private key with its certificates, in DER.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// PKCS#8.
    pub(super) key: Vec<u8>,
    /// The key's certificate first, then its issuers; no root.
    pub(super) chain: Vec<Vec<u8>>,
}

/// Why a file has no usable key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnpackError {
    /// Not such a file, or the wrong password.
    #[error("the key certificate holds no PKCS#12 file, or the key password not its password")]
    Unreadable,
    /// None or several.
    #[error("its PKCS#12 file must hold exactly one private key")]
    NotOneKey,
    /// No certificate for the key.
    #[error("its PKCS#12 file has no certificate of its private key")]
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
    #[error("the node agent could not look into its PKCS#12 file; it tries again")]
    NotTried,
}

/// A key that can sign for Entra.
pub(super) enum SigningKey {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

const MAX_CHAIN: usize = 8;

/// Takes a file apart.
pub(super) fn unpack(file: &[u8], password: &str) -> Result<Unpacked, UnpackError> {
    let archive =
        Pkcs12Archive::from_pkcs12(file, password).map_err(|_| UnpackError::Unreadable)?;
    let [key] = archive.keys.as_slice() else { return Err(UnpackError::NotOneKey) };
    let key = key.key.as_der().to_vec();
    let public = SigningKey::read(&key)?.public();
    let certificates: Vec<&Certificate> = archive.certs.iter().map(|bag| &bag.cert).collect();
    let leaf = certificates
        .iter()
        .find(|certificate| public_key(certificate.as_der()).as_deref() == Some(&public))
        .ok_or(UnpackError::NoCertificate)?;
    Ok(Unpacked { key, chain: chain(leaf, &certificates) })
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
    pub(super) fn read(key: &[u8]) -> Result<Self, UnpackError> {
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
pub(crate) mod testing {
    use p12_keystore::{KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    /// A PKCS#12 file with a key of this kind, and its certificate.
    pub(crate) fn file(
        algorithm: &'static SignatureAlgorithm,
        password: &str,
    ) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        (pack(&[(&key, certificate.der())], password), certificate.der().to_vec())
    }

    /// A file with these keys and certificates.
    pub(crate) fn pack(entries: &[(&KeyPair, &[u8])], password: &str) -> Vec<u8> {
        let mut store = KeyStore::new();
        for (number, (key, certificate)) in entries.iter().enumerate() {
            let key = PrivateKey::from_der(&key.serialize_der()).unwrap();
            let certificate = p12_keystore::Certificate::from_der(certificate).unwrap();
            let chain = PrivateKeyChain::new(format!("{number}"), key, [certificate]);
            store.add_entry(&format!("{number}"), KeyStoreEntry::PrivateKeyChain(chain));
        }
        store.writer(password).encryption_iterations(100).mac_iterations(100).write().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};

    use super::*;

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
