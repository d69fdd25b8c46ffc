//! The controller signs in at Entra with a certificate, goes on with its successor when the file is
//! replaced, and says what to do about one that Entra does not know.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fake_azure::journal::Entry;
use fake_azure::seed;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use serde_json::{Value, json};

use crate::story::Story;
use crate::subject::{PROGRAMS, Setting, Subject};
use crate::{Stage, eventually};

/// The application has nothing but its certificate.
const CLIENT: &str = "40000000-0000-0000-0000-0000000000c3";
const PASSWORD: &str = "not-a-secret-p4ss";
const TOKEN_LIFETIME: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(60);

/// A key that lives as long as its test, and the certificate that is registered for it.
struct Pair {
    key: KeyPair,
    certificate: rcgen::Certificate,
}

/// How an admin hands the certificate over.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// A PKCS#12 file that `azure.json` names.
    CloudConfig,
    /// A PEM file that a variable names.
    Variables,
}

// === impl Pair ===

impl Pair {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        Self { key, certificate }
    }

    fn pem(&self) -> Vec<u8> {
        format!("{}{}", self.certificate.pem(), self.key.serialize_pem()).into_bytes()
    }

    fn pkcs12(&self) -> Vec<u8> {
        let chain = PrivateKeyChain::new(
            "id",
            PrivateKey::from_der(&self.key.serialize_der()).unwrap(),
            [Certificate::from_der(self.certificate.der()).unwrap()],
        );
        let mut store = KeyStore::new();
        store.add_entry("key", KeyStoreEntry::PrivateKeyChain(chain));
        store.writer(PASSWORD).write().unwrap()
    }
}

// === impl Way ===

impl Way {
    fn content(self, pair: &Pair) -> Vec<u8> {
        match self {
            Self::CloudConfig => pair.pkcs12(),
            Self::Variables => pair.pem(),
        }
    }

    /// What the controller is told of the `file`.
    fn credential(self, dir: &Path, file: &Path) -> Vec<(&'static str, String)> {
        let file = file.display().to_string();
        match self {
            Self::CloudConfig => {
                let json = json!({
                    "tenantId": seed::TENANT, "aadClientId": CLIENT,
                    "aadClientCertPath": file, "aadClientCertPassword": PASSWORD,
                });
                let config = dir.join("azure.json");
                std::fs::write(&config, json.to_string()).unwrap();
                vec![("CLOUDCONFIG", config.display().to_string())]
            }
            Self::Variables => vec![
                ("TENANT_ID", seed::TENANT.to_owned()),
                ("CLIENT_ID", CLIENT.to_owned()),
                ("CLIENT_CERTIFICATE_PATH", file),
            ],
        }
    }
}

/// The only certificate that Entra takes from now on.
async fn register(story: &Story<'_>, pair: &Pair) {
    let app = json!({"client_id": CLIENT, "certificates": [pair.certificate.pem()]});
    story.world.post("apps", &app).await;
}

/// As a mounted Secret changes: never half.
fn replace(file: &Path, content: &[u8]) {
    let new = file.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, file).unwrap();
}

async fn sign_ins(story: &Story<'_>) -> Vec<Entry> {
    let all = story.world.journal("entra").await;
    assert!(all.iter().all(|entry| entry.credential.as_deref() == Some("certificate")), "{all:?}");
    all
}

async fn is_attached(story: &Story<'_>, subject: &mut Subject<'_>, host: &str, identity: &str) {
    eventually(&format!("{identity} is attached to {host}"), LIMIT, async || {
        assert!(!subject.has_died());
        let attached = story.world.host(host).await["identities"].clone();
        let ids = attached.as_array().cloned().unwrap_or_default();
        ids.iter().any(|id| id.as_str().unwrap().ends_with(identity)).then_some(())
    })
    .await;
}

/// Nothing by which somebody else could sign in.
fn tells_no_secret(text: &str, pairs: &[&Pair]) {
    assert!(!text.contains(PASSWORD) && !text.contains("PRIVATE KEY"), "{text}");
    // How every assertion and token begins.
    assert!(!text.contains(&["e", "yJ"].concat()), "{text}");
    for pair in pairs {
        let pem = pair.key.serialize_pem();
        assert!(!pem.lines().filter(|line| line.len() > 40).any(|line| text.contains(line)));
    }
}

/// Signs in, attaches, and goes on after the certificate was replaced; ends with the last.
async fn rotates(story: &Story<'_>, setting: &Setting<'_>, file: &Path, way: Way) -> Pair {
    let (first, second) = (Pair::new(), Pair::new());
    register(story, &first).await;
    std::fs::write(file, way.content(&first)).unwrap();
    let mut subject = Subject::start(setting, "");
    story.a_pod_comes("p1", "n1", "one").await;
    is_attached(story, &mut subject, "nodes", "demo-identity").await;
    let before = sign_ins(story).await;
    assert!(!before.is_empty() && before.iter().all(|entry| entry.status == 200), "{before:?}");

    replace(file, &way.content(&second));
    register(story, &second).await;
    // Until it has no token any more.
    tokio::time::sleep(TOKEN_LIFETIME).await;
    story.a_pod_comes("p3", "n3", "one").await;
    is_attached(story, &mut subject, "vm3", "demo-identity").await;
    let after = sign_ins(story).await;
    let after: Vec<_> = after.iter().skip(before.len()).map(|entry| entry.status).collect();
    assert_eq!(after.last(), Some(&200), "{after:?}");
    subject.end();
    tells_no_secret(&subject.log(), &[&first, &second]);
    second
}

/// What the user sees of an identity that waits.
async fn condition(story: &Story<'_>, identity: &str) -> Option<Value> {
    let all = story.world.list("AzureIdentity").await;
    let object = all.into_iter().find(|object| object["metadata"]["name"] == identity)?;
    object["status"]["conditions"].as_array()?.iter().find(|it| it["status"] != "True").cloned()
}

async fn is_told(story: &Story<'_>, setting: &Setting<'_>, file: &Path, way: Way, known: &Pair) {
    let unknown = Pair::new();
    replace(file, &way.content(&unknown));
    let mut subject = Subject::start(setting, "");
    story.a_pod_comes("p2", "n1", "two").await;
    let told = eventually("the user is told", LIMIT, async || {
        assert!(!subject.has_died());
        let told = condition(story, "second-identity").await?;
        let message = told["message"].as_str()?.to_owned();
        message.contains("AADSTS700027").then_some(message)
    })
    .await;
    subject.end();
    let named = file.display().to_string();
    assert!(told.contains(&named) && told.contains("register it for the application"), "{told}");
    assert!(told.contains(CLIENT), "{told}");
    tells_no_secret(&told, &[&unknown, known]);
    tells_no_secret(&subject.log(), &[&unknown, known]);
}

/// It does not begin with a file that it cannot use.
fn ends_at_once(setting: &Setting<'_>, file: &Path) {
    replace(file, b"no certificate");
    let mut subject = Subject::start(setting, "");
    assert_eq!(subject.wait().code(), Some(1));
    let log = subject.log();
    let named = file.display().to_string();
    assert!(log.contains(&named) && log.contains("no PKCS#12 file, or the password"), "{log}");
    tells_no_secret(&log, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_signs_in_and_its_successor_too() {
    let stage = Stage::set().await;
    let story = stage.story();
    for way in [Way::CloudConfig, Way::Variables] {
        let file: PathBuf = stage.dir.path().join("certificate");
        let usual = stage.setting(&PROGRAMS.usual);
        let credential = way.credential(stage.dir.path(), &file);
        let setting = Setting { credential, ..usual };
        drop(std::fs::remove_file(&setting.log));
        story.prepare().await;
        let lifetime = json!({"application_seconds": TOKEN_LIFETIME.as_secs()});
        story.world.set_faults(&json!({"token_lifetime": lifetime})).await;
        let known = rotates(&story, &setting, &file, way).await;
        is_told(&story, &setting, &file, way, &known).await;
        drop(std::fs::remove_file(&setting.log));
        ends_at_once(&setting, &file);
    }
}
