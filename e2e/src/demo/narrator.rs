//! Prints the demo for somebody who sees the project for the first time: steps, the commands they
//! can type themselves, and what these answer.

use std::io::IsTerminal;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::exec;

/// Speaks to the person at the terminal.
pub(super) struct Narrator {
    step: usize,
    steps: usize,
    /// Escape sequences for bold, for a command, and for the end of either; empty in a file.
    style: [&'static str; 3],
}

/// What a command said.
pub(super) struct Answer {
    /// Whether it ended well.
    pub(super) ok: bool,
    /// Standard output and standard error.
    pub(super) text: String,
}

#[expect(clippy::print_stdout, reason = "the demo is what it prints")]
impl Narrator {
    pub(super) fn new(steps: usize) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let style = if terminal { ["\x1b[1m", "\x1b[36m", "\x1b[0m"] } else { [""; 3] };
        Self { step: 0, steps, style }
    }

    /// Begins the next step.
    pub(super) fn step(&mut self, title: &str) {
        self.step += 1;
        let [bold, _, end] = self.style;
        println!("\n{bold}── {}/{}  {title}{end}", self.step, self.steps);
    }

    /// A sentence.
    pub(super) fn say(&self, text: &str) {
        println!("   {text}");
    }

    /// Something that was read or answered, set apart.
    pub(super) fn show(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("     │ {line}");
        }
    }

    /// A command as it would be typed.
    pub(super) fn command(&self, line: &str) {
        let [_, command, end] = self.style;
        println!("   {command}$ {line}{end}");
    }

    /// Applies manifests and shows them.
    pub(super) async fn apply(&self, cluster: &Cluster, manifests: &[&str]) -> Result<()> {
        self.command("kubectl apply -f - <<EOF");
        let text = manifests.join("---\n");
        self.show(&text);
        self.feed(cluster, &text).await
    }

    /// Applies an object without showing all of it.
    pub(super) async fn create(&self, cluster: &Cluster, object: &Value) -> Result<()> {
        let (namespace, name) = (&object["metadata"]["namespace"], &object["metadata"]["name"]);
        self.say(&format!(
            "Creating pod {}/{} …",
            namespace.as_str().unwrap_or("default"),
            name.as_str().unwrap_or_default()
        ));
        self.feed(cluster, &object.to_string()).await
    }

    /// Runs kubectl, showing command and answer.
    pub(super) async fn kubectl(&self, cluster: &Cluster, line: &str) -> Result<()> {
        self.command(&format!("kubectl {line}"));
        let args: Vec<&str> = line.split(' ').collect();
        let answer = exec::output(&mut cluster.kubectl(&args)).await?;
        self.show(&answer);
        Ok(())
    }

    async fn feed(&self, cluster: &Cluster, manifest: &str) -> Result<()> {
        let mut command = cluster.kubectl(&["apply", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(manifest.as_bytes()).await.context("cannot speak to kubectl")?;
        }
        let output = child.wait_with_output().await.context("cannot wait for kubectl")?;
        self.show(&String::from_utf8_lossy(&output.stdout));
        if !output.status.success() {
            bail!("kubectl apply failed:\n{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

/// Runs to the end, whatever the end is.
pub(super) async fn answer(command: &mut Command) -> Result<Answer> {
    let output = command.output().await.context("cannot run a command of the demo")?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(Answer { ok: output.status.success(), text })
}
