//! Until when ARM does not want to hear of a subscription. It says so to one host and means all:
//! whoever goes on asking keeps everybody throttled, others than this controller included.

use std::collections::HashMap;
use std::sync::Arc;

use api::Host;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::compute::{ArmError, ThrottleScope};

/// The subscriptions that ARM throttles. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Throttles(Arc<Mutex<HashMap<String, Timestamp>>>);

// === impl Throttles ===

impl Throttles {
    /// A call about `host` failed, and it is not asked again before `until`: if ARM said so of
    /// the subscription, nobody is.
    pub(super) fn note(&self, host: &Host, error: &ArmError, until: Timestamp) {
        if let ArmError::Throttled { scope: ThrottleScope::Subscription, .. } = error.cause() {
            let mut held = self.0.lock();
            let held = held.entry(subscription(host)).or_insert(until);
            *held = until.max(*held);
        }
    }

    /// Until when not to ask about `host`, if that is later than `now`.
    pub(super) fn until(&self, host: &Host, now: Timestamp) -> Option<Timestamp> {
        let held = self.0.lock();
        if held.is_empty() {
            return None;
        }
        held.get(&subscription(host)).copied().filter(|until| *until > now)
    }
}

fn subscription(host: &Host) -> String {
    host.id().subscription().to_ascii_lowercase()
}
