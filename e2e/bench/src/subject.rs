//! A program that is measured: started, watched, ended.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::procfs::{self, Memory};

/// How a program is started: nothing of this process's environment reaches it.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    log: PathBuf,
}

/// A running program, killed when dropped.
#[derive(Debug)]
pub(crate) struct Subject {
    child: Child,
    started: Instant,
    log: PathBuf,
}

/// What a subject has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Processor time of all its threads.
    pub(crate) processor: Duration,
    /// Its memory.
    pub(crate) memory: Memory,
}

/// No program here takes nearly as long to listen.
const START: Duration = Duration::from_secs(20);

/// How much of a log is repeated in an error.
const LOG_LINES: usize = 8;

// === impl Launch ===

impl Launch {
    /// Starts `program`, whose output goes to `log`.
    pub(crate) fn new(program: &Path, log: &Path) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        Self {
            program: program.to_owned(),
            args: Vec::new(),
            env: vec![("PATH".to_owned(), path)],
            log: log.to_owned(),
        }
    }

    /// With this argument.
    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With this variable.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Starts it.
    pub(crate) fn start(&self) -> Result<Subject> {
        let file = |path: &Path| {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))
        };
        let (out, err) = (file(&self.log)?, File::options().append(true).open(&self.log)?);
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let started = Instant::now();
        let child = command.spawn().with_context(|| {
            let name = self.program.file_name().unwrap_or(OsStr::new("the program"));
            format!("cannot start {}: build it first, as make bench does", name.display())
        })?;
        Ok(Subject { child, started, log: self.log.clone() })
    }
}

// === impl Subject ===

impl Subject {
    /// When it was started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Connects as soon as that is possible, trying without pause.
    pub(crate) fn connect(&mut self, address: SocketAddr) -> Result<TcpStream> {
        loop {
            match TcpStream::connect(address) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error).context("cannot connect to the program"),
            }
            if self.started.elapsed() > START {
                bail!("nobody listens at {address}; the log ends with\n{}", self.last_words());
            }
        }
    }

    /// Asks `question` now and then until it is true.
    pub(crate) fn wait_for(&mut self, what: &str, question: impl Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !question() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the program ended ({status}); its log ends with\n{}", self.last_words());
            }
            if begun.elapsed() > START {
                bail!("not {what} in time; the log ends with\n{}", self.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))
                .with_context(|| format!("the program ended:\n{}", self.last_words()))
        };
        let processor = procfs::processor_time(&read("stat")?).context("/proc is not as usual")?;
        let memory = procfs::memory(&read("status")?)
            .with_context(|| format!("the program ended:\n{}", self.last_words()))?;
        Ok(Usage { processor, memory })
    }

    /// The end of its log, for errors.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended by itself; its successor needs the ports.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
