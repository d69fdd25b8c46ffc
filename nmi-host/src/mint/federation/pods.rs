//! The assertions of pods: the latest of each service account, in memory, until it expires.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use api::node_api::Assertion;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Shown;
use super::claims::{Claims, Unfit};
use crate::caller::ServiceAccount;
use crate::mint::unix;

/// What the node's pods have shown.
pub(crate) struct PodAssertions {
    audience: String,
    kept: Mutex<HashMap<ServiceAccount, Kept>>,
}

struct Kept {
    shown: Shown,
    until: Instant,
}

/// Service accounts on one node; it has at most a few hundred pods.
const CAPACITY: usize = 512;

/// What has less life left may have expired when Entra sees it.
const MARGIN: Duration = Duration::from_secs(30);

/// Longer lives than any kubelet gives are not believed.
const LONGEST: Duration = Duration::from_secs(48 * 3600);

// === impl PodAssertions ===

impl PodAssertions {
    /// For assertions with this audience.
    pub(super) fn new(audience: String) -> Self {
        Self { audience, kept: Mutex::default() }
    }

    /// Takes what a pod of `account` sent, in place of what was there.
    pub(crate) fn keep(
        &self,
        account: &ServiceAccount,
        assertion: &Assertion,
    ) -> Result<(), Unfit> {
        let unix = unix(SystemTime::now());
        let claims = Claims::read(assertion.secret(), &self.audience, unix)?;
        if claims.subject != *account {
            return Err(Unfit::OtherAccount);
        }
        let now = Instant::now();
        let life = Duration::from_secs(claims.expires_on - unix).min(LONGEST);
        let shown = Shown { assertion: assertion.clone(), claims };
        let mut kept = self.kept.lock();
        kept.insert(account.clone(), Kept { shown, until: now + life });
        if kept.len() > CAPACITY {
            kept.retain(|_, kept| kept.until > now);
        }
        if kept.len() > CAPACITY {
            let soonest = kept.iter().min_by_key(|(_, kept)| kept.until);
            let soonest = soonest.map(|(account, _)| account.clone());
            soonest.and_then(|account| kept.remove(&account));
        }
        Ok(())
    }

    /// What can be shown for `account`.
    pub(crate) fn of(&self, account: &ServiceAccount) -> Option<Shown> {
        let mut kept = self.kept.lock();
        let until = kept.get(account)?.until;
        if until > Instant::now() + MARGIN {
            return kept.get(account).map(|kept| kept.shown.clone());
        }
        kept.remove(account);
        None
    }

    /// Forgets what Entra refused, unless another has come since.
    pub(in crate::mint) fn forget(&self, account: &ServiceAccount, refused: &Assertion) {
        let mut kept = self.kept.lock();
        if kept.get(account).is_some_and(|kept| kept.shown.assertion == *refused) {
            kept.remove(account);
        }
    }
}

impl fmt::Debug for PodAssertions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodAssertions").field("kept", &self.kept.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{AUDIENCE, account, assertion, assertion_for};
    use super::*;

    fn assertions() -> PodAssertions {
        PodAssertions::new(AUDIENCE.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_is_kept_until_it_is_about_to_expire() {
        let assertions = assertions();
        assert!(assertions.of(&account("web")).is_none());
        assertions.keep(&account("web"), &assertion("web", 3000)).unwrap();
        let latest = assertion("web", 3600);
        assertions.keep(&account("web"), &latest).unwrap();
        assert_eq!(assertions.of(&account("web")).unwrap().assertion, latest);
        tokio::time::advance(Duration::from_secs(3560)).await;
        assert!(assertions.of(&account("web")).is_some());
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(assertions.of(&account("web")).is_none());
        assert_eq!(assertions.kept.lock().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_leaves_an_assertion_for_another_account() {
        let assertions = assertions();
        let web = assertion("web", 3600);
        assert_eq!(assertions.keep(&account("db"), &web), Err(Unfit::OtherAccount));
        let mut elsewhere = account("web");
        elsewhere.namespace = "other".to_owned();
        assert_eq!(assertions.keep(&elsewhere, &web), Err(Unfit::OtherAccount));
        let foreign = assertion_for("web", "api://other", 3600);
        let refused = assertions.keep(&account("web"), &foreign);
        assert_eq!(refused, Err(Unfit::OtherAudience(AUDIENCE.to_owned())));
        assert_eq!(assertions.keep(&account("web"), &assertion("web", 0)), Err(Unfit::Expired));
        for name in ["web", "db"] {
            assert!(assertions.of(&account(name)).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_entra_refused_is_forgotten_and_what_came_since_is_not() {
        let assertions = assertions();
        let (old, new) = (assertion("web", 3000), assertion("web", 3600));
        assertions.keep(&account("web"), &new).unwrap();
        assertions.forget(&account("web"), &old);
        assert!(assertions.of(&account("web")).is_some());
        assertions.forget(&account("web"), &new);
        assert!(assertions.of(&account("web")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_the_expired_go_first() {
        let assertions = assertions();
        for number in 0..CAPACITY as u64 {
            let name = format!("a{number}");
            assertions.keep(&account(&name), &assertion(&name, 1000 + number)).unwrap();
        }
        assertions.keep(&account("more"), &assertion("more", 3600)).unwrap();
        assert_eq!(assertions.kept.lock().len(), CAPACITY);
        assert!(assertions.of(&account("a0")).is_none(), "it had the least life left");
        assert!(assertions.of(&account("a1")).is_some());
        tokio::time::advance(Duration::from_secs(2000)).await;
        assertions.keep(&account("late"), &assertion("late", 3600)).unwrap();
        assert_eq!(assertions.kept.lock().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_boundless_life_is_not_believed() {
        let assertions = assertions();
        let forever = assertion("web", 1 << 50);
        assertions.keep(&account("web"), &forever).unwrap();
        tokio::time::advance(LONGEST).await;
        assert!(assertions.of(&account("web")).is_none());
    }

    #[tokio::test]
    async fn nothing_of_an_assertion_is_printed() {
        let assertions = assertions();
        let web = assertion("web", 3600);
        assertions.keep(&account("web"), &web).unwrap();
        let shown = assertions.of(&account("web")).unwrap();
        let printed = format!("{assertions:?} {shown:?}");
        assert!(!printed.contains(web.secret()), "{printed}");
        let signature = web.secret().rsplit('.').next().unwrap();
        assert!(!printed.contains(signature), "{printed}");
    }
}
