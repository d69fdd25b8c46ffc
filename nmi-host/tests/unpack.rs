//! The child that takes PKCS#12 files apart, as a process: what it answers, and what ends it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{CertificateParams, KeyPair};

const PASSWORD: &str = "p4ss";

fn file() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    let private = PrivateKey::from_der(&key.serialize_der()).unwrap();
    let certificate = Certificate::from_der(certificate.der()).unwrap();
    let mut store = KeyStore::new();
    let chain = PrivateKeyChain::new("id", private, [certificate]);
    store.add_entry("key", KeyStoreEntry::PrivateKeyChain(chain));
    store.writer(PASSWORD).encryption_iterations(100).mac_iterations(100).write().unwrap()
}

fn question(password: &str, file: &[u8]) -> Vec<u8> {
    let part = |part: &[u8]| [&(part.len() as u64).to_be_bytes(), part].concat();
    [part(password.as_bytes()), part(file)].concat()
}

fn start() -> Child {
    Command::new(env!("CARGO_BIN_EXE_nmi-host"))
        .arg("unpack-certificate")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn ask(question: &[u8]) -> Output {
    let mut child = start();
    // A child that has ended does not read on.
    drop(child.stdin.take().unwrap().write_all(question));
    child.wait_with_output().unwrap()
}

#[test]
fn the_key_and_its_certificate_are_answered() {
    let output = ask(&question(PASSWORD, &file()));
    assert_eq!(output.status.code(), Some(0));
    let (length, rest) = output.stdout.split_first_chunk::<8>().unwrap();
    let key = &rest[..usize::try_from(u64::from_be_bytes(*length)).unwrap()];
    assert!(KeyPair::try_from(key).is_ok());
    assert!(rest.len() > key.len() + 8, "and a certificate");
}

#[test]
fn a_wrong_password_and_nonsense_are_told() {
    for question in [question("other", &file()), question(PASSWORD, b"x"), vec![1, 2, 3]] {
        let output = ask(&question);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(40), 0));
    }
}

#[test]
fn the_child_has_narrow_limits() {
    let mut child = start();
    let path = format!("/proc/{}/limits", child.id());
    let deadline = Instant::now() + Duration::from_secs(20);
    let narrow = loop {
        let limits = std::fs::read_to_string(&path).unwrap();
        let is = |name: &str, most: &str| {
            let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].split_whitespace().take(2).all(|limit| limit == most)
        };
        let narrow = is("Max core file size", "0")
            && is("Max address space", "100663296")
            && is("Max cpu time", "2");
        if narrow || Instant::now() > deadline {
            break narrow;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(narrow, "before anything is read");
}

#[test]
fn what_does_not_fit_into_the_limits_ends_the_child_only() {
    let output = ask(&question(PASSWORD, &vec![0; 200 * 1024 * 1024]));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}
