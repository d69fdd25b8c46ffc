//! Starting and stopping the fake: in a process of its own or inside a test.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use rustls::ServerConfig;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::azure::{Azure, Parts};
use crate::config::{ARM_AUDIENCES, Config};
use crate::control::{self, Control};
use crate::faults::Downs;
use crate::journal::Service;
use crate::listener::Door;
use crate::store::{Store, StoreError};
use crate::tls::{Authority, TlsError};
use crate::tokens::{Signer, SignerError};
use crate::world::WorldError;
use crate::{arm, entra, imds, vault};

/// Where the doors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The metadata service.
    pub imds: SocketAddr,
    /// The token endpoint.
    pub entra: SocketAddr,
    /// The resource manager.
    pub arm: SocketAddr,
    /// The key vaults.
    pub vault: SocketAddr,
    /// The control API.
    pub control: SocketAddr,
}

/// Why the fake does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be made.
    #[error("the state directory {0} cannot be made")]
    StateDir(PathBuf, #[source] io::Error),
    /// The seed refers to what it does not have.
    #[error("the seed is not consistent")]
    Seed(#[source] WorldError),
    /// The state file is of no use.
    #[error("the saved state cannot be used")]
    Store(#[source] StoreError),
    /// There is no signing key.
    #[error("tokens cannot be signed")]
    Signer(#[source] SignerError),
    /// There is no TLS.
    #[error("the TLS services cannot start")]
    Tls(#[source] TlsError),
    /// An address is taken, or is none of this machine's.
    #[error("{service} cannot listen on {address}")]
    Bind {
        /// The service.
        service: &'static str,
        /// Its address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// A running fake. Dropping it stops it; `stop` also waits.
pub struct FakeAzure {
    addresses: Addresses,
    ca_pem: String,
    azure: Arc<Azure>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl FakeAzure {
    /// Starts all services. They answer when this returns.
    ///
    /// # Errors
    /// If the state directory, the seed or an address cannot be used.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        std::fs::create_dir_all(&config.state_dir)
            .map_err(|error| StartError::StateDir(config.state_dir.clone(), error))?;
        config.seed.check().map_err(StartError::Seed)?;
        let authority = Authority::open(&config.state_dir).map_err(StartError::Tls)?;
        let tls = config.tls(&authority).map_err(StartError::Tls)?;
        let store = Store::new(&config.state_dir);
        let listeners = Listeners::bind(&config).await?;
        let addresses = listeners.addresses(&config)?;
        let azure = Arc::new(azure(&config, &store, addresses)?);
        let fake = Self {
            addresses,
            ca_pem: authority.pem().to_owned(),
            azure: Arc::clone(&azure),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        fake.tasks.spawn(store.follow(azure, fake.stop.clone()));
        fake.open(listeners, &tls);
        Ok(fake)
    }

    /// Where the doors are.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The authority that signed the certificate of Entra, ARM and the vaults, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The keys that issued tokens verify against.
    #[must_use]
    pub fn jwks(&self) -> &Value {
        self.azure.signer.jwks()
    }

    /// `http://<address>` of the metadata service.
    #[must_use]
    pub fn imds_url(&self) -> String {
        format!("http://{}", self.addresses.imds)
    }

    /// `https://<address>` of the token endpoint.
    #[must_use]
    pub fn entra_url(&self) -> String {
        format!("https://{}", self.addresses.entra)
    }

    /// `https://<address>` of the resource manager.
    #[must_use]
    pub fn arm_url(&self) -> String {
        format!("https://{}", self.addresses.arm)
    }

    /// `https://<address>` of the key vaults.
    #[must_use]
    pub fn vault_url(&self) -> String {
        format!("https://{}", self.addresses.vault)
    }

    /// `http://<address>` of the control API.
    #[must_use]
    pub fn control_url(&self) -> String {
        format!("http://{}", self.addresses.control)
    }

    /// Stops all services, saves the world and waits for both.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn open(&self, listeners: Listeners, tls: &Arc<ServerConfig>) {
        let state = || Arc::clone(&self.azure);
        let doors = [
            (
                Service::Imds,
                listeners.imds,
                None,
                Router::new().fallback(imds::serve).with_state(state()),
            ),
            (
                Service::Entra,
                listeners.entra,
                Some(Arc::clone(tls)),
                Router::new().fallback(entra::serve).with_state(state()),
            ),
            (
                Service::Arm,
                listeners.arm,
                Some(Arc::clone(tls)),
                Router::new().fallback(arm::serve).with_state(state()),
            ),
            (
                Service::Vault,
                listeners.vault,
                Some(Arc::clone(tls)),
                Router::new().fallback(vault::serve).with_state(state()),
            ),
        ];
        let mut listening = Vec::new();
        for (service, listener, tls, router) in doors {
            let (applied, receiver) = watch::channel(Downs::default());
            listening.push(receiver);
            self.serve(service, listener, (tls, router), applied);
        }
        let router = control::router(Control { azure: state(), listening });
        let (applied, _) = watch::channel(Downs::default());
        self.serve(Service::Control, listeners.control, (None, router), applied);
    }

    fn serve(
        &self,
        service: Service,
        listener: TcpListener,
        (tls, router): (Option<Arc<ServerConfig>>, Router),
        applied: watch::Sender<Downs>,
    ) {
        let address = match service {
            Service::Imds => self.addresses.imds,
            Service::Entra => self.addresses.entra,
            Service::Arm => self.addresses.arm,
            Service::Vault => self.addresses.vault,
            Service::Control => self.addresses.control,
        };
        let downs = self.azure.faults.downs();
        let stop = self.stop.clone();
        tracing::info!(service = service.as_str(), %address, "Listening");
        let door = Door { service, address, tls, router, downs, applied, stop };
        self.tasks.spawn(door.run(listener));
    }
}

impl Drop for FakeAzure {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn azure(config: &Config, store: &Store, addresses: Addresses) -> Result<Azure, StartError> {
    let world = match store.load().map_err(StartError::Store)? {
        Some(world) => {
            tracing::info!("Loaded the saved world; the seed counts again after a reset");
            world
        }
        None => config.seed.clone(),
    };
    let mut arm_audiences: Vec<String> = ARM_AUDIENCES.map(str::to_owned).into();
    arm_audiences.push(format!("https://{}", addresses.arm));
    arm_audiences.extend(config.arm_audiences.iter().cloned());
    Ok(Azure::new(Parts {
        world,
        seed: config.seed.clone(),
        signer: Signer::open(&config.state_dir).map_err(StartError::Signer)?,
        journal_capacity: config.journal_capacity,
        arm_audiences,
        entra_url: format!("https://{}", addresses.entra),
    }))
}

struct Listeners {
    imds: TcpListener,
    entra: TcpListener,
    arm: TcpListener,
    vault: TcpListener,
    control: TcpListener,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, StartError> {
        let bind = async |service: &'static str, address: SocketAddr| {
            TcpListener::bind(address).await.map_err(|source| StartError::Bind {
                service,
                address,
                source,
            })
        };
        Ok(Self {
            imds: bind("imds", config.imds).await?,
            entra: bind("entra", config.entra).await?,
            arm: bind("arm", config.arm).await?,
            vault: bind("vault", config.vault).await?,
            control: bind("control", config.control).await?,
        })
    }

    fn addresses(&self, config: &Config) -> Result<Addresses, StartError> {
        let local = |service, listener: &TcpListener, address| {
            listener.local_addr().map_err(|source| StartError::Bind { service, address, source })
        };
        Ok(Addresses {
            imds: local("imds", &self.imds, config.imds)?,
            entra: local("entra", &self.entra, config.entra)?,
            arm: local("arm", &self.arm, config.arm)?,
            vault: local("vault", &self.vault, config.vault)?,
            control: local("control", &self.control, config.control)?,
        })
    }
}
