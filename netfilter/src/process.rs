//! Runs one iptables program, for a limited time.
//!
//! The `iptables` crate's call blocks until the program ends, so it is made in a thread that can be
//! given up, together with the program.

use std::error::Error as StdError;
use std::fs;
use std::io;
use std::process::Output;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use ::iptables::IPTables;
use rustix::process::{Pid, Signal, kill_process};

use crate::{Backend, Error, Table};

/// How long a killed program may take to be gone; only one stuck in the kernel needs longer.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// A program and how long it may run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub(crate) backend: Backend,
    pub(crate) command: &'static str,
    pub(crate) timeout: Duration,
}

/// What the thread that runs a program tells the one that waits.
enum Progress {
    /// The thread's directory below `/proc`, which lists the program as its child.
    Running(Option<String>),
    Ended(Result<Output, RunError>),
}

/// The crate's errors, made to pass between threads.
type RunError = Box<dyn StdError + Send + Sync>;

// === impl Program ===

impl Program {
    /// Runs the program, whatever status it ends with.
    pub(crate) fn run(&self, table: Table, command: &str) -> Result<Output, Error> {
        let Self { backend, timeout, .. } = *self;
        let tool = IPTables {
            cmd: self.command,
            has_check: true,
            has_wait: false, // it would wait for ever
            is_numeric: false,
        };
        // half of the time for the lock leaves the other half for the work; nft has no lock
        let with_wait = format!("{command} -w {}", (timeout.as_secs() / 2).max(1));
        let (tell, progress) = mpsc::channel();
        let work = move || {
            let directory = fs::read_link("/proc/thread-self").ok();
            let directory = directory.map(|path| path.display().to_string());
            // nobody listens any more if we were given up
            tell.send(Progress::Running(directory)).ok();
            let result = tool.execute(table.as_str(), &with_wait).map_err(sendable);
            tell.send(Progress::Ended(result)).ok();
        };
        thread::Builder::new()
            .name("iptables".to_owned())
            .spawn(work)
            .map_err(|source| Error::Start { backend, source })?;

        match wait(&progress, timeout) {
            Some(Ok(output)) => Ok(output),
            Some(Err(error)) => Err(start_error(backend, error)),
            None => {
                let arguments = arguments(table, command);
                Err(Error::TimedOut { backend, arguments, timeout })
            }
        }
    }
}

/// What a program was run with, for messages.
pub(crate) fn arguments(table: Table, command: &str) -> String {
    format!("-t {table} {command}")
}

/// An I/O error is kept as such, because its kind matters.
fn sendable(error: Box<dyn StdError>) -> RunError {
    match error.downcast::<io::Error>() {
        Ok(error) => error,
        Err(error) => error.to_string().into(),
    }
}

fn start_error(backend: Backend, error: RunError) -> Error {
    match error.downcast::<io::Error>() {
        Ok(source) if source.kind() == io::ErrorKind::NotFound => Error::NotInstalled { backend },
        Ok(source) => Error::Start { backend, source: *source },
        Err(error) => Error::Start { backend, source: io::Error::other(error) },
    }
}

/// The program's result, or none when it had to be killed for taking longer than `timeout`.
fn wait(progress: &Receiver<Progress>, timeout: Duration) -> Option<Result<Output, RunError>> {
    let mut directory = None;
    loop {
        match progress.recv_timeout(timeout) {
            Ok(Progress::Running(thread)) => directory = thread,
            Ok(Progress::Ended(result)) => return Some(result),
            Err(RecvTimeoutError::Timeout) => break,
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    kill_children(directory.as_deref());
    // seeing it end means that it cannot write any more after we have reported the failure
    progress.recv_timeout(KILL_GRACE).ok();
    None
}

/// Kills what a thread has started. Where the kernel does not list it, the program ends by itself:
/// it was told how long to wait for the lock.
fn kill_children(thread: Option<&str>) {
    let Some(thread) = thread else { return };
    let children = fs::read_to_string(format!("/proc/{thread}/children")).unwrap_or_default();
    for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        if let Some(pid) = Pid::from_raw(pid) {
            // it may have ended by itself meanwhile, which is as good
            kill_process(pid, Signal::KILL).ok();
        }
    }
}
