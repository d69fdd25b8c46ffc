//! Redirects the pod's calls of the metadata address to its sidecar, proves it, and exits.
//!
//! The first init container of an injected pod. It either leaves the pod with a redirect that was
//! seen to work, or it fails and so keeps the pod from starting; there is nothing in between. The
//! reason and the remedy are one line on stderr and in the termination message.
//!
//! | exit status | meaning | remedy |
//! |---|---|---|
//! | 0 | redirect set and verified | |
//! | 64 | an argument is missing or wrong | correct the injector's settings |
//! | 69 | neither iptables-nft nor iptables-legacy works here | check the image and the node's kernel |
//! | 70 | a failure that should not happen | report it |
//! | 74 | the rules could not be written, or read back otherwise | see the message |
//! | 75 | the rules are there but connections do not arrive at the sidecar's port | look for other interception, or a missing route |
//! | 77 | the kernel refused | run as uid 0 with the capability NET_ADMIN (and NET_RAW for iptables-legacy) |
//! | 78 | this is the network namespace of the host | do not inject pods with hostNetwork |

mod args;
mod connections;
mod failure;
mod host;
mod rules;
mod setup;
mod verify;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Config};
use crate::failure::Failure;

/// The path of the termination message when the arguments that would tell it are wrong.
const DEFAULT_TERMINATION_LOG: &str = "/dev/termination-log";

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // --help and --version
        Err(answer) if !answer.use_stderr() => {
            return answer.print().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
        }
        Err(error) => {
            let reason = error.to_string();
            return fail(&Failure::Usage(reason), Path::new(DEFAULT_TERMINATION_LOG));
        }
    };
    let termination_log = args.termination_log.clone();
    match Config::try_from(args).and_then(|config| setup::run(&config)) {
        Ok(outcome) => {
            // a closed stdout must not undo what was achieved
            writeln!(io::stdout(), "{outcome}").ok();
            ExitCode::SUCCESS
        }
        Err(failure) => fail(&failure, &termination_log),
    }
}

/// Says why, to whoever looks where: `kubectl logs` and `kubectl describe pod`.
fn fail(failure: &Failure, termination_log: &Path) -> ExitCode {
    let line = failure.line();
    writeln!(io::stderr(), "{line}").ok();
    // kubelet has created it; where there is none, nobody reads it
    let written = File::options().write(true).truncate(true).open(termination_log);
    if let Err(error) = written.and_then(|mut file| file.write_all(line.as_bytes())) {
        let path = termination_log.display();
        writeln!(io::stderr(), "No termination message in {path}: {error}").ok();
    }
    ExitCode::from(failure.exit_status())
}
