//! The real binary with programs in place of iptables that fail in every way they can.
//!
//! None of them gets as far as a connection; if one did, it would go to a loopback address.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory that is the binary's whole `PATH`.
struct Fakes(TempDir);

impl Fakes {
    fn new() -> Self {
        let fakes = Self(tempfile::tempdir().unwrap());
        fs::write(fakes.termination_log(), "").unwrap();
        fakes
    }

    /// A backend that logs its arguments and then does as `script` says.
    fn with(self, backend: &str, script: &str) -> Self {
        let path = self.0.path().join(format!("iptables-{backend}"));
        let log = self.0.path().join("log");
        let text = format!("#!/bin/sh\necho {backend} \"$@\" >> {}\n{script}\n", log.display());
        // by a shell: were it open for writing in this process, a child that another test starts
        // at that moment would keep it open, and executing it would fail (ETXTBSY)
        let write = "printf %s \"$1\" > \"$0\" && chmod +x \"$0\"";
        let written = Command::new("sh").arg("-c").arg(write).arg(&path).arg(text).status();
        assert!(written.unwrap().success());
        self
    }

    fn run(&self, args: &[&str]) -> Output {
        // 192.0.2.0/24 is documentation's, and nobody's
        let defaults = ["--metadata-address", "169.254.169.254:80", "--node-ip", "192.0.2.1"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_init-redirect"));
        command.env_clear().env("PATH", self.0.path());
        command.arg("--termination-log").arg(self.termination_log());
        for pair in defaults.chunks(2) {
            if !args.contains(&pair[0]) {
                command.args(pair);
            }
        }
        command.args(args).output().unwrap()
    }

    fn termination_log(&self) -> PathBuf {
        self.0.path().join("termination-log")
    }

    fn message(&self) -> String {
        fs::read_to_string(self.termination_log()).unwrap()
    }

    /// The commands that were run, without those that only look.
    fn changes(&self) -> Vec<String> {
        let commands = self.commands();
        commands.into_iter().filter(|command| !command.contains(" -S")).collect()
    }

    fn commands(&self) -> Vec<String> {
        let log = fs::read_to_string(self.0.path().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

/// What iptables says without NET_ADMIN.
const DENIED: &str = "echo 'Could not fetch rule set generation id: Permission denied (you must be root)' >&2; exit 4";

/// What iptables says when the kernel has no such thing.
const UNSUPPORTED: &str = "echo 'table nat: Protocol not supported' >&2; exit 3";

/// Answers everything with success and does nothing.
const LIAR: &str = "exit 0";

#[test]
fn a_missing_permission_stops_it_before_any_change() {
    let fakes = Fakes::new().with("nft", DENIED).with("legacy", LIAR);
    let output = fakes.run(&[]);
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert_eq!(fakes.changes(), [""; 0]);
    let message = fakes.message();
    assert!(message.contains("Permission denied (you must be root)"), "{message}");
    assert!(message.contains("Remedy: run this container as uid 0 with the capability NET_ADMIN"));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("{message}\n"));
    assert_eq!(output.stdout, b"", "nothing was achieved");
}

#[test]
fn success_that_leaves_no_rule_is_a_failure() {
    let fakes = Fakes::new().with("nft", LIAR);
    let output = fakes.run(&["--backend", "nft"]);
    assert_eq!(output.status.code(), Some(74), "{output:?}");
    assert!(fakes.message().contains("chain POD-IDENTITY-DENY of table filter holds []"));
}

#[test]
fn a_failing_change_is_a_failure() {
    let script = "case \"$*\" in *-S*) exit 0;; *) echo 'no REJECT here' >&2; exit 1;; esac";
    let fakes = Fakes::new().with("nft", script);
    let output = fakes.run(&["--backend", "nft"]);
    assert_eq!(output.status.code(), Some(74), "{output:?}");
    assert!(fakes.message().contains("no REJECT here"), "{}", fakes.message());
    assert_eq!(fakes.changes().len(), 1, "stopped at the first failure: {:?}", fakes.changes());
}

#[test]
fn the_second_backend_is_tried_when_the_first_does_not_work() {
    let fakes = Fakes::new().with("nft", UNSUPPORTED).with("legacy", UNSUPPORTED);
    let output = fakes.run(&[]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let message = fakes.message();
    assert!(message.contains("iptables-nft -t nat -S OUTPUT: table nat"), "{message}");
    assert!(message.contains("iptables-legacy -t nat -S OUTPUT: table nat"), "{message}");
    assert_eq!(fakes.changes(), [""; 0]);
}

#[test]
fn the_second_backend_is_not_tried_when_only_one_is_allowed() {
    let fakes = Fakes::new().with("nft", UNSUPPORTED).with("legacy", LIAR);
    let output = fakes.run(&["--backend", "nft"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let legacy: Vec<_> =
        fakes.commands().into_iter().filter(|c| c.starts_with("legacy -t nat -S OUTPUT")).collect();
    assert_eq!(legacy, [""; 0]);
}

#[test]
fn an_image_without_iptables_is_told() {
    let fakes = Fakes::new();
    let output = fakes.run(&[]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(fakes.message().contains("iptables-legacy is not installed"), "{}", fakes.message());
}

#[test]
fn a_lock_file_that_cannot_be_opened_names_the_way_out() {
    let script =
        "echo \"Fatal: can't open lock file /run/xtables.lock: Read-only file system\" >&2; exit 4";
    let fakes = Fakes::new().with("legacy", script);
    let output = fakes.run(&["--backend", "legacy"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(fakes.message().contains("XTABLES_LOCKFILE"), "{}", fakes.message());
}

#[test]
fn a_command_that_hangs_is_a_failure() {
    // the interpreter's own name, because PATH has nothing but the fakes
    let fakes = Fakes::new().with("nft", "exec /bin/sleep 600");
    let output = fakes.run(&["--command-timeout", "300ms"]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(fakes.message().contains("did not finish within 300ms"), "{}", fakes.message());
}

#[test]
fn the_hosts_namespace_is_refused_by_address_before_anything_is_run() {
    for args in
        [&["--node-ip", "127.0.0.1"][..], &["--node-ip", "192.0.2.1", "--pod-ip", "192.0.2.1"]]
    {
        let fakes = Fakes::new().with("nft", LIAR).with("legacy", LIAR);
        let output = fakes.run(args);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert_eq!(fakes.commands(), [""; 0]);
        let message = fakes.message();
        assert!(message.contains("pods with hostNetwork cannot be injected"), "{message}");
        assert!(message.contains("Remedy: "), "{message}");
    }
}

#[test]
fn the_hosts_namespace_is_refused_by_its_chains_before_any_change() {
    let script = "echo '-P OUTPUT ACCEPT'; echo '-N KUBE-NODEPORTS'";
    let fakes = Fakes::new().with("nft", script);
    let output = fakes.run(&[]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert_eq!(fakes.changes(), [""; 0]);
    assert!(fakes.message().contains("KUBE-NODEPORTS"), "{}", fakes.message());
}

#[test]
fn wrong_arguments_are_a_status_of_their_own() {
    let fakes = Fakes::new().with("nft", LIAR);
    for args in [&["--to-port", "0"][..], &["--to-port", "x"], &["--block-wireserver", "maybe"]] {
        let output = fakes.run(args);
        assert_eq!(output.status.code(), Some(64), "{output:?}");
    }
    assert_eq!(fakes.commands(), [""; 0]);
    let binary = env!("CARGO_BIN_EXE_init-redirect");
    let output = Command::new(binary).env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(64), "no --node-ip: {output:?}");
    let output = Command::new(binary).arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
