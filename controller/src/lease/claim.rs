//! Who holds the lease and until when. Pure: no clock of another machine is trusted, only how long
//! a lease has not changed.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::sync::watch;
use tokio::time::Instant;

/// The right to write, until it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Counted from before the request that renewed it was sent: never later than what any other
    /// replica counts.
    pub(super) expiry: Instant,
}

/// Whether this replica may write now. Clones see the same claim.
#[derive(Clone, Debug)]
pub(crate) struct Leadership(watch::Receiver<Option<Claim>>);

/// A lease as it was seen, and since when it has not changed.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    lease: Lease,
    since: Instant,
}

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is free, expired or already ours.
    Claim,
    /// Somebody holds it until then, unless they renew it.
    Wait(Instant),
}

// === impl Leadership ===

impl Leadership {
    pub(super) fn new(claim: watch::Receiver<Option<Claim>>) -> Self {
        Self(claim)
    }

    /// How long the claim still holds; `None` if this replica may not write.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        let expiry = self.0.borrow().as_ref()?.expiry;
        expiry.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Does `work` only while the claim holds; `None` if it ended first. The clock is looked at
    /// before every step: a process that was paused takes none of them when it wakes, whatever
    /// its sockets and timers brought meanwhile.
    pub(crate) async fn fenced<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        poll_fn(|context| match self.remaining() {
            Some(_) => work.as_mut().poll(context).map(Some),
            None => Poll::Ready(None),
        })
        .await
    }
}

#[cfg(test)]
impl Leadership {
    /// A claim that nobody contests.
    pub(crate) fn for_ever() -> Self {
        Self::until_revoked().1
    }

    /// A claim that ends when the sender says so.
    pub(crate) fn until_revoked() -> (watch::Sender<Option<Claim>>, Self) {
        let expiry = Instant::now() + Duration::from_secs(1_000_000_000);
        let sender = watch::Sender::new(Some(Claim { expiry }));
        let receiver = sender.subscribe();
        (sender, Self(receiver))
    }
}

// === impl Observed ===

impl Observed {
    /// Takes what the API server says now. A lease that reads the same as before keeps its age.
    pub(super) fn update(before: Option<Self>, lease: Lease, now: Instant) -> Self {
        match before {
            Some(before) if before.lease.spec == lease.spec => Self { lease, ..before },
            _ => Self { lease, since: now },
        }
    }

    /// The lease.
    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Who holds it; empty if nobody does.
    pub(super) fn holder(&self) -> &str {
        let spec = self.lease.spec.as_ref();
        spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
    }

    /// Whether `me` may claim it.
    pub(super) fn decide(&self, me: &str, now: Instant) -> Decision {
        if self.holder().is_empty() || self.holder() == me {
            return Decision::Claim;
        }
        let spec = self.lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        let expiry = self.since + Duration::from_secs(seconds.max(1).unsigned_abs().into());
        if now >= expiry { Decision::Claim } else { Decision::Wait(expiry) }
    }
}

/// The lease as `me` claims or renews it.
pub(super) fn claimed(mut lease: Lease, me: &str, duration: Duration, now: MicroTime) -> Lease {
    let before = lease.spec.take().unwrap_or_default();
    let renewed = before.holder_identity.as_deref() == Some(me);
    let transitions = before.lease_transitions.unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: before.acquire_time.filter(|_| renewed).or_else(|| Some(now.clone())),
        renew_time: Some(now),
        lease_transitions: Some(if renewed { transitions } else { transitions + 1 }),
        ..before
    });
    lease
}

/// The lease as it is left behind on shutdown: the next leader need not wait.
pub(super) fn vacated(mut lease: Lease, now: MicroTime) -> Lease {
    let before = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: None,
        lease_duration_seconds: Some(1),
        renew_time: Some(now),
        ..before
    });
    lease
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn lease(holder: &str, renewals: i64) -> Lease {
        let time = MicroTime(Timestamp::from_second(1_000_000 + renewals).unwrap());
        claimed(Lease::default(), holder, Duration::from_secs(15), time)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_expires_by_our_clock_after_it_stopped_changing() {
        let seconds = Duration::from_secs;
        let start = Instant::now();
        let seen = Observed::update(None, lease("other", 0), start);
        assert_eq!(seen.decide("me", start + seconds(14)), Decision::Wait(start + seconds(15)));
        let renewed = Observed::update(Some(seen.clone()), lease("other", 1), start + seconds(10));
        assert_eq!(
            renewed.decide("me", start + seconds(16)),
            Decision::Wait(start + seconds(25)),
            "a renewal starts it anew"
        );
        let same = Observed::update(Some(seen), lease("other", 0), start + seconds(10));
        assert_eq!(same.decide("me", start + seconds(15)), Decision::Claim);
    }

    #[tokio::test(start_paused = true)]
    async fn a_free_lease_and_our_own_are_claimed_at_once() {
        let now = Instant::now();
        let time = MicroTime(Timestamp::from_second(2_000_000).unwrap());
        for lease in [Lease::default(), lease("me", 0), vacated(lease("other", 0), time)] {
            assert_eq!(Observed::update(None, lease, now).decide("me", now), Decision::Claim);
        }
    }

    #[test]
    fn only_a_new_holder_counts_as_a_transition() {
        let time = |s| MicroTime(Timestamp::from_second(s).unwrap());
        let first = claimed(Lease::default(), "a", Duration::from_secs(15), time(1));
        let renewed = claimed(first.clone(), "a", Duration::from_secs(15), time(2));
        let taken = claimed(renewed.clone(), "b", Duration::from_secs(15), time(3));
        let spec = |lease: &Lease| lease.spec.clone().unwrap();
        assert_eq!(spec(&renewed).lease_transitions, spec(&first).lease_transitions);
        assert_eq!(spec(&renewed).acquire_time, Some(time(1)));
        assert_eq!(spec(&renewed).renew_time, Some(time(2)));
        assert_eq!(spec(&taken).lease_transitions, Some(2));
        assert_eq!(spec(&taken).acquire_time, Some(time(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_ends_at_expiry_without_anybody_saying_so() {
        let expiry = Instant::now() + Duration::from_secs(15);
        let (sender, receiver) = watch::channel(Some(Claim { expiry }));
        let leadership = Leadership::new(receiver);
        assert_eq!(leadership.remaining(), Some(Duration::from_secs(15)));
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(leadership.remaining(), None);
        sender.send_replace(Some(Claim { expiry: expiry + Duration::from_secs(15) }));
        assert!(leadership.remaining().is_some());
        sender.send_replace(None);
        assert_eq!(leadership.remaining(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_became_possible_while_a_leader_slept_is_not_done() {
        let expiry = Instant::now() + Duration::from_secs(15);
        let (_sender, receiver) = watch::channel(Some(Claim { expiry }));
        let leadership = Leadership::new(receiver);
        assert_eq!(leadership.fenced(async { 7 }).await, Some(7));
        let (answer, answered) = tokio::sync::oneshot::channel();
        let sent = Arc::new(AtomicBool::new(false));
        let (sends, fence) = (sent.clone(), leadership.clone());
        let work = tokio::spawn(async move {
            let then = async {
                answered.await.unwrap();
                sends.store(true, Ordering::SeqCst);
            };
            fence.fenced(then).await
        });
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(15)).await;
        answer.send(()).unwrap();
        assert_eq!(work.await.unwrap(), None);
        assert!(!sent.load(Ordering::SeqCst));
        assert_eq!(leadership.fenced(async { 7 }).await, None, "and nothing is begun");
    }
}
