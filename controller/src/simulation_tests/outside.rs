//! What is around the controller of the simulation: ARM, and the API server with the records.

use std::time::Duration;

use api::{Host, IdentityId};

use super::world::{Stored, World};
use super::{IDENTITIES, LINGER, attachment, says};
use crate::clock::{after, since};
use crate::compute::{ArmError, IdentityDelta, Patched, ThrottleScope};
use crate::host::{Entries, HostModel, Record, RecordError, Status, Step};
use crate::testing::{attached, id};

impl World {
    pub(super) fn execute(&mut self, host: &Host, model: &mut HostModel, step: Step) {
        match step {
            Step::Load => match self.record_fault.take() {
                Some(_) => model.on_record_error(&unavailable(), self.now),
                None => model.on_loaded(self.record(host), self.now),
            },
            Step::Save(entries, version) => {
                let result = self.save(host, entries, version.as_deref());
                match result {
                    Ok(record) => model.on_saved(record),
                    Err(error) => model.on_record_error(&error, self.now),
                }
            }
            Step::Get => {
                if let Some(error) = self.throttled(host) {
                    return model.on_get_error(&error, self.now);
                }
                if self.arm_fault.take().is_some() {
                    return model.on_get_error(&timed_out(), self.now);
                }
                match self.hosts.get(host) {
                    Some(machine) => {
                        model.on_identities(attached(machine.attached.iter().copied()), self.now);
                    }
                    None => model.on_get_error(&gone(host), self.now),
                }
            }
            Step::Patch(_, delta) => {
                if let (true, Some((status, version))) =
                    (self.slow_arm, model.say_meanwhile(self.now))
                {
                    self.tell(host, model, status, &version);
                }
                let throttled = self.throttled(host);
                match throttled.map_or_else(|| self.patch(host, &delta), Err) {
                    Ok(patched) => model.on_patched(patched, &delta, self.now),
                    Err(error) => model.on_patch_error(&error, &delta, self.now),
                }
            }
            Step::Tell(status, version) => self.tell(host, model, (*status).clone(), &version),
            Step::Wait(_) | Step::Done => unreachable!("nothing to execute"),
        }
    }

    /// Nobody calls before ARM wants to be called.
    fn throttled(&mut self, host: &Host) -> Option<ArmError> {
        let now = self.now;
        let machine = self.hosts.get_mut(host)?;
        assert!(machine.closed_until.is_none_or(|until| until <= now), "{host} is asked too early");
        let wait = machine.throttle.take()?;
        machine.closed_until = Some(after(now, wait));
        Some(ArmError::Throttled { scope: ThrottleScope::Host, retry_after: Some(wait) })
    }

    pub(super) fn record(&self, host: &Host) -> Record {
        match self.records.get(host) {
            Some(Stored { entries, version, status }) => Record {
                entries: entries.clone(),
                version: Some(version.to_string()),
                status: status.clone(),
            },
            None => Record::default(),
        }
    }

    fn tell(&mut self, host: &Host, model: &mut HostModel, status: Status, version: &str) {
        let fault = self.record_fault.take();
        self.counter += 1;
        let stored = self.records.get_mut(host);
        match stored.filter(|stored| fault != Some(false) && stored.version.to_string() == version)
        {
            Some(stored) => {
                assert!(!says(stored.status.as_ref(), &status), "it says so already: {status:?}");
                stored.version = self.counter;
                stored.status = Some(status.clone());
            }
            None => return model.on_tell_error(&unavailable(), self.now),
        }
        match fault {
            Some(_) => model.on_tell_error(&unavailable(), self.now),
            None => model.on_told(status, self.counter.to_string()),
        }
    }

    fn save(
        &mut self,
        host: &Host,
        entries: Entries,
        version: Option<&str>,
    ) -> Result<Record, RecordError> {
        let fault = self.record_fault.take();
        if fault == Some(false) {
            return Err(unavailable());
        }
        if self.record(host).version.as_deref() != version {
            return Err(RecordError::Conflict);
        }
        self.counter += 1;
        if entries.is_empty() {
            self.records.remove(host);
        } else {
            let status = self.record(host).status;
            let stored = Stored { entries, version: self.counter, status };
            self.records.insert(host.clone(), stored);
        }
        self.cluster.attachments = self.records.keys().map(attachment).collect();
        if fault == Some(true) { Err(unavailable()) } else { Ok(self.record(host)) }
    }

    fn patch(&mut self, host: &Host, delta: &IdentityDelta) -> Result<Patched, ArmError> {
        let recorded = self.record(host).entries;
        let needed = self.needs().remove(host).unwrap_or_default();
        for id in &delta.attach {
            assert!(recorded.contains_key(id), "{id} is attached before it is recorded");
        }
        for id in &delta.detach {
            assert!(!needed.contains(id), "{id} is detached but needed");
            let unused = recorded.get(id).copied().flatten();
            let lingered = unused.map(|at| since(self.now, at));
            assert!(lingered >= Some(LINGER), "{id} is detached after {lingered:?}");
        }
        let fault = self.arm_fault.take();
        let refused: Vec<IdentityId> =
            delta.attach.intersection(&self.forbidden).cloned().collect();
        let Some(machine) = self.hosts.get_mut(host) else { return Err(gone(host)) };
        if fault.is_some() {
            // Nobody knows any more which of it was there before.
            machine.foreign.retain(|name| !delta.attach.contains(&id(name)));
        }
        if fault == Some(false) {
            return Err(timed_out());
        }
        if !refused.is_empty() {
            return Err(ArmError::IdentityRefused {
                identities: refused,
                code: "LinkedAuthorizationFailed".to_owned(),
                message: "forbidden".to_owned(),
                remedy: None,
            });
        }
        let there = machine.attached.iter().map(|name| id(name));
        let found = there.filter(|id| delta.attach.contains(id)).collect();
        for name in IDENTITIES {
            if delta.detach.contains(&id(name)) {
                assert!(!machine.foreign.contains(name), "{name} belongs to others");
                machine.attached.remove(name);
            }
            if delta.attach.contains(&id(name)) {
                machine.attached.insert(name);
            }
        }
        let identities = attached(machine.attached.iter().copied());
        if fault == Some(true) { Err(timed_out()) } else { Ok(Patched { identities, found }) }
    }
}

fn unavailable() -> RecordError {
    RecordError::Unavailable("test".to_owned())
}

fn timed_out() -> ArmError {
    ArmError::TimedOut { after: Duration::from_secs(1) }
}

fn gone(host: &Host) -> ArmError {
    ArmError::HostNotFound { host: host.clone() }
}
