//! Who got a token, and by which name of the identity.

use std::collections::{BTreeSet, HashMap};

use api::IdentitySelector;
use parking_lot::Mutex;

use crate::pods::{PodRef, PodView};
use crate::watched::Table;

/// What pods have been served.
#[derive(Debug, Default)]
pub(super) struct Served(Mutex<HashMap<PodRef, Vec<Option<IdentitySelector>>>>);

/// Pods that are remembered, before those that ended are forgotten. Far more than run on a node.
const MOST_PODS: usize = 1024;

/// Names by which one pod calls its identities.
const MOST_NAMES: usize = 16;

// === impl Served ===

impl Served {
    pub(super) fn has_had(&self, pod: &PodRef, selector: Option<&IdentitySelector>) -> bool {
        let served = self.0.lock();
        served.get(pod).is_some_and(|names| names.iter().any(|name| name.as_ref() == selector))
    }

    pub(super) fn remember(
        &self,
        pod: &PodRef,
        selector: Option<&IdentitySelector>,
        pods: &Table<PodView>,
    ) {
        let mut served = self.0.lock();
        if let Some(names) = served.get_mut(pod) {
            let known = names.iter().any(|name| name.as_ref() == selector);
            if !known && names.len() < MOST_NAMES {
                names.push(selector.cloned());
            }
            return;
        }
        if served.len() >= MOST_PODS {
            let pods = pods.now();
            let alive: BTreeSet<&str> = pods.objects.values().map(|pod| pod.uid.as_str()).collect();
            served.retain(|pod, _| alive.contains(pod.uid.as_str()));
        }
        // A full map forgets nobody who matters: at worst a removal is told a few seconds later.
        if served.len() < MOST_PODS {
            served.insert(pod.clone(), vec![selector.cloned()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assigned::testing::pod;
    use crate::testing::CLIENT;
    use crate::watched::{ObjectKey, TableWriter};

    #[test]
    fn a_pod_is_remembered_by_the_names_that_it_used() {
        let (served, (_, pods)) = (Served::default(), TableWriter::new());
        let name = IdentitySelector::ClientId(CLIENT.parse().unwrap());
        served.remember(&pod(), Some(&name), &pods);
        assert!(served.has_had(&pod(), Some(&name)));
        assert!(!served.has_had(&pod(), None));
        let other = PodRef { uid: "uid-2".to_owned(), ..pod() };
        assert!(!served.has_had(&other, Some(&name)));
    }

    #[test]
    fn those_who_were_served_are_forgotten_with_their_pods() {
        let (served, (mut writer, pods)) = (Served::default(), TableWriter::new());
        let live = PodView { uid: pod().uid, live: true, ..PodView::default() };
        writer.set([(ObjectKey::new("team", "web-0"), live)]);
        served.remember(&pod(), None, &pods);
        for number in 0..MOST_PODS {
            let ended = PodRef { uid: format!("gone-{number}"), ..pod() };
            served.remember(&ended, None, &pods);
        }
        assert!(served.0.lock().len() <= 2, "{}", served.0.lock().len());
        assert!(served.has_had(&pod(), None));
    }
}
