//! How to run the fake: addresses, certificate names, the world to start from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;

use crate::seed;
use crate::tls::{Authority, TlsError};
use crate::world::World;

/// How to run the fake.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the authority, the signing key and the world are kept.
    pub state_dir: PathBuf,
    /// The address of the metadata service (plain HTTP).
    pub imds: SocketAddr,
    /// The address of the token endpoint (TLS).
    pub entra: SocketAddr,
    /// The address of the resource manager (TLS).
    pub arm: SocketAddr,
    /// The address of the key vaults (TLS).
    pub vault: SocketAddr,
    /// The address of the control API (plain HTTP).
    pub control: SocketAddr,
    /// More DNS names in the certificate.
    pub tls_names: Vec<String>,
    /// More addresses in the certificate.
    pub tls_addresses: Vec<IpAddr>,
    /// More token audiences that the resource manager accepts.
    pub arm_audiences: Vec<String>,
    /// The world to start from.
    pub seed: World,
    /// How many journal entries are kept.
    pub journal_capacity: usize,
}

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// What clients may call the doors: vaults go by their real names, and so may Entra and ARM.
const NAMES: [&str; 4] =
    ["localhost", "*.vault.azure.net", "login.microsoftonline.com", "management.azure.com"];
/// Audiences of the public and the sovereign clouds' resource managers.
pub(crate) const ARM_AUDIENCES: [&str; 6] = [
    "https://management.azure.com",
    "https://management.core.windows.net",
    "https://management.usgovcloudapi.net",
    "https://management.core.usgovcloudapi.net",
    "https://management.chinacloudapi.cn",
    "https://management.core.chinacloudapi.cn",
];

impl Config {
    /// All doors on free ports of the loopback interface, and the default world.
    #[must_use]
    pub fn local(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            imds: LOCAL,
            entra: LOCAL,
            arm: LOCAL,
            vault: LOCAL,
            control: LOCAL,
            tls_names: Vec::new(),
            tls_addresses: Vec::new(),
            arm_audiences: Vec::new(),
            seed: seed::world(),
            journal_capacity: 100_000,
        }
    }

    /// The certificate of the TLS doors.
    pub(crate) fn tls(&self, authority: &Authority) -> Result<Arc<ServerConfig>, TlsError> {
        let names = [&NAMES.map(str::to_owned)[..], &self.tls_names].concat();
        let own = [self.entra.ip(), self.arm.ip(), self.vault.ip(), Ipv4Addr::LOCALHOST.into()];
        let mut addresses: Vec<IpAddr> =
            own.into_iter().chain(self.tls_addresses.clone()).collect();
        addresses.retain(|address| !address.is_unspecified());
        addresses.sort();
        addresses.dedup();
        authority.server(&names, &addresses)
    }
}
