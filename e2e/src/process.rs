//! Processes that outlive the command that started them: started, recognised again, stopped.
//!
//! A process is recognised by its number, its start time and the boot: a number alone may by now
//! be a stranger's.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::exec;
use crate::files::{self, Access, Fingerprint};
use crate::host::{net, procfs};
use crate::paths::State;

const DEATH: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Names its log and its record.
    pub name: String,
    /// The network namespace to run in; none is that of the caller.
    pub netns: Option<String>,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Content of its configuration files, so that a change of them restarts it.
    pub inputs: String,
}

/// What became of a daemon that was to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It ran already, as asked.
    Already,
    /// It was started.
    Now,
    /// It ran with other arguments or configuration, and was replaced.
    Replaced,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    pid: i32,
    start_time: u64,
    boot_id: String,
    fingerprint: String,
}

impl Daemon {
    /// Runs it, unless it already runs as asked.
    pub fn ensure(&self, state: &State) -> Result<Started> {
        let file = state.pid_file(&self.name);
        let mut started = Started::Now;
        if let Some(record) = Record::read(&file).filter(Record::is_running) {
            if record.fingerprint == self.fingerprint() {
                return Ok(Started::Already);
            }
            record.kill_and_wait()?;
            started = Started::Replaced;
        }
        self.spawn(state)?.write(&file)?;
        Ok(started)
    }

    /// Fails with the end of its log if it is not running.
    pub fn check(&self, state: &State) -> Result<()> {
        if is_running(state, &self.name) {
            return Ok(());
        }
        let log = state.log(&self.name);
        let text = fs::read_to_string(&log).unwrap_or_default();
        bail!("{} has ended; the end of {}:\n{}", self.name, log.display(), exec::tail(&text));
    }

    fn spawn(&self, state: &State) -> Result<Record> {
        if !self.program.is_file() {
            bail!("{} is missing", self.program.display());
        }
        let log = state.log(&self.name);
        let open = || -> std::io::Result<(fs::File, fs::File)> {
            fs::create_dir_all(log.parent().unwrap_or(Path::new("/")))?;
            let file = OpenOptions::new().create(true).append(true).open(&log)?;
            let twin = file.try_clone()?;
            Ok((file, twin))
        };
        let (stdout, stderr) = open().with_context(|| format!("cannot open {}", log.display()))?;
        let child = self
            .command()
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let pid = i32::try_from(child.id()).context("a process number out of range")?;
        let start_time = procfs::stat(pid).map(|stat| stat.start_time).unwrap_or_default();
        let boot_id = procfs::boot_id().context("cannot tell which boot this is")?;
        Ok(Record { pid, start_time, boot_id, fingerprint: self.fingerprint() })
    }

    /// `setsid` keeps it out of reach of the terminal's signals. It and `nsenter` become the
    /// program, so the process number stays. The environment is small on purpose: a proxy or a
    /// Go setting of the caller must not change a cluster.
    fn command(&self) -> Command {
        let mut command = Command::new("setsid");
        if let Some(netns) = &self.netns {
            command.arg("nsenter").arg(format!("--net={}", net::netns_path(netns).display()));
        }
        command.arg(&self.program).args(&self.args);
        command.env_clear().env("PATH", exec::search_path()).env("HOME", "/root").current_dir("/");
        command
    }

    fn fingerprint(&self) -> String {
        let program = self.program.to_string_lossy();
        Fingerprint::default()
            .with("netns", self.netns.as_deref().unwrap_or_default())
            .with("program", program.as_bytes())
            .with("args", self.args.join("\0"))
            .with("inputs", &self.inputs)
            .short()
    }
}

/// Whether the process of that name is alive.
#[must_use]
pub fn is_running(state: &State, name: &str) -> bool {
    Record::read(&state.pid_file(name)).is_some_and(|record| record.is_running())
}

/// The number of a running process of that name.
#[must_use]
pub fn pid(state: &State, name: &str) -> Option<i32> {
    Record::read(&state.pid_file(name)).filter(Record::is_running).map(|record| record.pid)
}

/// Names of all processes that were ever started here.
#[must_use]
pub fn names(state: &State) -> Vec<String> {
    let folder = state.pid_file("x").parent().map(Path::to_path_buf).unwrap_or_default();
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let name =
        |entry: fs::DirEntry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned());
    let mut names: Vec<_> = entries.flatten().filter_map(name).collect();
    names.sort();
    names
}

/// Kills the process of that name, if it is still the one that was started.
pub fn stop(state: &State, name: &str) -> Result<()> {
    let file = state.pid_file(name);
    if let Some(record) = Record::read(&file).filter(Record::is_running) {
        record.kill_and_wait()?;
    }
    files::remove(&file).with_context(|| format!("cannot remove {}", file.display()))
}

/// Kills these processes and waits until they are gone. The caller knows that they are ours.
pub fn kill_all(pids: impl IntoIterator<Item = i32>) -> Result<()> {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let pids: Vec<i32> = pids.into_iter().filter(|pid| *pid > 1 && *pid != own).collect();
    for pid in &pids {
        // One that has gone meanwhile is what we want.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    for pid in pids {
        wait_for_death(pid, None)?;
    }
    Ok(())
}

impl Record {
    fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    fn write(&self, file: &Path) -> Result<()> {
        files::write(file, serde_json::to_vec(self)?, Access::Public)
    }

    fn is_running(&self) -> bool {
        let boot_id = procfs::boot_id().unwrap_or_default();
        self.is_alive_as(&boot_id, procfs::stat(self.pid))
    }

    fn is_alive_as(&self, boot_id: &str, stat: Option<procfs::Stat>) -> bool {
        self.boot_id == boot_id
            && stat.is_some_and(|stat| stat.is_alive() && stat.start_time == self.start_time)
    }

    fn kill_and_wait(&self) -> Result<()> {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        wait_for_death(self.pid, Some(self.start_time))
    }
}

fn wait_for_death(pid: i32, start_time: Option<u64>) -> Result<()> {
    let deadline = Instant::now() + DEATH;
    let same = |stat: &procfs::Stat| start_time.is_none_or(|start| start == stat.start_time);
    while procfs::stat(pid).filter(same).is_some_and(|stat| stat.is_alive()) {
        if Instant::now() > deadline {
            let arguments = procfs::arguments(pid).join(" ");
            bail!("process {pid} does not die: {arguments}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(name: &str, seconds: &str) -> Daemon {
        Daemon {
            name: name.into(),
            netns: None,
            program: "/bin/sleep".into(),
            args: vec![seconds.into()],
            inputs: String::new(),
        }
    }

    fn state() -> (tempfile::TempDir, State) {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path()).unwrap();
        (dir, state)
    }

    #[test]
    fn a_record_is_of_one_process_of_one_boot() {
        let record =
            Record { pid: 5, start_time: 7, boot_id: "b".into(), fingerprint: String::new() };
        let stat = |state, start_time| Some(procfs::Stat { state, start_time });
        let cases = [
            ("b", stat('S', 7), true),
            ("b", stat('Z', 7), false),
            ("b", stat('S', 8), false),
            ("other boot", stat('S', 7), false),
            ("b", None, false),
        ];
        for (boot, stat, expected) in cases {
            assert_eq!(record.is_alive_as(boot, stat), expected, "{boot} {stat:?}");
        }
    }

    #[test]
    fn a_running_daemon_is_kept_and_a_changed_one_replaced() {
        let (_dir, state) = state();
        assert_eq!(sleeper("a", "600").ensure(&state).unwrap(), Started::Now);
        let first = pid(&state, "a").unwrap();
        assert_eq!(sleeper("a", "600").ensure(&state).unwrap(), Started::Already);
        assert_eq!(pid(&state, "a"), Some(first));
        assert_eq!(sleeper("a", "601").ensure(&state).unwrap(), Started::Replaced);
        assert_ne!(pid(&state, "a"), Some(first));
        assert_eq!(names(&state), ["a"]);
        stop(&state, "a").unwrap();
        assert!(!is_running(&state, "a"));
        assert!(names(&state).is_empty());
    }

    #[test]
    fn a_stale_record_never_kills_a_stranger() {
        let (_dir, state) = state();
        let mut stranger = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        let record = Record {
            pid: i32::try_from(stranger.id()).unwrap(),
            start_time: 1,
            boot_id: procfs::boot_id().unwrap(),
            fingerprint: String::new(),
        };
        record.write(&state.pid_file("a")).unwrap();
        stop(&state, "a").unwrap();
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_dead_daemon_is_reported_with_the_end_of_its_log() {
        let (_dir, state) = state();
        let daemon = sleeper("a", "no number");
        daemon.ensure(&state).unwrap();
        let pid = Record::read(&state.pid_file("a")).unwrap().pid;
        wait_for_death(pid, None).unwrap();
        let error = daemon.check(&state).unwrap_err().to_string();
        assert!(error.contains("a has ended") && error.contains("invalid time"), "{error}");
    }

    #[test]
    fn a_changed_configuration_changes_the_fingerprint() {
        let daemon = sleeper("a", "1");
        let other = Daemon { inputs: "changed".into(), ..daemon.clone() };
        assert_ne!(daemon.fingerprint(), other.fingerprint());
    }
}
