//! Runs other programs to their end and turns a failure into a message that holds their last words.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// Folders that are searched besides `PATH`: administrators' tools are often not on a user's.
const EXTRA_PATH: [&str; 4] = ["/usr/local/go/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];
const TAIL_LINES: usize = 15;

/// A command with no standard input, found on `PATH` or in the folders for administrators.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path()).stdin(std::process::Stdio::null());
    command
}

/// Where the program of that name is, if anywhere.
#[must_use]
pub fn which(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path()).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// The caller's `PATH` with the folders for administrators behind it.
#[must_use]
pub fn search_path() -> String {
    let mut path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
    for dir in EXTRA_PATH {
        if !path.split(':').any(|present| present == dir) {
            path.push(':');
            path.push_str(dir);
        }
    }
    path
}

/// Runs to the end; its output is shown only if it fails.
pub async fn run(command: &mut Command) -> Result<()> {
    output(command).await.map(drop)
}

/// Runs to the end and returns standard output.
pub async fn output(command: &mut Command) -> Result<String> {
    let line = render(command);
    let output = command.output().await.with_context(|| format!("cannot run `{line}`"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let words = if stderr.trim().is_empty() { tail(&stdout) } else { tail(&stderr) };
        bail!("`{line}` failed ({}):\n{words}", output.status);
    }
    Ok(stdout)
}

/// Whether it ran and ended well; its words are dropped.
pub async fn succeeds(command: &mut Command) -> bool {
    command.output().await.is_ok_and(|output| output.status.success())
}

/// The last lines of a text, for an error message.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn render(command: &Command) -> String {
    let command = command.as_std();
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_carries_the_command_line_and_its_last_words() {
        let mut failing = command("sh");
        failing.args(["-c", "echo useless; echo the reason >&2; exit 3"]);
        let error = output(&mut failing).await.unwrap_err().to_string();
        assert!(error.contains("sh -c"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("the reason"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = run(&mut command("no-such-program-here")).await.unwrap_err();
        assert!(format!("{error:#}").contains("cannot run `no-such-program-here`"), "{error:#}");
    }

    #[test]
    fn tail_keeps_the_end() {
        let text: String = (0..100).map(|line| format!("{line}\n")).collect();
        let tail = tail(&text);
        assert!(tail.starts_with("85\n") && tail.ends_with("99"), "{tail}");
    }
}
