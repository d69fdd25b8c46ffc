//! The faults in force: read by every request, replaced by the control API.

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::arm_id::ArmId;
use crate::faults::{AttachFault, Channel, Down, Downs, Faults, Verdict};
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
        let downs = faults.down;
        *self.current.lock() = faults;
        self.downs.send_replace(downs);
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Faults) -> T) -> T {
        read(&self.current.lock())
    }

    /// Decides for one request.
    pub(crate) fn judge(&self, channel: Channel, host: Option<&ArmId>) -> Verdict {
        let roll = rand::random::<f64>();
        self.current.lock().judge(channel, host, roll)
    }

    pub(crate) fn attach_fault(&self, id: &ArmId) -> Option<AttachFault> {
        self.read(|faults| faults.identities.get(id).and_then(|fault| fault.attach))
    }

    pub(crate) fn token_status(&self, id: &ArmId) -> Option<u16> {
        self.read(|faults| faults.identities.get(id).and_then(|fault| fault.token_status))
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
            Self::Control => None,
        }
    }
}
