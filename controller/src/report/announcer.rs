//! When what goes wrong is worth an event: after a grace in which it may mend by itself, and once,
//! not whenever it is found again. Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use super::events::{Happening, Severity};
use super::notices::Notice;
use crate::clock::after;

/// The same thing in other words is said again after this.
const REWORD: Duration = Duration::from_secs(300);
/// What came and went within this is still known.
const MEMORY: Duration = Duration::from_secs(300);
/// When too much is to be said at once, the rest is said after this.
const PAUSE: Duration = Duration::from_secs(1);

/// Remembers what was said, and what is to be said when.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    memories: HashMap<About, Memory>,
    agenda: BTreeSet<(Timestamp, About)>,
    /// Nothing more can be said before.
    pause: Option<Timestamp>,
}

/// The uid of the subject, the reason, and what else it is about.
type About = (String, &'static str, String);

#[derive(Debug)]
struct Memory {
    since: Timestamp,
    /// What goes wrong; `None` once it is mended.
    now: Option<Notice>,
    said: Option<(Timestamp, String)>,
    /// When the agenda names it.
    alarm: Option<Timestamp>,
}

// === impl Announcer ===

impl Announcer {
    /// Something goes wrong, or still does in these words.
    pub(crate) fn tell(&mut self, notice: Notice, now: Timestamp) {
        let at = about(&notice);
        let new = Memory { since: now, now: None, said: None, alarm: None };
        let memory = self.memories.entry(at.clone()).or_insert(new);
        let when = match &memory.said {
            Some((_, said)) if *said == notice.gist => None,
            Some((time, _)) => Some(after(*time, REWORD)),
            None => Some(after(memory.since, notice.grace)),
        };
        memory.now = Some(notice);
        self.set_alarm(at, when);
    }

    /// It does not go wrong any more. If it was said, it is not said again at once.
    pub(crate) fn mended(&mut self, notice: &Notice, now: Timestamp) {
        let at = about(notice);
        let Some(memory) = self.memories.get_mut(&at) else { return };
        memory.now = None;
        let forget = memory.said.is_some().then(|| after(now, MEMORY));
        let end = forget.is_none();
        self.set_alarm(at.clone(), forget);
        if end {
            self.memories.remove(&at);
        }
    }

    /// What is to be said by now, as far as there is room for it. The rest stays to be said.
    pub(crate) fn due(&mut self, now: Timestamp, room: usize) -> Vec<Happening> {
        let mut due = Vec::new();
        while due.len() < room
            && let Some((when, at)) = self.agenda.pop_first()
        {
            if when > now {
                self.agenda.insert((when, at));
                break;
            }
            let Some(memory) = self.memories.get_mut(&at) else { continue };
            memory.alarm = None;
            match &memory.now {
                Some(notice) => {
                    memory.said = Some((now, notice.gist.clone()));
                    due.push(happening(notice.clone()));
                }
                None => drop(self.memories.remove(&at)),
            }
        }
        self.pause = (due.len() == room).then(|| after(now, PAUSE));
        due
    }

    /// When something may have to be said next.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        let (when, _) = self.agenda.first()?;
        Some(self.pause.map_or(*when, |pause| pause.max(*when)))
    }

    fn set_alarm(&mut self, at: About, when: Option<Timestamp>) {
        let Some(memory) = self.memories.get_mut(&at) else { return };
        let before = std::mem::replace(&mut memory.alarm, when);
        if before == when {
            return;
        }
        if let Some(before) = before {
            self.agenda.remove(&(before, at.clone()));
        }
        self.agenda.extend(when.map(|when| (when, at)));
    }
}

fn about(notice: &Notice) -> About {
    (notice.subject.uid.clone(), notice.reason, notice.about.clone())
}

fn happening(notice: Notice) -> Happening {
    Happening {
        severity: Severity::Warning,
        subject: notice.subject,
        reason: notice.reason,
        action: "Assigning",
        note: notice.message,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::host::{HostView, Trouble};
    use crate::snapshot::Snapshot;
    use crate::testing::{Engine, binding, host, id, identity, node, pod, snapshot};

    fn at(seconds: u64) -> Timestamp {
        after(Timestamp::UNIX_EPOCH, Duration::from_secs(seconds))
    }

    /// A cluster, what was decided about it, and who tells.
    #[derive(Default)]
    struct Fixture {
        world: Snapshot,
        engine: Engine,
        announcer: Announcer,
    }

    impl Fixture {
        fn said(&mut self, now: Timestamp) -> Vec<Happening> {
            let settled = self.engine.follow(&self.world);
            settled.mended.iter().for_each(|notice| self.announcer.mended(notice, now));
            settled.notices.into_iter().for_each(|notice| self.announcer.tell(notice, now));
            self.announcer.due(now, 100)
        }

        fn names(&mut self, now: Timestamp) -> Vec<String> {
            let said = self.said(now);
            let mut names: Vec<_> =
                said.iter().map(|one| format!("{} {}", one.subject.name, one.reason)).collect();
            names.sort();
            names
        }
    }

    fn one_pod() -> Snapshot {
        let mut world = snapshot();
        world.nodes = vec![node("n1", "vmss").into()];
        world.pods = vec![pod("apps", "web", "sel", "n1").into()];
        world.bindings = vec![binding("team", "b", "db", "sel").into()];
        world
    }

    #[test]
    fn a_pod_that_no_binding_selects_is_told_once_after_a_grace() {
        let mut fixture = Fixture { world: one_pod(), ..Fixture::default() };
        fixture.world.bindings.clear();
        assert!(fixture.names(at(0)).is_empty());
        assert_eq!(fixture.announcer.next(), Some(at(5)));
        assert_eq!(fixture.names(at(5)), ["web NoBinding"]);
        assert!(fixture.names(at(6)).is_empty());
        assert!(fixture.names(at(6000)).is_empty());
        assert_eq!(fixture.announcer.next(), None);
    }

    #[test]
    fn the_words_of_every_attempt_are_not_said_once_a_pod() {
        let mut fixture = Fixture { world: one_pod(), ..Fixture::default() };
        fixture.world.identities = vec![identity("team", "db").into()];
        let mut attempt = |words: &str, seconds| {
            let trouble = Trouble {
                code: "refused",
                message: words.to_owned(),
                remedy: None,
                next_attempt: None,
            };
            let view = HostView { refused: [(id("db"), trouble)].into(), ..HostView::default() };
            fixture.engine.see(&host("vmss"), Some(Arc::new(view)));
            let said = fixture.said(at(seconds));
            said.into_iter().map(|happening| happening.note).collect::<Vec<_>>()
        };
        assert_eq!(
            attempt("no (request 1)", 0),
            ["AzureIdentity team/db is not assigned: no (request 1)"]
        );
        assert!(attempt("no (request 2)", 1000).is_empty());
    }

    #[test]
    fn what_there_is_no_room_for_is_said_later() {
        let mut fixture = Fixture { world: one_pod(), ..Fixture::default() };
        fixture.world.bindings.clear();
        fixture.world.pods =
            (0..5).map(|number| pod("apps", &format!("p{number}"), "sel", "n1").into()).collect();
        assert!(fixture.said(at(0)).is_empty());
        let mut said = BTreeSet::new();
        for (second, room, count) in [(5, 2, 2), (6, 0, 2), (7, 2, 4), (8, 2, 5)] {
            let due = fixture.announcer.due(at(second), room);
            assert!(due.len() <= room);
            said.extend(due.into_iter().map(|one| one.subject.name));
            assert_eq!(said.len(), count, "at {second}");
            let next = (count < 5).then(|| at(second + 1));
            assert_eq!(fixture.announcer.next(), next, "not at once, which would be for ever");
        }
    }

    #[test]
    fn what_mends_within_the_grace_is_never_said() {
        let mut fixture = Fixture { world: one_pod(), ..Fixture::default() };
        assert!(fixture.names(at(0)).is_empty());
        fixture.world.identities = vec![identity("team", "db").into()];
        assert!(fixture.names(at(3)).is_empty());
        fixture.world.identities.clear();
        assert!(fixture.names(at(6)).is_empty(), "a grace of its own");
        assert_eq!(fixture.names(at(11)), ["b IdentityNotFound", "web IdentityNotAssigned"]);
    }

    #[test]
    fn what_comes_and_goes_is_said_once_until_it_is_forgotten() {
        let mut fixture = Fixture { world: one_pod(), ..Fixture::default() };
        assert!(fixture.names(at(0)).is_empty());
        assert_eq!(fixture.names(at(5)).len(), 2);
        fixture.world.identities = vec![identity("team", "db").into()];
        assert!(fixture.names(at(10)).is_empty());
        fixture.world.identities.clear();
        assert!(fixture.names(at(20)).is_empty(), "said a moment ago");
        fixture.world.identities = vec![identity("team", "db").into()];
        assert!(fixture.names(at(30)).is_empty());
        assert_eq!(fixture.announcer.next(), Some(at(330)));
        assert!(fixture.names(at(330)).is_empty());
        assert!(fixture.announcer.memories.is_empty(), "forgotten");
        fixture.world.identities.clear();
        assert!(fixture.names(at(400)).is_empty());
        assert_eq!(fixture.names(at(405)).len(), 2);
    }
}
