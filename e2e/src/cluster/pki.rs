//! The keys, certificates and tokens of one cluster's control plane; made once, kept in its state
//! folder, worthless elsewhere.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

use crate::files::{self, Access};
use crate::paths::State;
use crate::topology::{API_SERVICE_IP, MAX_NODES, Node};

/// Users of the API server that authenticate with a fixed token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User {
    /// People and tests.
    Admin,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// kube-proxy, on all nodes.
    Proxy,
    /// kubelet of the node with this index.
    Kubelet(u8),
}

/// The folder with all of it.
#[derive(Clone, Debug)]
pub(super) struct Pki {
    dir: PathBuf,
}

impl User {
    fn all() -> impl Iterator<Item = Self> {
        let components = [Self::Admin, Self::ControllerManager, Self::Scheduler, Self::Proxy];
        components.into_iter().chain((1..=MAX_NODES).map(Self::Kubelet))
    }

    fn name(self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::ControllerManager => "system:kube-controller-manager".to_owned(),
            Self::Scheduler => "system:kube-scheduler".to_owned(),
            Self::Proxy => "system:kube-proxy".to_owned(),
            Self::Kubelet(index) => format!("system:node:{}", Node::standard(index).name()),
        }
    }

    fn group(self) -> &'static str {
        match self {
            Self::Admin => "system:masters",
            Self::Kubelet(_) => "system:nodes",
            Self::ControllerManager | Self::Scheduler | Self::Proxy => "",
        }
    }
}

impl Pki {
    /// Makes everything, unless it is there already.
    pub(super) fn ensure(state: &State) -> Result<Self> {
        let pki = Self { dir: state.pki() };
        // Written last, so its presence says that the rest is complete.
        if !pki.tokens_file().exists() {
            pki.create().context("cannot make the cluster's keys")?;
        }
        Ok(pki)
    }

    /// A file of the folder.
    #[must_use]
    pub(super) fn path(&self, name: &str) -> String {
        self.dir.join(name).to_string_lossy().into_owned()
    }

    /// The CA certificate that all clients trust.
    pub(super) fn ca(&self) -> Result<String> {
        self.read("ca.crt")
    }

    /// The token file of the API server.
    fn tokens_file(&self) -> PathBuf {
        self.dir.join("tokens.csv")
    }

    /// A user's token.
    pub(super) fn token(&self, user: User) -> Result<String> {
        let csv = self.read("tokens.csv")?;
        token_of(&csv, user)
            .with_context(|| format!("{} has no token", user.name()))
            .map(str::to_owned)
    }

    fn create(&self) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = named("pod-identity-sidecar local cluster", None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key)?;
        self.write("ca.crt", &certificate.pem(), Access::Public)?;
        let ca = Issuer::new(params, key);

        let mut server = named("kube-apiserver", None)?;
        server.subject_alt_names = CertificateParams::new(api_server_names())?.subject_alt_names;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue("apiserver", &server, &ca)?;

        let mut client = named("kube-apiserver-kubelet-client", Some("system:masters"))?;
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue("apiserver-kubelet-client", &client, &ca)?;

        for index in 1..=MAX_NODES {
            let node = Node::standard(index);
            let mut kubelet = named(&User::Kubelet(index).name(), Some("system:nodes"))?;
            let names = vec![node.name(), node.ip().to_string()];
            kubelet.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
            kubelet.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            self.issue(&format!("kubelet-{}", node.name()), &kubelet, &ca)?;
        }

        let service_accounts = KeyPair::generate()?;
        self.write("sa.key", &service_accounts.serialize_pem(), Access::Private)?;
        self.write("sa.pub", &service_accounts.public_key_pem(), Access::Public)?;
        let mut lines = Vec::new();
        for user in User::all() {
            lines.push(token_line(user, &files::random_token()?));
        }
        self.write("tokens.csv", &lines.concat(), Access::Private)
    }

    fn issue(
        &self,
        name: &str,
        params: &CertificateParams,
        ca: &Issuer<'_, KeyPair>,
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, ca)?;
        self.write(&format!("{name}.crt"), &certificate.pem(), Access::Public)?;
        self.write(&format!("{name}.key"), &key.serialize_pem(), Access::Private)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn write(&self, name: &str, content: &str, access: Access) -> Result<()> {
        files::write(&self.dir.join(name), content, access)
    }
}

/// Every name that somebody uses for the API server.
fn api_server_names() -> Vec<String> {
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let addresses =
        ["127.0.0.1".to_owned(), Node::standard(1).ip().to_string(), API_SERVICE_IP.to_string()];
    names.into_iter().map(str::to_owned).chain(addresses).collect()
}

fn named(common_name: &str, organization: Option<&str>) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    Ok(params)
}

fn token_line(user: User, token: &str) -> String {
    let name = user.name();
    match user.group() {
        "" => format!("{token},{name},{name}\n"),
        group => format!("{token},{name},{name},\"{group}\"\n"),
    }
}

fn token_of(csv: &str, user: User) -> Option<&str> {
    let name = user.name();
    csv.lines().find_map(|line| {
        let mut fields = line.split(',');
        let token = fields.next()?;
        (fields.next()? == name).then_some(token)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn every_user_has_a_token_of_its_own() {
        let csv: String = User::all()
            .enumerate()
            .map(|(position, user)| token_line(user, &format!("t{position}")))
            .collect();
        assert_eq!(token_of(&csv, User::Admin), Some("t0"));
        assert_eq!(token_of(&csv, User::Kubelet(2)), Some("t5"));
        assert!(csv.contains("t0,admin,admin,\"system:masters\"\n"), "{csv}");
        assert!(csv.contains("t3,system:kube-proxy,system:kube-proxy\n"), "{csv}");
        assert_eq!(token_of("", User::Admin), None);
    }

    #[test]
    fn keys_are_private_and_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path()).unwrap();
        let pki = Pki::ensure(&state).unwrap();
        let (ca, token) = (pki.ca().unwrap(), pki.token(User::Admin).unwrap());
        let again = Pki::ensure(&state).unwrap();
        assert_eq!((again.ca().unwrap(), again.token(User::Admin).unwrap()), (ca, token));
        for entry in fs::read_dir(state.pki()).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            let is_public = name.ends_with(".crt") || name.ends_with(".pub");
            assert_eq!(mode, if is_public { 0o644 } else { 0o600 }, "{name}");
        }
    }

    #[test]
    fn the_api_server_is_known_by_every_address_that_is_used() {
        let names = api_server_names();
        for name in ["127.0.0.1", "10.77.0.1", "10.96.0.1", "kubernetes.default.svc"] {
            assert!(names.iter().any(|known| known == name), "{name}");
        }
    }
}
