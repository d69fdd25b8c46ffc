//! What the doors share: the world, the faults, the journal, the signing key.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::fault_desk::FaultDesk;
use crate::faults::Faults;
use crate::imds_limit::ImdsLimit;
use crate::imds_stats::ImdsStats;
use crate::journal::Journal;
use crate::operations::OperationBook;
use crate::tokens::{Claims, Grant, Signer, SignerError};
use crate::world::World;

/// The shared state. Each part has its own lock, and none is held across an await.
pub(crate) struct Azure {
    pub(crate) world: RwLock<World>,
    pub(crate) faults: FaultDesk,
    pub(crate) journal: Arc<Journal>,
    pub(crate) operations: Arc<OperationBook>,
    pub(crate) imds_limit: Arc<ImdsLimit>,
    pub(crate) imds_stats: Arc<ImdsStats>,
    pub(crate) signer: Signer,
    pub(crate) arm_audiences: Vec<String>,
    /// `https://<address>` of the token endpoint, which the vaults name.
    pub(crate) entra_url: String,
    /// Told after each change of the world, so that it is written to disk.
    pub(crate) changed: Notify,
    seed: World,
}

/// The address of the caller, without the port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The parts that differ from run to run.
pub(crate) struct Parts {
    pub(crate) world: World,
    pub(crate) seed: World,
    pub(crate) signer: Signer,
    pub(crate) journal_capacity: usize,
    pub(crate) arm_audiences: Vec<String>,
    pub(crate) entra_url: String,
}

impl Azure {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            world: RwLock::new(parts.world),
            faults: FaultDesk::new(),
            journal: Arc::new(Journal::new(parts.journal_capacity)),
            operations: Arc::default(),
            imds_limit: Arc::new(ImdsLimit::new()),
            imds_stats: Arc::new(ImdsStats::new()),
            signer: parts.signer,
            arm_audiences: parts.arm_audiences,
            entra_url: parts.entra_url,
            changed: Notify::new(),
            seed: parts.seed,
        }
    }

    /// Changes the world and has it saved.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let result = change(&mut self.world.write());
        self.changed.notify_one();
        result
    }

    /// Back to the seed, without faults and memory.
    pub(crate) fn reset(&self) {
        self.change(|world| *world = self.seed.clone());
        self.faults.replace(Faults::default());
        self.operations.clear();
        self.imds_limit.clear();
        self.imds_stats.clear();
        self.journal.clear();
    }

    pub(crate) fn issue(&self, grant: &Grant) -> Result<(String, Claims), SignerError> {
        self.signer.issue(grant)
    }
}
