//! ARM writes under way: one per host, and the asynchronous ones that callers poll.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::arm_error::ArmError;
use crate::arm_id::ArmId;
use crate::azure::Azure;
use crate::clock::{now_ms, timestamp};
use crate::guid::Guid;
use crate::host::{Delta, Host, SystemAssigned};
use crate::identity_patch::Change;
use crate::journal::Entry;

/// Finished operations beyond this number are forgotten, oldest first.
const REMEMBERED: usize = 10_000;

/// All writes under way and the operations that can be polled.
#[derive(Default)]
pub(crate) struct OperationBook {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The number of the write that has the host.
    busy: HashMap<ArmId, u64>,
    writes: u64,
    operations: HashMap<Guid, Operation>,
    order: Vec<Guid>,
}

/// One asynchronous operation.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    id: Guid,
    started_ms: u64,
    ended_ms: Option<u64>,
    error: Option<ArmError>,
}

/// The right to write to a host; another write meanwhile is a conflict.
pub(crate) struct HostWrite {
    book: Arc<OperationBook>,
    host: ArmId,
    number: u64,
}

/// A write that was accepted.
pub(crate) struct Write {
    pub(crate) operation: Guid,
    pub(crate) change: Change,
    pub(crate) duration: Duration,
    pub(crate) fails: bool,
    pub(crate) right: HostWrite,
}

// === impl OperationBook ===

impl OperationBook {
    /// The right to write to `host`, unless somebody else has it.
    pub(crate) fn begin_write(self: &Arc<Self>, host: &ArmId) -> Option<HostWrite> {
        let mut inner = self.inner.lock();
        if inner.busy.contains_key(host) {
            return None;
        }
        inner.writes += 1;
        let number = inner.writes;
        inner.busy.insert(host.clone(), number);
        Some(HostWrite { book: Arc::clone(self), host: host.clone(), number })
    }

    pub(crate) fn start(&self, id: &Guid) {
        let mut inner = self.inner.lock();
        let operation =
            Operation { id: id.clone(), started_ms: now_ms(), ended_ms: None, error: None };
        inner.operations.insert(id.clone(), operation);
        inner.order.push(id.clone());
        if inner.order.len() > 2 * REMEMBERED {
            let forgotten: Vec<Guid> = inner.order.drain(..REMEMBERED).collect();
            for id in forgotten {
                inner.operations.remove(&id);
            }
        }
    }

    fn end(&self, id: &Guid, error: Option<ArmError>) {
        if let Some(operation) = self.inner.lock().operations.get_mut(id) {
            operation.ended_ms = Some(now_ms());
            operation.error = error;
        }
    }

    pub(crate) fn get(&self, id: &Guid) -> Option<Operation> {
        self.inner.lock().operations.get(id).cloned()
    }

    /// Forgets everything. Writes under way find that out at their end and change nothing.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.busy.clear();
        inner.operations.clear();
        inner.order.clear();
    }
}

impl Drop for HostWrite {
    fn drop(&mut self) {
        let mut inner = self.book.inner.lock();
        // After a reset the host may be another write's by now.
        if inner.busy.get(&self.host) == Some(&self.number) {
            inner.busy.remove(&self.host);
        }
    }
}

impl Operation {
    pub(crate) fn is_running(&self) -> bool {
        self.ended_ms.is_none()
    }

    /// The body that a poll answers.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({"name": self.id, "startTime": timestamp(self.started_ms)});
        body["status"] = json!(match (self.ended_ms, &self.error) {
            (None, _) => "InProgress",
            (Some(_), None) => "Succeeded",
            (Some(_), Some(_)) => "Failed",
        });
        if let Some(ended) = self.ended_ms {
            body["endTime"] = json!(timestamp(ended));
        }
        if let Some(error) = &self.error {
            body["error"] = error.body();
        }
        body
    }
}

// === carrying a write out ===

impl Write {
    /// Takes the time that the write takes, then does it. Runs to its end even if the caller of
    /// the request has gone away, as in reality.
    pub(crate) async fn carry_out(self, azure: Arc<Azure>) -> Result<(), ArmError> {
        let host = &self.right.host;
        if !self.duration.is_zero() {
            set_state(&azure, host, "Updating");
            tokio::time::sleep(self.duration).await;
        }
        if azure.operations.get(&self.operation).is_none() {
            return Ok(());
        }
        let result = if self.fails {
            set_state(&azure, host, "Failed");
            Err(ArmError::operation_failed())
        } else {
            Ok(azure.change(|world| {
                world.hosts.get_mut(host).map(|host| host.apply(&self.change, now_ms()))
            }))
        };
        let (delta, error) = match result {
            Ok(delta) => (delta.unwrap_or_default(), None),
            Err(error) => (Delta::default(), Some(error)),
        };
        azure.journal.record(Entry {
            service: "operation".to_owned(),
            host: Some(host.clone()),
            status: if error.is_some() { 500 } else { 200 },
            error: error.as_ref().map(|error| error.code.clone()),
            attached: delta.attached,
            detached: delta.detached,
            operation: Some(self.operation.to_string()),
            ..Entry::default()
        });
        // Free the host first: who sees the operation ended may write again.
        drop(self.right);
        azure.operations.end(&self.operation, error.clone());
        error.map_or(Ok(()), Err)
    }
}

fn set_state(azure: &Azure, host: &ArmId, state: &str) {
    azure.change(|world| {
        if let Some(host) = world.hosts.get_mut(host) {
            state.clone_into(&mut host.provisioning_state);
        }
    });
}

impl Host {
    /// Applies a planned change; a system-assigned identity is created anew when switched on.
    pub(crate) fn apply(&mut self, change: &Change, now_ms: u64) -> Delta {
        "Succeeded".clone_into(&mut self.provisioning_state);
        if !change.system {
            self.system_assigned = None;
        } else if self.system_assigned.is_none() {
            self.system_assigned =
                Some(SystemAssigned { client_id: Guid::random(), principal_id: Guid::random() });
        }
        self.change_identities(&change.attach, &change.detach, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::OperationBook;
    use crate::guid::Guid;
    use crate::seed;

    #[test]
    fn a_host_has_one_writer_and_hosts_do_not_wait_for_each_other() {
        let book = Arc::new(OperationBook::default());
        let first = book.begin_write(&seed::scale_set_id()).unwrap();
        assert!(book.begin_write(&seed::scale_set_id()).is_none());
        assert!(book.begin_write(&seed::machine_id()).is_some());
        drop(first);
        assert!(book.begin_write(&seed::scale_set_id()).is_some());
    }

    #[test]
    fn a_write_from_before_a_reset_does_not_free_the_host_of_another() {
        let book = Arc::new(OperationBook::default());
        let old = book.begin_write(&seed::scale_set_id()).unwrap();
        book.clear();
        let new = book.begin_write(&seed::scale_set_id()).unwrap();
        drop(old);
        assert!(book.begin_write(&seed::scale_set_id()).is_none());
        drop(new);
        assert!(book.begin_write(&seed::scale_set_id()).is_some());
    }

    #[test]
    fn an_operation_is_in_progress_until_it_ends() {
        let book = OperationBook::default();
        let id = Guid::random();
        assert!(book.get(&id).is_none());
        book.start(&id);
        assert_eq!(book.get(&id).unwrap().body()["status"], "InProgress");
        book.end(&id, None);
        let body = book.get(&id).unwrap().body();
        assert_eq!(body["status"], "Succeeded");
        assert!(body["endTime"].is_string());
    }
}
