//! The node guard with the real iptables, in network namespaces that only the test sees.
//!
//! The test's own namespace is the node's. `pod` and `excepted` are two pods on it, and `azure` has
//! the metadata address and counts who gets there. The module is compiled into this test, because
//! nothing but the guard itself is needed here.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../src/guard/mod.rs"]
mod guard;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use netfilter::testing::{PATIENCE, dial, is_refused, isolate, run, within};
use netfilter::{Backend, BackendChoice, Error, with_both_backends};
use parking_lot::Mutex;

use crate::guard::{Applied, Guard, GuardConfig, GuardError};

with_both_backends! {
    netfilter::Backend::Nft, netfilter::Backend::Legacy;
    only_an_excepted_pod_gets_through
    a_second_process_finds_nothing_to_do
    an_exception_that_ends_cuts_connections_that_are_open
    nothing_gets_through_while_the_rules_change
    a_rule_that_got_in_front_is_overtaken
    a_mangled_chain_is_noticed_and_repaired
    remove_leaves_nothing
}

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const POD: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);
const EXCEPTED: Ipv4Addr = Ipv4Addr::new(10, 77, 3, 2);
/// What else is outside, and nobody's business.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 2);

// === the rules ===

fn only_an_excepted_pod_gets_through(backend: Backend) {
    let node = Node::up();
    let applied = guard(backend).apply(&[EXCEPTED].into()).unwrap();
    assert_eq!(applied, Applied { backend, edits: 3, repositioned: true });

    within("pod", || {
        is_refused(METADATA, 80);
        is_refused(METADATA, 8080);
        let datagram = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        datagram.connect((METADATA, 53)).unwrap();
        datagram.set_read_timeout(Some(PATIENCE)).unwrap();
        let refused = datagram.send(b"?").and_then(|_| datagram.recv(&mut [0])).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
        assert_eq!(dial(ELSEWHERE, 80).unwrap(), "hello", "other addresses are as before");
    });
    within("excepted", || assert_eq!(dial(METADATA, 80).unwrap(), "hello"));
    assert_eq!(dial(METADATA, 80).unwrap(), "hello", "the node itself, so we, may call");
    assert_eq!(node.visits_from(POD), 0);
    assert_eq!(node.visits_from(EXCEPTED), 1);
}

fn a_second_process_finds_nothing_to_do(backend: Backend) {
    let _node = Node::up();
    guard(backend).apply(&[EXCEPTED].into()).unwrap();
    let before = rules(backend);
    let second = guard(backend);
    let applied = second.apply(&[EXCEPTED].into()).unwrap();
    assert_eq!(applied, Applied { backend, edits: 0, repositioned: false });
    second.verify().unwrap();
    assert_eq!(rules(backend), before);
}

fn an_exception_that_ends_cuts_connections_that_are_open(backend: Backend) {
    let _node = Node::up();
    let guard = guard(backend);
    guard.apply(&[EXCEPTED].into()).unwrap();
    // a connection to a listener that says nothing, so that it stays open
    let silent = within("azure", || TcpListener::bind((METADATA, 7000)).unwrap());
    let mut open = within("excepted", || TcpStream::connect((METADATA, 7000)).unwrap());
    open.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut other_end, _) = silent.accept().unwrap();
    open.write_all(b"?").unwrap();
    other_end.read_exact(&mut [0]).unwrap();

    guard.apply(&BTreeSet::new()).unwrap();
    let cut = open.write_all(b"?").and_then(|()| open.read_exact(&mut [0])).unwrap_err();
    let by_reset = [ErrorKind::ConnectionReset, ErrorKind::ConnectionRefused];
    assert!(by_reset.contains(&cut.kind()), "{cut}");
}

fn nothing_gets_through_while_the_rules_change(backend: Backend) {
    let node = Node::up();
    let guard = guard(backend);
    guard.apply(&BTreeSet::new()).unwrap();

    let stop = AtomicBool::new(false);
    let calls = thread::scope(|scope| {
        let pod = scope.spawn(|| {
            within("pod", || {
                let mut calls = 0;
                while !stop.load(Ordering::SeqCst) {
                    is_refused(METADATA, 80);
                    calls += 1;
                }
                calls
            })
        });
        for round in 0..8u8 {
            let others = (0..round).map(|n| Ipv4Addr::new(10, 99, 0, n));
            guard.apply(&others.chain([EXCEPTED]).collect()).unwrap();
            // what others do: insert rules of theirs in front, and write into our chain
            run(&format!(
                "{backend} -I FORWARD 1 -s 10.98.0.0/16 -j ACCEPT
                 {backend} -A POD-IDENTITY-GUARD -s 10.98.0.0/16 -j ACCEPT"
            ));
            let applied = guard.apply(&[EXCEPTED].into()).unwrap();
            assert!(applied.repositioned);
        }
        stop.store(true, Ordering::SeqCst);
        pod.join().unwrap()
    });
    assert!(calls > 10, "{calls}");
    assert_eq!(node.visits_from(POD), 0);
}

fn a_rule_that_got_in_front_is_overtaken(backend: Backend) {
    let node = Node::up();
    let guard = guard(backend);
    guard.apply(&BTreeSet::new()).unwrap();
    run(&format!("{backend} -I FORWARD 1 -j ACCEPT"));
    let error = guard.verify().unwrap_err();
    assert!(matches!(error, GuardError::Rules(Error::ReadBack { .. })), "{error:?}");

    assert!(guard.apply(&BTreeSet::new()).unwrap().repositioned);
    guard.verify().unwrap();
    within("pod", || is_refused(METADATA, 80));
    assert_eq!(node.visits_from(POD), 0);
    let rules = rules(backend);
    assert_eq!(rules.matches("-j POD-IDENTITY-GUARD").count(), 1, "{rules}");
    assert!(rules.contains("-A FORWARD -j ACCEPT"), "what is not ours stays: {rules}");
}

fn a_mangled_chain_is_noticed_and_repaired(backend: Backend) {
    let _node = Node::up();
    let guard = guard(backend);
    assert!(matches!(guard.verify(), Err(GuardError::NotApplied)));
    guard.apply(&[EXCEPTED].into()).unwrap();
    let wanted = rules(backend);
    for mangle in [
        "-F POD-IDENTITY-GUARD",
        "-I POD-IDENTITY-GUARD 1 -j ACCEPT",
        "-D POD-IDENTITY-GUARD 2",
        "-I POD-IDENTITY-GUARD 1 -s 10.77.2.2/32 -j RETURN",
    ] {
        run(&format!("{backend} {mangle}"));
        let error = guard.verify().unwrap_err();
        assert!(matches!(error, GuardError::Changed { .. }), "{mangle}: {error:?}");
        guard.apply(&[EXCEPTED].into()).unwrap();
        guard.verify().unwrap();
        assert_eq!(rules(backend), wanted, "{mangle}");
    }
    // somebody flushed the table
    run(&format!("{backend} -F; {backend} -X"));
    guard.verify().unwrap_err();
    guard.apply(&[EXCEPTED].into()).unwrap();
    assert_eq!(rules(backend), wanted);
}

fn remove_leaves_nothing(backend: Backend) {
    let node = Node::up();
    run(&format!("{backend} -A FORWARD -s 10.98.0.0/16 -j ACCEPT"));
    let before = rules(backend);
    guard(backend).apply(&[EXCEPTED].into()).unwrap();
    assert_ne!(rules(backend), before);
    // another process than the one that applied
    let guard = guard(backend);
    guard.remove().unwrap();
    assert_eq!(rules(backend), before);
    within("pod", || assert_eq!(dial(METADATA, 80).unwrap(), "hello"));
    assert_eq!(node.visits_from(POD), 1);
    guard.remove().unwrap();
    guard.verify().unwrap_err();
}

// === both backends at once, and the lock ===

#[test]
fn the_guard_goes_where_the_nodes_components_are() {
    if !isolate("the_guard_goes_where_the_nodes_components_are") {
        return;
    }
    let used = || automatic().apply(&BTreeSet::new()).unwrap().backend;
    assert_eq!(used(), Backend::Nft, "on a node without kube-proxy");
    assert!(!netfilter::legacy_in_use(netfilter::Table::Filter), "looking must not create it");

    run("iptables-legacy -t nat -N KUBE-SERVICES");
    assert_eq!(used(), Backend::Legacy);
    assert!(!rules(Backend::Nft).contains("POD-IDENTITY"), "{}", rules(Backend::Nft));

    run("iptables-nft -t mangle -N KUBE-IPTABLES-HINT");
    assert_eq!(used(), Backend::Nft);
    assert!(!rules(Backend::Legacy).contains("POD-IDENTITY"), "{}", rules(Backend::Legacy));
}

#[test]
fn a_process_stays_with_the_backend_that_it_chose() {
    if !isolate("a_process_stays_with_the_backend_that_it_chose") {
        return;
    }
    let guard = automatic();
    guard.apply(&BTreeSet::new()).unwrap();
    run("iptables-legacy -t nat -N KUBE-SERVICES");
    let applied = guard.apply(&BTreeSet::new()).unwrap();
    assert_eq!(applied, Applied { backend: Backend::Nft, edits: 0, repositioned: false });
}

#[test]
fn a_lock_that_others_hold_is_waited_for_and_then_reported() {
    if !isolate("a_lock_that_others_hold_is_waited_for_and_then_reported") {
        return;
    }
    let guard = guard(Backend::Legacy);
    guard.apply(&BTreeSet::new()).unwrap();
    let lock = std::fs::File::open("/run/xtables.lock").unwrap();
    lock.lock().unwrap();
    let error = guard.apply(&[EXCEPTED].into()).unwrap_err();
    assert!(matches!(error, GuardError::Rules(Error::Locked { .. })), "{error:?}");
    lock.unlock().unwrap();
    assert_eq!(guard.apply(&[EXCEPTED].into()).unwrap().edits, 1);
}

fn guard(backend: Backend) -> Guard {
    with(BackendChoice::Only(backend))
}

fn automatic() -> Guard {
    with(BackendChoice::Auto)
}

fn with(backend: BackendChoice) -> Guard {
    let command_timeout = Duration::from_secs(4);
    Guard::new(GuardConfig { metadata_ip: METADATA, backend, command_timeout })
}

// === the world ===

/// Who called how often, outside.
struct Node {
    visits: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

impl Node {
    /// Connects everything, and makes sure that the pods get through before there is a guard:
    /// otherwise that they do not later would prove nothing.
    fn up() -> Self {
        run("echo 1 > /proc/sys/net/ipv4/ip_forward");
        for (name, number) in [("azure", 1), ("pod", 2), ("excepted", 3)] {
            run(&format!(
                "ip netns add {name}
                 ip link add {name} type veth peer name eth0 netns {name}
                 ip addr add 10.77.{number}.1/24 dev {name}; ip link set {name} up
                 ip -n {name} addr add 10.77.{number}.2/24 dev eth0; ip -n {name} link set eth0 up
                 ip -n {name} link set lo up
                 ip -n {name} route add default via 10.77.{number}.1"
            ));
        }
        run(&format!(
            "ip -n azure addr add {METADATA}/32 dev lo
             ip route add {METADATA}/32 via {ELSEWHERE}"
        ));
        let node = Self { visits: Arc::default() };
        within("azure", || {
            node.listen(METADATA, 80);
            node.listen(METADATA, 8080);
            node.listen(ELSEWHERE, 80);
        });
        for pod in ["pod", "excepted"] {
            within(pod, || assert_eq!(dial(METADATA, 80).unwrap(), "hello"));
        }
        assert_eq!(node.visits.lock().len(), 2);
        node.visits.lock().clear();
        node
    }

    fn listen(&self, ip: Ipv4Addr, port: u16) {
        let listener = TcpListener::bind((ip, port)).unwrap();
        let visits = Arc::clone(&self.visits);
        thread::spawn(move || {
            for visitor in listener.incoming() {
                let mut visitor = visitor.unwrap();
                if ip == METADATA {
                    *visits.lock().entry(visitor.peer_addr().unwrap().ip()).or_default() += 1;
                }
                visitor.write_all(b"hello").ok();
            }
        });
    }

    /// How often this pod got to the metadata address; everyone who came before is counted.
    fn visits_from(&self, pod: Ipv4Addr) -> usize {
        within("azure", || assert_eq!(dial(METADATA, 80).unwrap(), "hello"));
        self.visits.lock().get(&IpAddr::V4(pod)).copied().unwrap_or_default()
    }
}

fn rules(backend: Backend) -> String {
    run(&format!("{backend} -S"))
}
