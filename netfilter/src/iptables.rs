//! What callers do with iptables: look, bring a chain or a jump to what it should be, remove.
//!
//! Of the `iptables` crate only `execute` is used. Its other methods hide failures (`exists` and
//! `list` answer "no" and "nothing" when permission is denied), and its own `--wait` has no limit.

use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use crate::chain::{chains_of, rules_of};
use crate::process::{Program, arguments};
use crate::{Backend, Chain, Edit, Error, Jump, Table, legacy_in_use};

/// How often a jump is put back on top when others insert at the same moment.
const JUMP_ROUNDS: usize = 3;

/// One implementation of iptables, in the network namespace of the calling thread.
#[derive(Clone, Copy, Debug)]
pub struct Iptables {
    program: Program,
}

// === impl Iptables ===

impl Iptables {
    /// Nothing is run yet. No command may take longer than `timeout`.
    pub fn new(backend: Backend, timeout: Duration) -> Self {
        Self { program: Program { backend, command: backend.command(), timeout } }
    }

    /// The same, of the given implementation.
    pub fn with_backend(self, backend: Backend) -> Self {
        Self::new(backend, self.program.timeout)
    }

    /// The implementation that is run.
    pub fn backend(&self) -> Backend {
        self.program.backend
    }

    /// The chains of a table. A legacy table that nobody has created yet is not created by asking.
    pub fn chains(&self, table: Table) -> Result<BTreeSet<String>, Error> {
        if self.backend() == Backend::Legacy && !legacy_in_use(table) {
            return Ok(BTreeSet::new());
        }
        let listing = self.readable(table, "-S", "-P ")?;
        Ok(chains_of(&listing).map(str::to_owned).collect())
    }

    /// The rules of a built-in chain, first to last, up to the first that cannot be read.
    ///
    /// Others write there too, and a rule with an extension that this image does not have ends the
    /// listing. What is above it is certain, and that is where our jump has to be.
    pub fn look(&self, table: Table, built_in: &str) -> Result<Vec<String>, Error> {
        let listing =
            self.readable(table, &format!("-S {built_in}"), &format!("-P {built_in} "))?;
        Ok(rules_of(&listing, built_in))
    }

    /// The rules of a chain of ours that exists, first to last, as iptables prints them.
    pub fn rules(&self, table: Table, chain: &str) -> Result<Vec<String>, Error> {
        Ok(rules_of(&self.run(table, &format!("-S {chain}"))?, chain))
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
            let edits = jump.edits(&self.look(jump.table, jump.from)?);
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
        let found = self.look(jump.table, jump.from)?;
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
        let rules = self.look(jump.table, jump.from)?;
        let jumps: Vec<_> = jump.all_in(&rules).cloned().map(Edit::Delete).collect();
        self.edit(jump.table, jump.from, &jumps)?;
        self.run(jump.table, &format!("-F {}", jump.to))?;
        self.run(jump.table, &format!("-X {}", jump.to))?;
        Ok(true)
    }

    /// Runs one command and returns what it printed; any status but 0 is an error.
    fn run(&self, table: Table, command: &str) -> Result<String, Error> {
        let output = self.program.run(table, command)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.error(table, command, &output))
    }

    /// Runs a listing and returns its whole lines, even if it broke off after its `head`.
    fn readable(&self, table: Table, command: &str, head: &str) -> Result<String, Error> {
        let output = self.program.run(table, command)?;
        let mut listing = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(listing);
        }
        match self.error(table, command, &output) {
            Error::Failed { .. } if listing.starts_with(head) => {
                listing.truncate(listing.rfind('\n').map_or(0, |end| end + 1));
                Ok(listing)
            }
            error => Err(error),
        }
    }

    fn error(&self, table: Table, command: &str, output: &Output) -> Error {
        Error::of_output(self.backend(), &arguments(table, command), output)
    }

    /// The same, with another program; tests put a script there.
    #[cfg(test)]
    fn with_command(self, command: &'static str) -> Self {
        Self { program: Program { command, ..self.program } }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
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

    /// As iptables-nft prints when a foreign rule has an extension that is not in the image.
    #[test]
    fn what_is_above_a_foreign_rule_that_cannot_be_read_is_certain() {
        let ours = r#"echo '-A OUTPUT -m comment --comment "two words" -j OURS'"#;
        let broken = "echo '-P OUTPUT ACCEPT'; OURS; printf -- '-A OUTPUT'; \
                      echo 'match extension not found' >&2; exit 3";
        let (directory, iptables) = with(&broken.replace("OURS", ours));
        assert_eq!(iptables.sync_jump(&jump()).unwrap(), 0);
        iptables.check_jump(&jump()).unwrap();
        assert!(log(&directory).iter().all(|line| line.contains("-S")), "{:?}", log(&directory));

        let (_directory, iptables) = with(&broken.replace("OURS", ":"));
        assert_eq!(iptables.look(Table::Filter, "OUTPUT").unwrap(), [""; 0]);
        iptables.rules(Table::Filter, "OUTPUT").unwrap_err();
        iptables.check_jump(&jump()).unwrap_err();
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
        let iptables = Iptables {
            program: Program { timeout: Duration::from_millis(500), ..iptables.program },
        };
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
