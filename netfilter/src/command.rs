//! Runs the iptables programs, and builds on that what callers need: look, sync, remove.
//!
//! Of the `iptables` crate only `execute` is used. Its other methods hide failures (`exists` and
//! `list` answer "no" and "nothing" when permission is denied), and its own `--wait` has no limit.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fs;
use std::io;
use std::process::Output;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::chain::{chains_of, rules_of};
use crate::{Backend, Chain, Edit, Error, Jump, Table, legacy_in_use};

/// How often a jump is put back on top when others insert at the same moment.
const JUMP_ROUNDS: usize = 3;

/// How long a killed program may take to be gone; only one stuck in the kernel needs longer.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// One implementation of iptables, in the network namespace of the calling thread.
#[derive(Clone, Copy, Debug)]
pub struct Iptables {
    backend: Backend,
    command: &'static str,
    timeout: Duration,
}

/// What the thread that runs a program tells the one that waits.
enum Progress {
    /// The thread's directory below `/proc`, which lists the program as its child.
    Running(Option<String>),
    Ended(Result<Output, Box<dyn StdError + Send + Sync>>),
}

// === impl Iptables ===

impl Iptables {
    /// Nothing is run yet. No command may take longer than `timeout`.
    pub fn new(backend: Backend, timeout: Duration) -> Self {
        Self { backend, command: backend.command(), timeout }
    }

    /// The implementation that is run.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The same, of the given implementation.
    pub fn with_backend(self, backend: Backend) -> Self {
        Self::new(backend, self.timeout)
    }

    /// The rules of a chain that exists, first to last, as iptables prints them.
    pub fn rules(&self, table: Table, chain: &str) -> Result<Vec<String>, Error> {
        Ok(rules_of(&self.run(table, &format!("-S {chain}"))?, chain))
    }

    /// The chains of a table. A legacy table that nobody has created yet is not created by asking.
    pub fn chains(&self, table: Table) -> Result<BTreeSet<String>, Error> {
        if self.backend == Backend::Legacy && !legacy_in_use(table) {
            return Ok(BTreeSet::new());
        }
        Ok(chains_of(&self.run(table, "-S")?).map(str::to_owned).collect())
    }

    /// The rules of a chain of ours, which is created if it is not there.
    ///
    /// That a chain is missing is never concluded from a failed listing, which has many causes,
    /// but from the kernel's consent to create it.
    pub fn ensure_chain(&self, table: Table, chain: &str) -> Result<Vec<String>, Error> {
        match self.rules(table, chain) {
            Ok(rules) => Ok(rules),
            Err(unread @ Error::Failed { .. }) => match self.run(table, &format!("-N {chain}")) {
                Ok(_) => self.rules(table, chain),
                // it is there and cannot be listed: the first failure is the one that tells why
                Err(Error::Failed { detail, .. }) if detail.contains("already exists") => {
                    Err(unread)
                }
                Err(uncreated) => Err(uncreated),
            },
            Err(error) => Err(error),
        }
    }

    /// Carries out edits in their order; stops at the first that fails.
    pub fn edit(&self, table: Table, chain: &str, edits: &[Edit]) -> Result<(), Error> {
        edits.iter().try_for_each(|edit| {
            let command = match edit {
                Edit::Insert(rule) => format!("-I {chain} 1 {rule}"),
                Edit::Delete(rule) => format!("-D {chain} {rule}"),
                Edit::DeleteAt(position) => format!("-D {chain} {position}"),
            };
            self.run(table, &command).map(drop)
        })
    }

    /// Brings a chain of ours to the rules it should have, and reads it back.
    ///
    /// Returns how many edits that took.
    pub fn sync_chain(&self, chain: &Chain) -> Result<usize, Error> {
        let current = self.ensure_chain(chain.table, chain.name)?;
        let edits = chain.edits(&current);
        if edits.is_empty() {
            return Ok(0);
        }
        self.edit(chain.table, chain.name, &edits)?;
        self.check_chain(chain)?;
        Ok(edits.len())
    }

    /// Fails unless a chain of ours holds exactly the rules it should.
    pub fn check_chain(&self, chain: &Chain) -> Result<(), Error> {
        let found = self.rules(chain.table, chain.name)?;
        if found == chain.rules {
            return Ok(());
        }
        let wanted = chain.rules.clone();
        Err(Error::ReadBack { table: chain.table, chain: chain.name, wanted, found })
    }

    /// Puts the jump at position 1 of its built-in chain, leaves no second one, and reads it back.
    ///
    /// Returns how many edits that took.
    pub fn sync_jump(&self, jump: &Jump) -> Result<usize, Error> {
        let mut made = 0;
        for _ in 0..JUMP_ROUNDS {
            let edits = jump.edits(&self.rules(jump.table, jump.from)?);
            if edits.is_empty() {
                return Ok(made);
            }
            self.edit(jump.table, jump.from, &edits)?;
            made += edits.len();
        }
        self.check_jump(jump).map(|()| made)
    }

    /// Fails unless the jump is at position 1 of its built-in chain.
    pub fn check_jump(&self, jump: &Jump) -> Result<(), Error> {
        let found = self.rules(jump.table, jump.from)?;
        if jump.is_first(&found) {
            return Ok(());
        }
        let [wanted, _] = jump.spellings();
        Err(Error::ReadBack { table: jump.table, chain: jump.from, wanted: vec![wanted], found })
    }

    /// Removes every jump to the jump's chain, and then the chain. Returns whether it was there.
    pub fn remove(&self, jump: &Jump) -> Result<bool, Error> {
        if !self.chains(jump.table)?.contains(jump.to) {
            return Ok(false);
        }
        let rules = self.rules(jump.table, jump.from)?;
        let jumps: Vec<_> = jump.all_in(&rules).cloned().map(Edit::Delete).collect();
        self.edit(jump.table, jump.from, &jumps)?;
        self.run(jump.table, &format!("-F {}", jump.to))?;
        self.run(jump.table, &format!("-X {}", jump.to))?;
        Ok(true)
    }

    /// Runs one command and returns what it printed; any status but 0 is an error.
    fn run(&self, table: Table, command: &str) -> Result<String, Error> {
        let arguments = format!("-t {table} {command}");
        // half of the time for the lock leaves the other half for the work; nft has no lock
        let wait = (self.timeout.as_secs() / 2).max(1);
        let output = self.execute(table, format!("{command} -w {wait}"), &arguments)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::of_output(self.backend, &arguments, &output))
    }

    /// Runs one command in a thread of its own, because the crate's call cannot be given up.
    fn execute(&self, table: Table, command: String, arguments: &str) -> Result<Output, Error> {
        let (backend, timeout) = (self.backend, self.timeout);
        let tool = iptables::IPTables {
            cmd: self.command,
            has_check: true,
            has_wait: false, // it would wait for ever
            is_numeric: false,
        };
        let (tell, progress) = mpsc::channel();
        let work = move || {
            let directory = fs::read_link("/proc/thread-self").ok();
            let directory = directory.map(|path| path.display().to_string());
            // nobody listens any more if we were given up
            tell.send(Progress::Running(directory)).ok();
            let result = tool.execute(table.as_str(), &command).map_err(sendable);
            tell.send(Progress::Ended(result)).ok();
        };
        thread::Builder::new()
            .name("iptables".to_owned())
            .spawn(work)
            .map_err(|source| Error::Start { backend, source })?;

        match wait(&progress, timeout) {
            Some(Ok(output)) => Ok(output),
            Some(Err(error)) => Err(match error.downcast::<io::Error>() {
                Ok(source) if source.kind() == io::ErrorKind::NotFound => {
                    Error::NotInstalled { backend }
                }
                Ok(source) => Error::Start { backend, source: *source },
                Err(error) => Error::Start { backend, source: io::Error::other(error) },
            }),
            None => Err(Error::TimedOut { backend, arguments: arguments.to_owned(), timeout }),
        }
    }

    /// The same, with another program; tests put a script there.
    #[cfg(test)]
    fn with_command(self, command: &'static str) -> Self {
        Self { command, ..self }
    }
}

/// The crate's errors are not `Send`; an I/O error is kept as such, because its kind matters.
fn sendable(error: Box<dyn StdError>) -> Box<dyn StdError + Send + Sync> {
    match error.downcast::<io::Error>() {
        Ok(error) => error,
        Err(error) => error.to_string().into(),
    }
}

/// The program's result, or none when it had to be killed for taking longer than `timeout`.
fn wait(
    progress: &Receiver<Progress>,
    timeout: Duration,
) -> Option<Result<Output, Box<dyn StdError + Send + Sync>>> {
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// A program that logs its arguments and then does as `script` says.
    fn fake(directory: &TempDir, script: &str) -> &'static str {
        let path = directory.path().join("iptables");
        let log = directory.path().join("log");
        let text = format!("#!/bin/sh\necho \"$*\" >> {}\n{script}\n", log.display());
        // by a shell: were it open for writing in this process, a child that another test starts
        // at that moment would keep it open, and executing it would fail (ETXTBSY)
        let write = "printf %s \"$1\" > \"$0\" && chmod +x \"$0\"";
        let written = Command::new("sh").arg("-c").arg(write).arg(&path).arg(text).status();
        assert!(written.unwrap().success());
        path.display().to_string().leak()
    }

    fn log(directory: &TempDir) -> Vec<String> {
        let log = fs::read_to_string(directory.path().join("log")).unwrap();
        log.lines().map(str::to_owned).collect()
    }

    fn with(script: &str) -> (TempDir, Iptables) {
        let directory = tempfile::tempdir().unwrap();
        let command = fake(&directory, script);
        (directory, Iptables::new(Backend::Nft, TIMEOUT).with_command(command))
    }

    fn jump() -> Jump {
        Jump {
            table: Table::Filter,
            from: "OUTPUT",
            matching: String::new(),
            comment: "two words",
            to: "OURS",
        }
    }

    #[test]
    fn a_refused_listing_is_an_error_and_not_an_empty_chain() {
        let (directory, iptables) = with("echo 'Permission denied (you must be root)' >&2; exit 4");
        let chain = Chain { table: Table::Nat, name: "OURS", rules: vec!["-j DROP".to_owned()] };
        assert!(iptables.sync_chain(&chain).unwrap_err().is_not_permitted());
        assert!(iptables.sync_jump(&jump()).unwrap_err().is_not_permitted());
        assert!(iptables.remove(&jump()).unwrap_err().is_not_permitted());
        assert!(log(&directory).iter().all(|line| line.contains("-S")), "{:?}", log(&directory));
    }

    #[test]
    fn a_chain_that_is_there_but_cannot_be_listed_is_reported_by_the_listing() {
        let (_directory, iptables) = with(
            "case \"$*\" in *-N*) echo 'Chain already exists.' >&2;; *) echo 'broken' >&2;; esac; \
             exit 1",
        );
        let error = iptables.ensure_chain(Table::Nat, "OURS").unwrap_err();
        assert!(error.to_string().contains("-S OURS: broken"), "{error}");
    }

    #[test]
    fn commands_wait_for_the_lock_and_not_for_ever() {
        let (directory, iptables) = with("exit 0");
        iptables.rules(Table::Nat, "OUTPUT").unwrap();
        assert_eq!(log(&directory), ["-t nat -S OUTPUT -w 5"]);
    }

    #[test]
    fn success_without_effect_is_found_by_reading_back() {
        let (_directory, iptables) = with("exit 0");
        let chain = Chain { table: Table::Nat, name: "OURS", rules: vec!["-j DROP".to_owned()] };
        let error = iptables.sync_chain(&chain).unwrap_err();
        assert!(matches!(error, Error::ReadBack { .. }), "{error}");
        let error = iptables.sync_jump(&jump()).unwrap_err();
        assert!(matches!(error, Error::ReadBack { chain: "OUTPUT", .. }), "{error}");
    }

    #[test]
    fn a_comment_of_two_words_stays_one_argument() {
        let (directory, iptables) = with("for a in \"$@\"; do echo \"[$a]\" >> $0.args; done");
        iptables.sync_jump(&jump()).unwrap_err();
        let arguments = fs::read_to_string(directory.path().join("iptables.args")).unwrap();
        assert!(arguments.contains("[two words]"), "{arguments}");
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let (directory, iptables) = with("echo $$ > $0.pid; exec sleep 600");
        let iptables = Iptables { timeout: Duration::from_millis(500), ..iptables };
        let error = iptables.rules(Table::Nat, "OUTPUT").unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        let pid = fs::read_to_string(directory.path().join("iptables.pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists(), "it still runs");
    }

    #[test]
    fn a_missing_program_is_told_apart() {
        let iptables =
            Iptables::new(Backend::Legacy, TIMEOUT).with_command("/nonexistent/iptables");
        let error = iptables.rules(Table::Nat, "OUTPUT").unwrap_err();
        assert!(matches!(error, Error::NotInstalled { .. }), "{error}");
    }
}
