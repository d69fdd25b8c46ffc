//! When certificates are made anew: a pure step from what is stored to what should be.

use std::collections::BTreeSet;

use super::TrustConfig;
use super::authority::{Facts, IssueError, Pair, issue, new_authority};

const DAY: i64 = 24 * 3600;
const AUTHORITY_LIFETIME: i64 = 10 * 365 * DAY;
/// The successor is made when the authority has this long to live.
const AUTHORITY_RENEWAL: i64 = 365 * DAY;
/// How long a successor is published before anything is signed with it: kubelets need a minute or
/// two to bring a changed ConfigMap into pods; a day covers API servers that were down.
const PUBLISH_FIRST: i64 = DAY;
const LEAF_LIFETIME: i64 = 90 * DAY;
const LEAF_RENEWAL: i64 = 30 * DAY;

/// The names that the two servers are known by.
#[derive(Clone, Debug)]
pub(super) struct Names {
    webhook: BTreeSet<String>,
    nmi_host: BTreeSet<String>,
}

/// All certificates and keys, as the Secrets hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trust {
    /// What signs now.
    pub(super) authority: Pair,
    /// What will sign next, and since when (Unix seconds) it is published.
    pub(super) next: Option<(Pair, i64)>,
    /// Certificate of what signed before.
    pub(super) previous: Option<String>,
    /// The webhook's server certificate.
    pub(super) webhook: Pair,
    /// nmi-host's server certificate.
    pub(super) nmi_host: Pair,
}

// === impl Names ===

impl Names {
    pub(super) fn new(config: &TrustConfig) -> Self {
        let TrustConfig { namespace, fullname } = config;
        let service = format!("{fullname}-webhook.{namespace}.svc");
        Self {
            webhook: BTreeSet::from([format!("{service}.cluster.local"), service]),
            nmi_host: BTreeSet::from([format!("nmi-host.{namespace}.svc")]),
        }
    }
}

// === impl Trust ===

impl Trust {
    /// Makes what is missing, broken or about to expire.
    pub(super) fn advance(mut self, names: &Names, now: i64) -> Result<Self, IssueError> {
        self.advance_authority(now)?;
        self.previous = self
            .previous
            .filter(|cert| Facts::read(cert).is_some_and(|facts| facts.not_after > now));
        let signer = self.authority.facts().map(|facts| facts.subject);
        for (leaf, wanted) in
            [(&mut self.webhook, &names.webhook), (&mut self.nmi_host, &names.nmi_host)]
        {
            let good = leaf.facts().is_some_and(|facts| {
                facts.not_after - now > LEAF_RENEWAL
                    && facts.dns_names == *wanted
                    && Some(facts.issuer) == signer
            });
            if !good {
                *leaf = issue(&self.authority, wanted, now, LEAF_LIFETIME)?;
            }
        }
        Ok(self)
    }

    /// The certificates that clients shall trust: those of all authorities that sign, will sign
    /// or did sign.
    pub(super) fn bundle(&self) -> String {
        let next = self.next.as_ref().map(|(pair, _)| pair.cert.as_str());
        let all = [Some(self.authority.cert.as_str()), next, self.previous.as_deref()];
        all.into_iter().flatten().map(|pem| format!("{}\n", pem.trim_end())).collect()
    }

    fn advance_authority(&mut self, now: i64) -> Result<(), IssueError> {
        let usable = |pair: &Pair| pair.facts().filter(|facts| facts.not_after > now);
        self.next = self.next.take().filter(|(pair, _)| usable(pair).is_some());
        let Some(facts) = usable(&self.authority) else {
            // Nothing that it signed is trusted any more: no reason to wait.
            self.authority = match self.next.take() {
                Some((pair, _)) => pair,
                None => new_authority(now, AUTHORITY_LIFETIME)?,
            };
            return Ok(());
        };
        if facts.not_after - now > AUTHORITY_RENEWAL {
            return Ok(());
        }
        match &self.next {
            None => self.next = Some((new_authority(now, AUTHORITY_LIFETIME)?, now)),
            Some((pair, since)) if now - since >= PUBLISH_FIRST => {
                self.previous = Some(std::mem::replace(&mut self.authority, pair.clone()).cert);
                self.next = None;
            }
            Some(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn names() -> Names {
        Names::new(&TrustConfig { namespace: "ns".to_owned(), fullname: "pis".to_owned() })
    }

    fn advance(trust: Trust, now: i64) -> Trust {
        trust.advance(&names(), now).unwrap()
    }

    fn issuer(pair: &Pair) -> String {
        pair.facts().unwrap().issuer
    }

    #[test]
    fn an_empty_secret_is_filled_and_then_left_alone() {
        let trust = advance(Trust::default(), NOW);
        assert_eq!(issuer(&trust.webhook), trust.authority.facts().unwrap().subject);
        assert_eq!(issuer(&trust.nmi_host), trust.authority.facts().unwrap().subject);
        assert!(trust.webhook.facts().unwrap().dns_names.contains("pis-webhook.ns.svc"));
        assert!(trust.nmi_host.facts().unwrap().dns_names.contains("nmi-host.ns.svc"));
        assert_eq!(advance(trust.clone(), NOW + DAY), trust);
    }

    #[test]
    fn leaves_are_renewed_well_before_they_expire() {
        let old = advance(Trust::default(), NOW);
        let kept = advance(old.clone(), NOW + LEAF_LIFETIME - LEAF_RENEWAL - 1);
        assert_eq!(kept, old);
        let renewed = advance(old.clone(), NOW + LEAF_LIFETIME - LEAF_RENEWAL);
        assert_eq!(renewed.authority, old.authority);
        assert_ne!(renewed.webhook, old.webhook);
        assert_ne!(renewed.nmi_host, old.nmi_host);
    }

    #[test]
    fn a_new_authority_is_published_for_a_day_before_it_signs() {
        let old = advance(Trust::default(), NOW);
        let late = NOW + AUTHORITY_LIFETIME - AUTHORITY_RENEWAL;
        let published = advance(old.clone(), late);
        let next = published.next.clone().unwrap().0;
        assert_eq!(published.authority, old.authority);
        assert!(published.bundle().contains(next.cert.trim_end()));
        assert_eq!(issuer(&published.webhook), old.authority.facts().unwrap().subject);

        assert_eq!(advance(published.clone(), late + DAY - 1).authority, old.authority);
        let promoted = advance(published, late + DAY);
        assert_eq!(promoted.authority, next);
        assert_eq!(promoted.next, None);
        assert_eq!(issuer(&promoted.webhook), next.facts().unwrap().subject);
        assert!(promoted.bundle().contains(old.authority.cert.trim_end()), "still trusted");

        let forgotten = advance(promoted, NOW + AUTHORITY_LIFETIME);
        assert_eq!(forgotten.previous, None);
    }

    #[test]
    fn what_is_broken_is_made_anew() {
        let old = advance(Trust::default(), NOW);
        let mut broken = old.clone();
        broken.webhook.key = old.nmi_host.key.clone();
        let mended = advance(broken, NOW);
        assert_ne!(mended.webhook, old.webhook);
        assert_eq!(mended.nmi_host, old.nmi_host);

        let mut broken = old.clone();
        broken.authority.key = String::new();
        let mended = advance(broken, NOW);
        assert_ne!(mended.authority, old.authority);
        assert_eq!(issuer(&mended.nmi_host), mended.authority.facts().unwrap().subject);
    }
}
