//! The real controller as a process that may be told where to die.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use fake_azure::FakeAzure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The variable that chooses a fault point.
pub(crate) const VARIABLE: &str = "POD_IDENTITY_FAULT_POINT";

pub(crate) const NAMESPACE: &str = "system";
const TENANT: &str = "10000000-0000-0000-0000-000000000001";
/// The controller's own application in fake Azure.
const CLIENT: &str = "40000000-0000-0000-0000-000000000002";
const SECRET: &str = "not-a-secret-controller";

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
        Self { setting, process: run(setting, point), deaths: 0 }
    }

    /// Starts it again, without a fault point, if it has died of one.
    pub(crate) fn tend(&mut self) {
        let Some(status) = self.process.try_wait().unwrap() else { return };
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}: {}", self.log());
        self.deaths += 1;
        self.process = run(self.setting, "");
    }

    /// Asks it to end, as a rollout does.
    pub(crate) fn terminate(&self) {
        let pid = Pid::from_raw(self.process.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
    }

    /// Asks it to end and starts it again, with a fault point or not.
    pub(crate) fn restart(&mut self, point: &str) {
        self.end();
        self.process = run(self.setting, point);
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn end(&mut self) {
        self.terminate();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// What it said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.setting.log).unwrap_or_default()
    }
}

impl Drop for Subject<'_> {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn run(setting: &Setting<'_>, point: &str) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(&setting.log).unwrap();
    Command::new(&setting.program)
        .env_clear()
        .env("KUBECONFIG", &setting.kubeconfig)
        .env("CLIENT_SECRET", SECRET)
        .env(VARIABLE, point)
        .args(["--namespace", NAMESPACE, "--admin-address", "127.0.0.1:0"])
        // One name: a successor need not wait until the claim of the dead one has expired.
        .args(["--leader-election-instance", "it", "--leader-election-duration", "3s"])
        .args(["--detach-linger", "300ms", "--log-level", "debug"])
        .args(["--cloud", "Custom", "--authority-host", &setting.azure.entra_url()])
        .args(["--resource-manager", &setting.azure.arm_url()])
        .arg("--ca-bundle")
        .arg(&setting.ca)
        .args(["--azure-credential", "service-principal", "--tenant-id", TENANT])
        .args(["--client-id", CLIENT])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
