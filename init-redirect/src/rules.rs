//! The rules that make a pod's metadata calls arrive at its sidecar and nowhere else.
//!
//! Pure: text in the words of `iptables -S`, which is also what it is compared with afterwards.
//! No uid is exempt, because the sidecar itself never calls the metadata service: an exemption is
//! a way around for every process that can take that uid.

use std::net::{Ipv4Addr, SocketAddrV4};

use netfilter::{Chain, Jump, Table};

/// The chain with the redirect.
const REDIRECT: &str = "POD-IDENTITY-REDIRECT";

/// The chain with the rejections.
const DENY: &str = "POD-IDENTITY-DENY";

/// Azure's wireserver: its agents' channel, and the DNS server of every virtual network.
const WIRESERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// The wireserver's ports that hand out provisioning secrets; DNS on 53 stays open.
const WIRESERVER_PORTS: [u16; 2] = [80, 32526];

/// What is redirected where, and what is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirect {
    /// Where applications expect the metadata service.
    pub(crate) metadata: SocketAddrV4,
    /// The sidecar's port on 127.0.0.1.
    pub(crate) to_port: u16,
    /// What happens to the wireserver.
    pub(crate) wireserver: Wireserver,
}

/// Whether the pod may talk to the secrets' side of the wireserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wireserver {
    /// Not; a pod has no business there.
    Blocked,
    /// Left as it is.
    Open,
}

// === impl Redirect ===

impl Redirect {
    /// Our chains, each with the jump that leads to it.
    ///
    /// The rejections come first: until the redirect works too, nothing may get through.
    pub(crate) fn chains(&self) -> [(Chain, Jump); 2] {
        [(self.deny(), jump(Table::Filter, DENY)), (self.redirect(), jump(Table::Nat, REDIRECT))]
    }

    /// Addresses that must refuse a connection once the rules are set.
    pub(crate) fn refused(&self) -> Vec<SocketAddrV4> {
        let port = if self.metadata.port() == 8080 { 8081 } else { 8080 };
        let metadata = SocketAddrV4::new(*self.metadata.ip(), port);
        let wireserver = self.wireserver_ports().map(|port| SocketAddrV4::new(WIRESERVER, port));
        [metadata].into_iter().chain(wireserver).collect()
    }

    /// An ACCEPT here lets nothing through: it ends the nat table with the address unchanged, so
    /// that no service mesh behind us takes the connection and the filter table rejects it.
    fn redirect(&self) -> Chain {
        let (metadata, port) = (self.metadata.ip(), self.metadata.port());
        let why = "-m comment --comment \"pod-identity: to be rejected\"";
        let mut rules = vec![
            format!(
                "-d {metadata}/32 -p tcp -m tcp --dport {port} \
                 -m comment --comment \"pod-identity: to the sidecar in this pod\" \
                 -j REDIRECT --to-ports {}",
                self.to_port,
            ),
            format!("-d {metadata}/32 {why} -j ACCEPT"),
        ];
        rules.extend(self.wireserver_ports().map(|port| {
            format!("-d {WIRESERVER}/32 -p tcp -m tcp --dport {port} {why} -j ACCEPT")
        }));
        Chain { table: Table::Nat, name: REDIRECT, rules }
    }

    /// Redirected packets do not come by here with the metadata address any more: nat is before
    /// filter, and by then they are addressed to 127.0.0.1.
    fn deny(&self) -> Chain {
        let metadata = self.metadata.ip();
        let why = "-m comment --comment \"pod-identity: no other way to the metadata service\"";
        let mut rules = vec![
            format!("-d {metadata}/32 -p tcp {why} -j REJECT --reject-with tcp-reset"),
            format!("-d {metadata}/32 {why} -j REJECT --reject-with icmp-port-unreachable"),
        ];
        rules.extend(self.wireserver_ports().map(|port| {
            format!(
                "-d {WIRESERVER}/32 -p tcp -m tcp --dport {port} \
                 -m comment --comment \"pod-identity: no wireserver, except for DNS\" \
                 -j REJECT --reject-with tcp-reset"
            )
        }));
        Chain { table: Table::Filter, name: DENY, rules }
    }

    fn wireserver_ports(&self) -> impl Iterator<Item = u16> {
        let blocked = self.wireserver == Wireserver::Blocked;
        WIRESERVER_PORTS.into_iter().filter(move |_| blocked)
    }
}

/// For all packets, because two destinations would need two rules at position 1.
fn jump(table: Table, to: &'static str) -> Jump {
    Jump {
        table,
        from: "OUTPUT",
        matching: String::new(),
        comment: "pod-identity: metadata and wireserver",
        to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirect(wireserver: Wireserver) -> Redirect {
        Redirect { metadata: "169.254.169.254:80".parse().unwrap(), to_port: 2579, wireserver }
    }

    /// The whole of it in the order in which it is written, as `iptables -S` prints it.
    fn listing(redirect: &Redirect) -> String {
        let lines = redirect.chains().into_iter().flat_map(|(chain, jump)| {
            let [jump_text, _] = jump.spellings();
            let rules = chain.rules.into_iter();
            let rules =
                rules.map(move |rule| format!("{}: -A {} {rule}\n", chain.table, chain.name));
            rules.chain([format!("{}: -A {} {jump_text}\n", jump.table, jump.from)])
        });
        lines.collect()
    }

    #[test]
    fn the_rules_are_the_golden_ones() {
        assert_eq!(
            listing(&redirect(Wireserver::Blocked)),
            include_str!("../tests/golden/rules.txt")
        );
    }

    #[test]
    fn an_open_wireserver_is_left_out_and_the_rest_stays() {
        let golden = include_str!("../tests/golden/rules.txt").lines();
        let expected: Vec<_> = golden.filter(|line| !line.contains("168.63.129.16")).collect();
        assert_eq!(listing(&redirect(Wireserver::Open)).lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn no_rule_makes_an_exception() {
        let chains = redirect(Wireserver::Blocked).chains();
        for rule in chains.iter().flat_map(|(chain, _)| &chain.rules) {
            for word in ["owner", "RETURN", " ! ", "-s "] {
                assert!(!rule.contains(word), "{word} in {rule}");
            }
        }
        let [(deny, _), (redirect, _)] = chains;
        assert!(deny.rules.iter().all(|rule| rule.contains("-j REJECT")), "{deny:?}");
        assert!(redirect.rules[0].contains("-j REDIRECT"), "before any ACCEPT: {redirect:?}");
    }

    #[test]
    fn what_must_be_refused_is_never_what_is_redirected() {
        for port in [80, 8080] {
            let metadata = SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), port);
            let redirect = Redirect { metadata, ..redirect(Wireserver::Blocked) };
            assert!(!redirect.refused().contains(&metadata));
            assert_eq!(redirect.refused().len(), 3);
        }
    }
}
