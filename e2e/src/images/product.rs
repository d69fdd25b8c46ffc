//! The product's own images: static programs from scratch, with CA roots, and iptables where needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::files::Fingerprint;
use crate::images::Built;
use crate::images::buildah::Recipe;
use crate::images::iptables;
use crate::paths::{self, Cache};
use crate::progress::Progress;

const TARGET: &str = "x86_64-unknown-linux-musl";
/// Debian's bundle of CA certificates.
pub(super) const CA_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A part of the product that runs from an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// Admission.
    Webhook,
    /// Assigns identities.
    Controller,
    /// Node agent.
    NmiHost,
    /// In every pod.
    NmiSidecar,
    /// Sets the redirect.
    InitRedirect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BaseLayer {
    Empty,
    Iptables,
}

impl Component {
    /// All five.
    pub const ALL: [Self; 5] =
        [Self::Webhook, Self::Controller, Self::NmiHost, Self::NmiSidecar, Self::InitRedirect];

    /// Name of the package, the program and the image.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Controller => "controller",
            Self::NmiHost => "nmi-host",
            Self::NmiSidecar => "nmi-sidecar",
            Self::InitRedirect => "init-redirect",
        }
    }

    fn base(self) -> BaseLayer {
        match self {
            Self::NmiHost | Self::InitRedirect => BaseLayer::Iptables,
            Self::Webhook | Self::Controller | Self::NmiSidecar => BaseLayer::Empty,
        }
    }

    fn is_in_pods(self) -> bool {
        matches!(self, Self::NmiSidecar | Self::InitRedirect)
    }
}

/// Compiles these components and builds those images whose inputs changed.
pub(super) async fn build(
    components: &[Component],
    cache: &Cache,
    progress: &Progress,
) -> Result<Vec<Built>> {
    // What runs in every pod is compiled apart: together with the others it would get the features
    // of its libraries that only they use, and be larger for it.
    let (in_pods, others): (Vec<Component>, Vec<Component>) =
        components.iter().partition(|component| component.is_in_pods());
    for group in [others, in_pods].iter().filter(|group| !group.is_empty()) {
        let names: Vec<_> = group.iter().map(|component| component.name()).collect();
        compile(&names, progress).await?;
    }
    let needs_iptables = components.iter().any(|component| component.base() == BaseLayer::Iptables);
    let iptables = if needs_iptables { Some(iptables::Base::find().await?) } else { None };
    let mut built = Vec::new();
    for component in components {
        let base = iptables.as_ref().filter(|_| component.base() == BaseLayer::Iptables);
        built.push(assemble(*component, base, cache, progress).await?);
    }
    Ok(built)
}

/// The image of the pause program.
pub(super) async fn build_pause(
    program: &Path,
    cache: &Cache,
    progress: &Progress,
) -> Result<Built> {
    let inputs = Fingerprint::default().with_file("program", program)?.short();
    let recipe = Recipe { name: "pause", inputs };
    recipe
        .ensure(cache, progress, async |context: &Path| copy(program, &context.join("pause")))
        .await
}

async fn assemble(
    component: Component,
    iptables: Option<&iptables::Base>,
    cache: &Cache,
    progress: &Progress,
) -> Result<Built> {
    let program = program(component.name())?;
    let mut inputs = Fingerprint::default()
        .with_file("program", &program)?
        .with_file("ca roots", Path::new(CA_ROOTS))?;
    if let Some(base) = iptables {
        inputs = inputs.with("iptables", base.fingerprint()?);
    }
    let recipe = Recipe { name: component.name(), inputs: inputs.short() };
    let stage = async |context: &Path| {
        copy(&program, &context.join(component.name()))?;
        copy(Path::new(CA_ROOTS), &context.join("ca-certificates.crt"))?;
        iptables.map_or(Ok(()), |base| base.copy_to(&context.join("iptables")))
    };
    recipe.ensure(cache, progress, stage).await
}

/// Compiles packages of this workspace whose programs have the same names, in one cargo call, so
/// that what they share is compiled once.
pub(super) async fn compile(names: &[&str], progress: &Progress) -> Result<()> {
    let Some(cargo) = exec::which("cargo") else {
        bail!("there is no cargo: install Rust with rustup and put it on PATH");
    };
    progress.step(format!("compiling for {TARGET}: {}", names.join(" ")));
    let mut command = exec::command(cargo);
    command.current_dir(paths::workspace()).env("CC_x86_64_unknown_linux_musl", "musl-gcc");
    command.args(["build", "--release", "--target", TARGET]);
    for name in names {
        command.args(["--package", name, "--bin", name]);
    }
    command.stdout(Stdio::null());
    progress
        .watch("compiling", exec::run(&mut command))
        .await
        .with_context(|| format!("cannot compile {}", names.join(" ")))
}

/// Where the compiled program of a package is.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| paths::workspace().join("target"), PathBuf::from);
    let program = target.join(TARGET).join("release").join(name);
    if !program.is_file() {
        bail!("{} is missing after a build that went well", program.display());
    }
    Ok(program)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_has_a_dockerfile_that_runs_its_program_from_scratch() {
        for component in Component::ALL {
            let name = component.name();
            let file = paths::workspace().join("images").join(format!("{name}.Dockerfile"));
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.contains("FROM scratch"), "{name}");
            assert!(text.contains(&format!("ENTRYPOINT [\"/{name}\"]")), "{name}");
            assert!(text.contains("/etc/ssl/certs/ca-certificates.crt"), "{name}");
            let has_iptables = text.contains("COPY iptables/ /");
            assert_eq!(has_iptables, component.base() == BaseLayer::Iptables, "{name}");
            let user = if has_iptables { "USER 0:0" } else { "USER 65532:65532" };
            assert!(text.contains(user), "{name}");
        }
    }
}
