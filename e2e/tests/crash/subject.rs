//! The real controller as a process that may be told where to die, or where to fall asleep.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use fake_azure::{FakeAzure, seed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The variable that chooses a fault point.
pub(crate) const VARIABLE: &str = "POD_IDENTITY_FAULT_POINT";
/// The variable that lets it fall asleep there.
const PAUSE: (&str, &str) = ("POD_IDENTITY_FAULT", "pause");

pub(crate) const NAMESPACE: &str = "system";

/// The controller, with and without its fault points.
pub(crate) struct Programs {
    pub(crate) mortal: PathBuf,
    pub(crate) usual: PathBuf,
}

/// Built one after the other: both builds end at the same path, from where they are copied.
pub(crate) static PROGRAMS: LazyLock<Programs> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mortal = build(&["fault-points"], &folder.join("controller-mortal"));
    Programs { mortal, usual: build(&[], &folder.join("controller-usual")) }
});

fn build(features: &[&str], to: &Path) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--package", "controller", "--message-format=json"]);
    if !features.is_empty() {
        cargo.args(["--features", &features.join(",")]);
    }
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let program = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "controller")
        .find_map(|message| message["executable"].as_str().map(str::to_owned));
    std::fs::copy(program.expect("cargo names the program"), to).unwrap();
    to.to_owned()
}

/// How to run it.
pub(crate) struct Setting<'a> {
    pub(crate) program: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) azure: &'a FakeAzure,
    pub(crate) ca: PathBuf,
    pub(crate) log: PathBuf,
    /// The name by which it holds the lease: a successor of the same name need not wait until the
    /// claim of a dead one has expired.
    pub(crate) instance: &'static str,
    pub(crate) lease: Duration,
    /// Where probes and metrics are; 0: nobody asks for them.
    pub(crate) admin: u16,
    /// As whom it signs in.
    pub(crate) credential: Vec<(&'static str, String)>,
}

/// An application of fake Azure with its secret, as the controller is told of it.
pub(crate) fn application(client: &str, secret: &str) -> Vec<(&'static str, String)> {
    let text = str::to_owned;
    vec![
        ("AZURE_CREDENTIAL", text("service-principal")),
        ("TENANT_ID", text(seed::TENANT)),
        ("CLIENT_ID", text(client)),
        ("CLIENT_SECRET", text(secret)),
    ]
}

/// A controller that is started again when it dies.
pub(crate) struct Subject<'a> {
    setting: &'a Setting<'a>,
    process: Child,
    /// How often it was killed by its fault point.
    pub(crate) deaths: usize,
}

impl<'a> Subject<'a> {
    /// Starts it; it dies when it comes to `point`.
    pub(crate) fn start(setting: &'a Setting<'a>, point: &str) -> Self {
        Self { setting, process: run(setting, &[(VARIABLE, point)]), deaths: 0 }
    }

    /// Starts it; it falls asleep when it comes to `point`.
    pub(crate) fn start_sleepy(setting: &'a Setting<'a>, point: &str) -> Self {
        Self { setting, process: run(setting, &[(VARIABLE, point), PAUSE]), deaths: 0 }
    }

    /// Starts it again, without a fault point, if it has died of one.
    pub(crate) fn tend(&mut self) {
        if self.has_died() {
            self.deaths += 1;
            self.process = run(self.setting, &[]);
        }
    }

    /// Whether its fault point has killed it.
    pub(crate) fn has_died(&mut self) -> bool {
        let Some(status) = self.process.try_wait().unwrap() else { return false };
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}: {}", self.log());
        true
    }

    /// Whether it fell asleep at its fault point.
    pub(crate) fn sleeps(&mut self) -> bool {
        assert!(!self.has_died());
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        // After the name, which ends with the last bracket.
        stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
    }

    pub(crate) fn wake(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Asks it to end, as a rollout does.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Asks it to end and starts it again, with a fault point or not.
    pub(crate) fn restart(&mut self, point: &str) {
        self.end();
        self.process = run(self.setting, &[(VARIABLE, point)]);
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn end(&mut self) {
        self.terminate();
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// What it said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.setting.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Subject<'_> {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn run(setting: &Setting<'_>, fault: &[(&str, &str)]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(&setting.log).unwrap();
    Command::new(&setting.program)
        .env_clear()
        .env("KUBECONFIG", &setting.kubeconfig)
        .envs(setting.credential.iter().map(|(name, value)| (name, value)))
        .envs(fault.iter().copied())
        .args(["--namespace", NAMESPACE])
        .args(["--admin-address", &format!("127.0.0.1:{}", setting.admin)])
        .args(["--leader-election-instance", setting.instance])
        .args(["--leader-election-duration", &format!("{}s", setting.lease.as_secs())])
        .args(["--detach-linger", "300ms", "--log-level", "debug"])
        .args(["--cloud", "Custom", "--authority-host", &setting.azure.entra_url()])
        .args(["--resource-manager", &setting.azure.arm_url()])
        .arg("--ca-bundle")
        .arg(&setting.ca)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
