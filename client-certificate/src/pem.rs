//! What is in a PEM file: one private key and its certificate, in any order, perhaps with the
//! certificates between that and a root. Pure.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::pkcs12::{UnpackError, Unpacked, arranged};

/// Whether a file is one of these.
pub(crate) fn is_pem(file: &[u8]) -> bool {
    file.windows(BEGIN.len()).any(|window| window == BEGIN)
}

const BEGIN: &[u8] = b"-----BEGIN ";

/// Takes a file apart.
pub(crate) fn unpack(file: &[u8]) -> Result<Unpacked, UnpackError> {
    let key = PrivateKeyDer::from_pem_slice(file).map_err(|_| UnpackError::NotOneKey)?;
    let PrivateKeyDer::Pkcs8(key) = key else { return Err(UnpackError::NotPkcs8) };
    let certificates: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(file)
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| UnpackError::Unreadable)?;
    arranged(key.secret_pkcs8_der().to_vec(), &certificates)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};

    use super::*;

    fn pair() -> (KeyPair, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        (key, certificate.pem())
    }

    #[test]
    fn key_and_certificate_are_found_in_any_order_among_others() {
        let ((key, certificate), (_, other)) = (pair(), pair());
        let key = key.serialize_pem();
        for file in [
            format!("{key}{certificate}"),
            format!("Bag Attributes\n{other}\n{certificate}\n{key}"),
            format!("{certificate}{other}{key}"),
        ] {
            assert!(is_pem(file.as_bytes()));
            let unpacked = unpack(file.as_bytes()).ok().unwrap();
            let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            assert_eq!(unpacked.chain, [der.to_vec()]);
        }
    }

    #[test]
    fn what_is_not_usable_is_told_apart() {
        let ((key, certificate), (_, other)) = (pair(), pair());
        let key = key.serialize_pem();
        let large = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        let sec1 = key.replace("PRIVATE KEY", "EC PRIVATE KEY");
        for (file, expected) in [
            (certificate.clone(), UnpackError::NotOneKey),
            (format!("{key}{other}"), UnpackError::NoCertificate),
            (format!("{large}{certificate}"), UnpackError::KeyType),
            (format!("{sec1}{certificate}"), UnpackError::NotPkcs8),
        ] {
            assert_eq!(unpack(file.as_bytes()).err(), Some(expected));
        }
        assert!(!is_pem(b"\x30\x82"));
    }
}
