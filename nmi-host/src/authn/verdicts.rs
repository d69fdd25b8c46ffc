//! What earlier reviews said about tokens, by the tokens' hashes, for a bounded time and in bounded
//! memory. Pure: the time is a parameter.

use std::collections::HashMap;
use std::time::Duration;

use api::TokenHash;
use tokio::time::Instant;

use super::{ReviewError, Verdict};
use crate::caller::Caller;

/// Verdicts about tokens. The refused ones have a room of their own, so that a flood of them does
/// not push out the good ones.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    accepted: Recent<Accepted>,
    refused: Recent<Refused>,
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Recent enough to be the answer.
    Fresh(Verdict),
    /// To be asked again; good if nobody can be asked.
    Stale(Caller),
    /// Nothing.
    No,
}

#[derive(Debug)]
struct Accepted {
    caller: Caller,
    fresh_until: Instant,
    usable_until: Instant,
}

#[derive(Debug)]
struct Refused {
    error: ReviewError,
    until: Instant,
}

/// The most recently used entries.
#[derive(Debug)]
struct Recent<V> {
    entries: HashMap<TokenHash, (u64, V)>,
    uses: u64,
}

/// A pod's token is used by one sidecar, and replaced every 50 minutes; a node has at most a few
/// hundred pods.
const CAPACITY: usize = 1024;

/// How long a verdict in favour stands without being asked for again.
const FRESH: Duration = Duration::from_secs(300);

/// How long a verdict against stands.
const REFUSED: Duration = Duration::from_secs(10);

/// How long the API server is not asked again after it could not answer.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a token that was good counts beyond its end while the API server cannot be asked. The
/// kubelet cannot replace it then, and the pod is still the one that it was. An API server that
/// answers says no to it, so nothing is gained by stealing it.
const GRACE: Duration = Duration::from_secs(12 * 3600);

// === impl Verdicts ===

impl Verdicts {
    pub(super) fn look(&mut self, hash: &TokenHash, now: Instant) -> Known {
        if let Some(accepted) = self.accepted.get(hash)
            && now < accepted.usable_until
        {
            let caller = accepted.caller.clone();
            return if now < accepted.fresh_until {
                Known::Fresh(Ok(caller))
            } else {
                Known::Stale(caller)
            };
        }
        match self.refused.get(hash) {
            Some(refused) if now < refused.until => Known::Fresh(Err(refused.error)),
            _ => Known::No,
        }
    }

    /// Takes a verdict in; `life` is how long the token says that it lives.
    pub(super) fn settle(
        &mut self,
        hash: TokenHash,
        verdict: &Verdict,
        life: Duration,
        now: Instant,
    ) {
        match verdict {
            Ok(caller) => {
                self.refused.remove(&hash);
                let fresh_until = now + life.min(FRESH);
                // An `exp` far in the future must not panic.
                let usable_until = now.checked_add(life.saturating_add(GRACE));
                let usable_until = match usable_until {
                    // A token that does not say when it ends is not kept at all.
                    _ if life.is_zero() => now,
                    Some(end) => end,
                    None => now + GRACE,
                };
                let caller = caller.clone();
                self.accepted.put(hash, Accepted { caller, fresh_until, usable_until });
            }
            Err(ReviewError::Unavailable) => {
                if let Some(accepted) = self.accepted.get(&hash) {
                    accepted.fresh_until = accepted.usable_until.min(now + PAUSE);
                }
            }
            Err(error) => {
                self.accepted.remove(&hash);
                self.refused.put(hash, Refused { error: *error, until: now + REFUSED });
            }
        }
    }
}

// === impl Recent ===

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), uses: 0 }
    }
}

impl<V> Recent<V> {
    fn get(&mut self, hash: &TokenHash) -> Option<&mut V> {
        let (used, value) = self.entries.get_mut(hash)?;
        self.uses += 1;
        *used = self.uses;
        Some(value)
    }

    fn put(&mut self, hash: TokenHash, value: V) {
        self.uses += 1;
        self.entries.insert(hash, (self.uses, value));
        if self.entries.len() > CAPACITY {
            let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(d, _)| *d);
            if let Some(oldest) = oldest {
                self.entries.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, hash: &TokenHash) {
        self.entries.remove(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::testing::caller;

    const HOUR: Duration = Duration::from_secs(3600);

    fn after(verdict: &Verdict, life: Duration, passed: u64) -> Known {
        let (mut verdicts, now) = (Verdicts::default(), Instant::now());
        verdicts.settle(TokenHash::of("t"), verdict, life, now);
        verdicts.look(&TokenHash::of("t"), now + Duration::from_secs(passed))
    }

    #[test]
    fn a_good_token_is_fresh_then_stale_then_unknown() {
        let good = Ok(caller());
        assert_eq!(after(&good, HOUR, 299), Known::Fresh(good.clone()));
        assert_eq!(after(&good, HOUR, 300), Known::Stale(caller()));
        assert_eq!(after(&good, HOUR, 3600), Known::Stale(caller()));
        let grace = GRACE.as_secs();
        assert_eq!(after(&good, HOUR, 3600 + grace - 1), Known::Stale(caller()));
        assert_eq!(after(&good, HOUR, 3600 + grace), Known::No);
        let short = Duration::from_secs(60);
        assert_eq!(after(&good, short, 59), Known::Fresh(good.clone()));
        assert_eq!(after(&good, short, 60), Known::Stale(caller()), "its end is no answer");
        assert_eq!(after(&good, Duration::ZERO, 0), Known::No);
        assert_eq!(after(&good, Duration::MAX, 299), Known::Fresh(good));
    }

    #[test]
    fn a_refusal_is_remembered_for_ten_seconds_and_an_outage_not_at_all() {
        let refused = Err(ReviewError::WrongNode);
        assert_eq!(after(&refused, HOUR, 9), Known::Fresh(refused.clone()));
        assert_eq!(after(&refused, HOUR, 10), Known::No);
        assert_eq!(after(&Err(ReviewError::Unavailable), HOUR, 0), Known::No);
    }

    #[test]
    fn refusals_do_not_push_out_good_tokens_and_the_least_used_goes_first() {
        let (mut verdicts, now) = (Verdicts::default(), Instant::now());
        let hash = |kind: &str, number: usize| TokenHash::of(&format!("{kind}{number}"));
        verdicts.settle(hash("good", 0), &Ok(caller()), HOUR, now);
        for number in 0..2 * CAPACITY {
            verdicts.settle(hash("bad", number), &Err(ReviewError::Rejected), HOUR, now);
        }
        assert_eq!(verdicts.refused.entries.len(), CAPACITY);
        assert_eq!(verdicts.look(&hash("good", 0), now), Known::Fresh(Ok(caller())));

        for number in 1..=CAPACITY {
            verdicts.look(&hash("good", 0), now);
            verdicts.settle(hash("good", number), &Ok(caller()), HOUR, now);
        }
        assert_eq!(verdicts.accepted.entries.len(), CAPACITY);
        assert_eq!(verdicts.look(&hash("good", 0), now), Known::Fresh(Ok(caller())));
        assert_eq!(verdicts.look(&hash("good", 1), now), Known::No);
    }
}
