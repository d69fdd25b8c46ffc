//! Files with keys and certificates, as people make them, for tests.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use p12_keystore::{KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

/// A PKCS#12 file with a key of this kind, and its certificate.
pub fn file(algorithm: &'static SignatureAlgorithm, password: &str) -> (Vec<u8>, Vec<u8>) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    (pack(&[(&key, certificate.der())], password), certificate.der().to_vec())
}

/// A file with these keys and certificates.
pub fn pack(entries: &[(&KeyPair, &[u8])], password: &str) -> Vec<u8> {
    let mut store = KeyStore::new();
    for (number, (key, certificate)) in entries.iter().enumerate() {
        let key = PrivateKey::from_der(&key.serialize_der()).unwrap();
        let certificate = p12_keystore::Certificate::from_der(certificate).unwrap();
        let chain = PrivateKeyChain::new(format!("{number}"), key, [certificate]);
        store.add_entry(&format!("{number}"), KeyStoreEntry::PrivateKeyChain(chain));
    }
    store.writer(password).encryption_iterations(100).mac_iterations(100).write().unwrap()
}
