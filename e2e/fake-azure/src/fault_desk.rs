//! The faults in force: read by every request, replaced by the control API.

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::arm_id::ArmId;
use crate::faults::{AttachFault, Channel, Down, Downs, Faults, IdentityFault, Subject, Verdict};
use crate::journal::Service;

/// The faults in force.
pub(crate) struct FaultDesk {
    current: Mutex<Faults>,
    downs: watch::Sender<Downs>,
}

impl FaultDesk {
    pub(crate) fn new() -> Self {
        Self { current: Mutex::new(Faults::default()), downs: watch::Sender::default() }
    }

    pub(crate) fn replace(&self, faults: Faults) {
        let mut current = self.current.lock();
        self.downs.send_replace(faults.down);
        *current = faults;
    }

    /// Makes new faults of those in force. Nobody changes them meanwhile.
    pub(crate) fn change<E>(
        &self,
        change: impl FnOnce(&Faults) -> Result<Faults, E>,
    ) -> Result<Faults, E> {
        let mut current = self.current.lock();
        let changed = change(&current)?;
        current.clone_from(&changed);
        self.downs.send_replace(changed.down);
        Ok(changed)
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Faults) -> T) -> T {
        read(&self.current.lock())
    }

    /// Decides for one request.
    pub(crate) fn judge(&self, channel: Channel, subject: &Subject<'_>) -> Verdict {
        let roll = rand::random::<f64>();
        self.current.lock().judge(channel, subject, roll)
    }

    pub(crate) fn attach_fault(&self, id: &ArmId) -> Option<AttachFault> {
        self.of_identity(id, |fault| fault.attach)
    }

    pub(crate) fn token_status(&self, id: &ArmId) -> Option<u16> {
        self.of_identity(id, |fault| fault.token_status)
    }

    /// How long IMDS does not know this identity after it was attached.
    pub(crate) fn propagation_delay_ms(&self, id: &ArmId) -> u64 {
        let own = self.of_identity(id, |fault| fault.propagation_delay_ms);
        own.unwrap_or_else(|| self.read(|faults| faults.propagation_delay_ms))
    }

    /// The lifetime of a token of this identity.
    pub(crate) fn identity_lifetime(&self, id: &ArmId) -> u64 {
        let own = self.of_identity(id, |fault| fault.token_lifetime_seconds);
        let all = || self.read(|faults| faults.token_lifetime.managed_identity_seconds);
        own.unwrap_or_else(all)
    }

    fn of_identity<T>(&self, id: &ArmId, get: impl Fn(&IdentityFault) -> Option<T>) -> Option<T> {
        self.read(|faults| faults.identities.get(id).and_then(get))
    }

    pub(crate) fn downs(&self) -> watch::Receiver<Downs> {
        self.downs.subscribe()
    }

    /// Returns when `service` does not hang (any more).
    pub(crate) async fn while_hanging(&self, service: Service) {
        let mut downs = self.downs.subscribe();
        // An error means that the desk is gone, and it lives as long as its requests.
        let _ = downs.wait_for(|downs| service.down(downs) != Some(Down::Hang)).await;
    }
}

impl Service {
    /// How this service is away, if it is.
    pub(crate) fn down(self, downs: &Downs) -> Option<Down> {
        match self {
            Self::Imds => downs.imds,
            Self::Entra => downs.entra,
            Self::Arm => downs.arm,
            Self::Vault => downs.vault,
            Self::Control => None,
        }
    }
}
