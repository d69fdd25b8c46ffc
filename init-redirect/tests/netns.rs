//! The real binary with the real iptables, in network namespaces that only the test sees.
//!
//! The test's own namespace is the pod's. A second one, `azure`, stands for everything outside: it
//! has the addresses of the metadata service and of the wireserver, and counts who gets there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use netfilter::testing::{PATIENCE, dial, is_refused, isolate, run, within};
use netfilter::with_both_backends;

with_both_backends! {
    "nft", "legacy";
    every_user_gets_to_the_sidecar_and_to_nothing_else
    a_wireserver_may_be_left_open
    a_second_run_changes_nothing
    a_second_run_beside_a_running_sidecar_succeeds
    a_changed_port_takes_over_without_an_opening
    foreign_rules_come_after_ours_and_stay
    what_others_wrote_into_our_chains_goes
    the_hosts_namespace_is_refused
    rules_without_effect_are_a_failure
}

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const WIRESERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
/// What a pod must not reach, whatever it tries.
const ELSEWHERE: [(Ipv4Addr, u16); 4] =
    [(METADATA, 8080), (METADATA, 53), (WIRESERVER, 80), (WIRESERVER, 32526)];
const POD: &str = "10.77.1.2";
const NODE: &str = "10.77.1.1";

/// The only writable place of a container with a read-only file system that is always there.
const LOCK: &str = "XTABLES_LOCKFILE=/dev/shm/xtables.lock";

// === the rules ===

fn every_user_gets_to_the_sidecar_and_to_nothing_else(backend: &str) {
    let azure = Azure::outside();
    let line = succeeds(&["--backend", backend]);
    assert!(line.contains(&format!("10 rules of iptables-{backend}")), "{line}");

    // the port is free again for the sidecar, which listens on loopback only
    let sidecar = Canary::at((Ipv4Addr::LOCALHOST, 2579));
    for uid in [0, 1, 1000, 1337, 1501, 2102, 65532, 65534] {
        assert_eq!(dial_as(uid, METADATA, 80), "hello", "uid {uid}");
    }
    assert_eq!(sidecar.visitors(), 8);

    for (ip, port) in ELSEWHERE {
        is_refused(ip, port);
    }
    let datagram = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    datagram.connect((METADATA, 53)).unwrap();
    datagram.set_read_timeout(Some(PATIENCE)).unwrap();
    let refused = datagram.send(b"?").and_then(|_| datagram.recv(&mut [0])).unwrap_err();
    // one of them at once, by the send or by the ICMP message; not a wait for an answer
    let at_once = [ErrorKind::PermissionDenied, ErrorKind::ConnectionRefused];
    assert!(at_once.contains(&refused.kind()), "{refused}");

    assert_eq!(dial(WIRESERVER, 53).unwrap(), "hello", "DNS stays in reach");
    assert_eq!(azure.dns.visitors(), 1);
    azure.was_not_reached();
}

fn a_wireserver_may_be_left_open(backend: &str) {
    let azure = Azure::outside();
    succeeds(&["--backend", backend]);
    is_refused(WIRESERVER, 80);
    succeeds(&["--backend", backend, "--block-wireserver", "false"]);
    assert_eq!(dial(WIRESERVER, 80).unwrap(), "hello");
    is_refused(METADATA, 8080);
    assert_eq!(azure.metadata.visitors(), 1);
}

fn a_second_run_changes_nothing(backend: &str) {
    let azure = Azure::outside();
    succeeds(&["--backend", backend]);
    let first = rules(backend);
    let line = succeeds(&["--backend", backend]);
    assert!(line.contains("0 edits"), "{line}");
    assert_eq!(rules(backend), first);
    azure.was_not_reached();
}

fn a_second_run_beside_a_running_sidecar_succeeds(backend: &str) {
    let azure = Azure::outside();
    succeeds(&["--backend", backend]);
    let sidecar = Canary::at((Ipv4Addr::LOCALHOST, 2579));
    succeeds(&["--backend", backend]);
    assert_eq!(dial(METADATA, 80).unwrap(), "hello");
    assert_eq!(sidecar.visitors(), 2, "the verification's connection, and ours");
    azure.was_not_reached();
}

fn a_changed_port_takes_over_without_an_opening(backend: &str) {
    let azure = Azure::outside();
    succeeds(&["--backend", backend, "--to-port", "2579"]);

    let stop = Arc::new(AtomicBool::new(false));
    let application = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut calls = 0;
            while !stop.load(Ordering::SeqCst) {
                // whether the sidecar answers does not matter here; who else does, is counted
                TcpStream::connect((METADATA, 80)).ok();
                TcpStream::connect((METADATA, 8080)).ok();
                calls += 1;
            }
            calls
        }
    });
    for port in (2580..2590).rev() {
        succeeds(&["--backend", backend, "--to-port", &port.to_string()]);
    }
    stop.store(true, Ordering::SeqCst);
    assert!(application.join().unwrap() > 10);
    azure.was_not_reached();

    let sidecar = Canary::at((Ipv4Addr::LOCALHOST, 2580));
    assert_eq!(dial(METADATA, 80).unwrap(), "hello");
    assert_eq!(sidecar.visitors(), 1);
    assert_eq!(rules(backend).matches("REDIRECT --to-ports").count(), 1, "{}", rules(backend));
}

fn foreign_rules_come_after_ours_and_stay(backend: &str) {
    let azure = Azure::outside();
    run(&format!(
        "I=iptables-{backend}
         $I -t nat -N MESH
         $I -t nat -A MESH -m owner --uid-owner 1337 -j RETURN
         $I -t nat -A MESH -p tcp -j REDIRECT --to-ports 15001
         $I -t nat -A OUTPUT -p tcp -j MESH
         $I -A OUTPUT -p tcp -j ACCEPT"
    ));
    let mesh = Canary::at((Ipv4Addr::LOCALHOST, 15001));
    let auto = succeeds(&[]);
    assert!(auto.contains(&format!("of iptables-{backend}")), "where the mesh is: {auto}");

    let sidecar = Canary::at((Ipv4Addr::LOCALHOST, 2579));
    // 1337 is the mesh's own uid: what it forwards for the application comes to us as well
    for uid in [0, 1337] {
        assert_eq!(dial_as(uid, METADATA, 80), "hello");
    }
    assert_eq!((sidecar.visitors(), mesh.visitors()), (2, 0));
    assert_eq!(
        dial(Ipv4Addr::new(10, 77, 1, 1), 1).unwrap(),
        "hello",
        "other calls are the mesh's"
    );
    assert_eq!(mesh.visitors(), 1);

    // a mesh that comes later and puts itself first gives way at the next run
    run(&format!("iptables-{backend} -t nat -I OUTPUT 1 -p tcp -j MESH"));
    succeeds(&["--backend", backend]);
    assert!(first_rule(backend, "nat").ends_with("-j POD-IDENTITY-REDIRECT"), "{}", rules(backend));
    let rules = rules(backend);
    assert_eq!(rules.matches("-j POD-IDENTITY-REDIRECT").count(), 1, "{rules}");
    assert_eq!(rules.matches("-j MESH").count(), 2, "{rules}");
    azure.was_not_reached();
}

fn what_others_wrote_into_our_chains_goes(backend: &str) {
    let azure = Azure::outside();
    succeeds(&["--backend", backend]);
    let wanted = rules(backend);
    run(&format!(
        "I=iptables-{backend}
         $I -t nat -I POD-IDENTITY-REDIRECT 1 -m owner --uid-owner 1501 -j ACCEPT
         $I -I POD-IDENTITY-DENY 1 -m owner --uid-owner 1501 -j ACCEPT
         $I -D POD-IDENTITY-DENY 3
         $I -t nat -A OUTPUT -j POD-IDENTITY-REDIRECT"
    ));
    succeeds(&["--backend", backend]);
    assert_eq!(rules(backend), wanted);
    azure.was_not_reached();
}

fn the_hosts_namespace_is_refused(backend: &str) {
    let azure = Azure::outside();
    let output = init_redirect(&["--backend", backend, "--node-ip", POD]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");

    run(&format!("iptables-{backend} -t nat -N KUBE-SERVICES"));
    let before = rules(backend);
    // whatever backend is asked for: the node's may be the other one
    for asked in ["auto", "nft", "legacy"] {
        let output = init_redirect(&["--backend", asked]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
    }
    assert_eq!(rules(backend), before);
    assert_eq!(dial(METADATA, 80).unwrap(), "hello", "the node's own calls work as before");
    assert_eq!(azure.metadata.visitors(), 2);
}

fn rules_without_effect_are_a_failure(backend: &str) {
    let azure = Azure::outside();
    // a kernel that never evaluates the rules looks the same: the connection ends elsewhere
    run("ip route del default");
    let output = init_redirect(&["--backend", backend]);
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let message = std::fs::read_to_string("/run/termination-log").unwrap();
    assert!(message.contains("no connection to 169.254.169.254:80"), "{message}");
    azure.was_not_reached();
}

// === rights, and both backends at once ===

/// What the webhook gives the container: root with one capability, nothing writable.
#[test]
fn net_admin_alone_is_enough_for_nft() {
    if !isolate("net_admin_alone_is_enough_for_nft") {
        return;
    }
    let azure = Azure::outside();
    let output = confined("+net_admin", &["--backend", "auto"]);
    assert!(output.status.success(), "{output:?}");
    let output = confined("+net_admin", &[LOCK, "--backend", "legacy"]);
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert!(stderr(&output).contains("NET_RAW"), "{output:?}");
    azure.was_not_reached();
}

#[test]
fn legacy_needs_net_raw_and_a_place_for_its_lock() {
    if !isolate("legacy_needs_net_raw_and_a_place_for_its_lock") {
        return;
    }
    let azure = Azure::outside();
    let output = confined("+net_admin,+net_raw", &["--backend", "legacy"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(stderr(&output).contains("XTABLES_LOCKFILE"), "{output:?}");

    let output = confined("+net_admin,+net_raw", &[LOCK, "--backend", "legacy"]);
    assert!(output.status.success(), "{output:?}");
    azure.was_not_reached();
}

#[test]
fn without_net_admin_nothing_is_claimed() {
    if !isolate("without_net_admin_nothing_is_claimed") {
        return;
    }
    let _azure = Azure::outside();
    for backend in ["auto", "nft", "legacy"] {
        let output = confined("-all", &[LOCK, "--backend", backend]);
        assert_eq!(output.status.code(), Some(77), "{output:?}");
        assert_eq!(output.stdout, b"");
    }
}

#[test]
fn the_other_backends_rules_of_an_earlier_run_are_replaced() {
    if !isolate("the_other_backends_rules_of_an_earlier_run_are_replaced") {
        return;
    }
    let azure = Azure::outside();
    for (backend, other, port) in
        [("legacy", "nft", "2580"), ("nft", "legacy", "2581"), ("legacy", "nft", "2582")]
    {
        succeeds(&["--backend", backend, "--to-port", port]);
        assert!(!rules(other).contains("POD-IDENTITY"), "{}", rules(other));
        assert!(rules(backend).contains(port), "{}", rules(backend));
    }
    azure.was_not_reached();
}

#[test]
fn automatic_choice_stays_where_the_first_run_was() {
    if !isolate("automatic_choice_stays_where_the_first_run_was") {
        return;
    }
    let azure = Azure::outside();
    assert!(succeeds(&[]).contains("iptables-nft"));
    let line = succeeds(&[]);
    assert!(line.contains("iptables-nft, 0 edits"), "{line}");
    succeeds(&["--backend", "legacy"]);
    let line = succeeds(&[]);
    assert!(line.contains("iptables-legacy, 0 edits"), "{line}");
    azure.was_not_reached();
}

// === the world outside ===

/// A listener that counts its visitors.
struct Canary(Arc<AtomicUsize>);

impl Canary {
    /// Greets everyone who connects to `address`, from the calling thread's namespace.
    fn at(address: (Ipv4Addr, u16)) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let visitors = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&visitors);
        thread::spawn(move || {
            for visitor in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                // a visitor that only wanted to see whether it gets in has left
                visitor.and_then(|mut visitor| visitor.write_all(b"hello")).ok();
            }
        });
        Self(visitors)
    }

    fn visitors(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Everything outside the pod.
struct Azure {
    metadata: Canary,
    elsewhere: [Canary; 4],
    dns: Canary,
}

impl Azure {
    /// Connects the pod with it, and makes sure that it is in reach before there are rules:
    /// otherwise that it was not reached later would prove nothing.
    fn outside() -> Self {
        run(&format!(
            "ip netns add azure
             ip link add eth0 type veth peer name veth0 netns azure
             ip addr add {POD}/24 dev eth0; ip link set eth0 up
             ip route add default via {NODE}
             ip -n azure addr add {NODE}/24 dev veth0; ip -n azure link set veth0 up
             ip -n azure link set lo up
             ip -n azure addr add {METADATA}/32 dev lo
             ip -n azure addr add {WIRESERVER}/32 dev lo
             : > /run/termination-log"
        ));
        let azure = within("azure", || Self {
            metadata: Canary::at((METADATA, 80)),
            elsewhere: ELSEWHERE.map(Canary::at),
            dns: Canary::at((WIRESERVER, 53)),
        });
        assert_eq!(dial(METADATA, 80).unwrap(), "hello");
        assert_eq!(azure.metadata.visitors(), 1);
        azure
    }

    /// Since the one call before there were rules.
    ///
    /// Each canary is called once more, from its own side: it answers, so it is alive, and it has
    /// counted everyone who came before.
    fn was_not_reached(&self) {
        within("azure", || {
            assert_eq!(dial(METADATA, 80).unwrap(), "hello");
            for (ip, port) in ELSEWHERE {
                assert_eq!(dial(ip, port).unwrap(), "hello");
            }
        });
        assert_eq!(self.metadata.visitors(), 2, "the metadata service was reached");
        for (canary, (ip, port)) in self.elsewhere.iter().zip(ELSEWHERE) {
            assert_eq!(canary.visitors(), 1, "{ip}:{port} was reached");
        }
    }
}

fn init_redirect(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_init-redirect"));
    command.args(["--termination-log", "/run/termination-log"]);
    if !args.contains(&"--node-ip") {
        command.args(["--node-ip", NODE]);
    }
    command.args(args).output().unwrap()
}

/// As in its container: these capabilities at most, no new privileges, a read-only file system.
/// Arguments with `=` in front are environment.
fn confined(capabilities: &str, args: &[&str]) -> Output {
    let (environment, args): (Vec<&str>, Vec<&str>) =
        args.iter().copied().partition(|arg| arg.contains("XTABLES_LOCKFILE="));
    Command::new("unshare")
        .args(["--mount", "--", "sh", "-ec"])
        .arg("mount -t tmpfs tmpfs /dev/shm; mount -o remount,ro /run; mount -o remount,bind,ro /; exec setpriv \"$@\"")
        .args(["sh", "--no-new-privs", "--inh-caps=-all"])
        .arg(format!("--bounding-set=-all,{capabilities}"))
        .arg("env")
        .args(environment)
        .arg(env!("CARGO_BIN_EXE_init-redirect"))
        .args(["--termination-log", "/dev/null", "--node-ip", NODE])
        .args(args)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn succeeds(args: &[&str]) -> String {
    let output = init_redirect(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    stdout
}

/// The same as another user.
fn dial_as(uid: u32, ip: Ipv4Addr, port: u16) -> String {
    run(&format!(
        "setpriv --reuid={uid} --regid={uid} --clear-groups \
         timeout 5 bash -c 'exec 3<>/dev/tcp/{ip}/{port} && cat <&3'"
    ))
}

fn rules(backend: &str) -> String {
    run(&format!("iptables-{backend} -t nat -S; iptables-{backend} -t filter -S"))
}

fn first_rule(backend: &str, table: &str) -> String {
    let listing = run(&format!("iptables-{backend} -t {table} -S OUTPUT"));
    listing.lines().nth(1).unwrap_or_default().to_owned()
}
