//! Network namespaces of their own for tests that write real rules.
//!
//! A test calls [`isolate`] first and does nothing unless it answers yes: its body then runs in a
//! second process of the same test binary, in a fresh network and mount namespace with a private
//! `/run`. The kernel takes all of it back when that process ends; the machine's own tables and
//! addresses are never touched.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Bounds what should be immediate; far above what a busy machine needs.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Declares each rule as a test in namespaces of its own, once per backend, which it is given as
/// the two expressions in front say. The rules are functions beside the macro.
#[macro_export]
macro_rules! with_both_backends {
    ($nft:expr, $legacy:expr; $($rule:ident)*) => {
        mod nft {
            $(#[test]
            fn $rule() {
                if $crate::testing::isolate(concat!("nft::", stringify!($rule))) {
                    super::$rule($nft);
                }
            })*
        }
        mod legacy {
            $(#[test]
            fn $rule() {
                if $crate::testing::isolate(concat!("legacy::", stringify!($rule))) {
                    super::$rule($legacy);
                }
            })*
        }
    };
}

/// Set in the process that is inside, to the namespace that it must not be in.
const INSIDE: &str = "NETFILTER_TEST_INSIDE";

/// Whether the caller is inside its own namespaces; if not, runs the test `name` there.
///
/// # Panics
/// If the test failed inside, or if this process should be inside and is not.
pub fn isolate(name: &str) -> bool {
    let namespace = fs::read_link("/proc/self/ns/net").expect("a link").into_os_string();
    if let Some(outside) = std::env::var_os(INSIDE) {
        assert_ne!(namespace, outside, "this is the network namespace of the machine");
        run("mount -t tmpfs tmpfs /run && ip link set lo up");
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        // not eprintln!, which the test harness keeps to itself
        writeln!(io::stderr(), "SKIPPED {name}: network namespaces need root").ok();
        return false;
    }
    let itself = std::env::current_exe().expect("the path of the test binary");
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(itself)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, namespace)
        .output()
        .expect("unshare runs");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    // a misspelled name selects no test, which the harness calls a success
    let passed = output.status.success() && stdout.contains("test result: ok. 1 passed");
    assert!(passed, "{name} failed in its own network namespace\n{stdout}\n{stderr}");
    false
}

/// Runs a shell script and returns what it printed.
///
/// # Panics
/// If it fails.
pub fn run(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().expect("sh runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Calls `work` in the namespace that `ip netns add` called `name`.
///
/// # Panics
/// If there is none, or if `work` panics.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/run/netns/{name}")).expect("a namespace of that name");
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("this thread may enter it");
            work()
        });
        inside.join().unwrap_or_else(|_| panic!("the work in {name} panicked"))
    })
}

/// Connects and returns what the other side said.
///
/// # Errors
/// If nobody answers there.
pub fn dial(ip: Ipv4Addr, port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((ip, port)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Makes sure that connections are answered by a reset.
///
/// # Panics
/// If somebody answers, or nobody at all.
pub fn is_refused(ip: Ipv4Addr, port: u16) {
    let error = dial(ip, port).expect_err("it is out of reach");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{ip}:{port}: {error}");
}
