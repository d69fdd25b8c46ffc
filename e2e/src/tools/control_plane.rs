//! Builds Kubernetes, etcd and Helm from their Go modules, once per version, into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::files::Fingerprint;
use crate::lock::Lock;
use crate::paths::{self, Cache};
use crate::progress::Progress;

/// A Go module of this repository that names programs to build.
#[derive(Clone, Copy, Debug)]
struct Module {
    /// Folder below `e2e/control-plane`.
    name: &'static str,
    /// The module whose version the programs report, and the variables that tell them.
    version: Option<Version>,
    programs: &'static [Program],
}

#[derive(Clone, Copy, Debug)]
struct Version {
    module: &'static str,
    variable: &'static str,
    major_minor: Option<(&'static str, &'static str)>,
}

#[derive(Clone, Copy, Debug)]
struct Program {
    name: &'static str,
    package: &'static str,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program { name, package }
}

const MODULES: [Module; 4] = [
    Module {
        name: "kubernetes",
        // Without these the API server and Helm's checks see v0.0.0.
        version: Some(Version {
            module: "k8s.io/kubernetes",
            variable: "k8s.io/component-base/version.gitVersion",
            major_minor: Some((
                "k8s.io/component-base/version.gitMajor",
                "k8s.io/component-base/version.gitMinor",
            )),
        }),
        programs: &[
            program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            program("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            program("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
    },
    Module {
        name: "etcd",
        version: None,
        programs: &[program("etcd", "go.etcd.io/etcd/server/v3")],
    },
    Module {
        name: "helm",
        version: Some(Version {
            module: "helm.sh/helm/v3",
            variable: "helm.sh/helm/v3/internal/version.version",
            major_minor: None,
        }),
        programs: &[program("helm", "helm.sh/helm/v3/cmd/helm")],
    },
    Module { name: "pause", version: None, programs: &[program("pause", ".")] },
];

/// Where the built programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    programs: Vec<(&'static str, PathBuf)>,
}

impl ControlPlane {
    /// Builds what is missing and says where everything is.
    pub async fn ensure(cache: &Cache, progress: &Progress) -> Result<Self> {
        let Some(go) = exec::which("go") else {
            bail!(
                "Kubernetes is built from source and there is no Go: install Go 1.24 or newer and put it on PATH"
            );
        };
        let toolchain = exec::output(exec::command(&go).arg("version")).await?;
        let mut programs = Vec::new();
        for module in &MODULES {
            let build = Build::plan(module, &go, &toolchain, cache)?;
            build.ensure(progress).await?;
            programs.extend(module.programs.iter().map(|p| (p.name, build.output.join(p.name))));
        }
        Ok(Self { programs })
    }

    /// The path of one of the programs.
    #[must_use]
    #[expect(clippy::expect_used, reason = "callers name programs of the table above")]
    pub fn program(&self, name: &str) -> &Path {
        let found = self.programs.iter().find(|(known, _)| *known == name);
        &found.expect("a program of the control plane").1
    }
}

/// One module's build, decided before anything runs.
struct Build<'a> {
    module: &'a Module,
    go: &'a Path,
    source: PathBuf,
    ldflags: String,
    output: PathBuf,
}

impl<'a> Build<'a> {
    fn plan(module: &'a Module, go: &'a Path, toolchain: &str, cache: &Cache) -> Result<Self> {
        let source = paths::workspace().join("e2e/control-plane").join(module.name);
        let go_mod = fs::read_to_string(source.join("go.mod"))
            .with_context(|| format!("{} holds no Go module", source.display()))?;
        let ldflags = ldflags(module, &go_mod)?;
        let mut key = Fingerprint::default().with("go", toolchain).with("ldflags", &ldflags);
        for name in source_files(&source)? {
            key = key.with_file(&name, &source.join(&name))?;
        }
        let output = cache.control_plane().join(format!("{}-{}", module.name, key.short()));
        Ok(Self { module, go, source, ldflags, output })
    }

    async fn ensure(&self, progress: &Progress) -> Result<()> {
        let is_missing = |program: &&Program| !self.output.join(program.name).is_file();
        if !self.module.programs.iter().any(|program| is_missing(&program)) {
            return Ok(());
        }
        let lock = self.output.join(".lock");
        let _lock = Lock::take(&lock, "building the control plane", progress).await?;
        for program in self.module.programs.iter().filter(is_missing) {
            self.build(program, progress).await?;
        }
        Ok(())
    }

    /// Builds beside the target and renames, so that a program that is there is whole.
    async fn build(&self, program: &Program, progress: &Progress) -> Result<()> {
        let begun = Instant::now();
        progress.step(format!("building {} from source (once per version)", program.name));
        let temporary = self.output.join(format!(".{}.new", program.name));
        let mut command = exec::command(self.go);
        command
            .current_dir(&self.source)
            .env("CGO_ENABLED", "0")
            .args(["build", "-trimpath", "-ldflags", &self.ldflags, "-o"])
            .arg(&temporary)
            .arg(program.package)
            .kill_on_drop(true);
        progress
            .watch(&format!("building {}", program.name), exec::run(&mut command))
            .await
            .with_context(|| format!("cannot build {}", program.name))?;
        fs::rename(&temporary, self.output.join(program.name))
            .with_context(|| format!("cannot put {} into the cache", program.name))?;
        progress.step(format!("built {} in {} s", program.name, begun.elapsed().as_secs()));
        Ok(())
    }
}

/// Everything that the build reads from this repository.
fn source_files(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let name = |entry: fs::DirEntry| entry.file_name().to_str().map(str::to_owned);
    let is_source =
        |name: &String| matches!(name.as_str(), "go.mod" | "go.sum") || name.ends_with(".go");
    let mut names: Vec<_> = entries.flatten().filter_map(name).filter(is_source).collect();
    names.sort();
    Ok(names)
}

fn ldflags(module: &Module, go_mod: &str) -> Result<String> {
    let mut flags = "-s -w".to_owned();
    let Some(version) = module.version else { return Ok(flags) };
    let required = required_version(go_mod, version.module).with_context(|| {
        format!("go.mod of {} does not require {}", module.name, version.module)
    })?;
    flags.push_str(&format!(" -X {}={required}", version.variable));
    if let Some((major_variable, minor_variable)) = version.major_minor {
        let mut parts = required.trim_start_matches('v').split('.');
        let (Some(major), Some(minor)) = (parts.next(), parts.next()) else {
            bail!("{required} of {} is no version", version.module);
        };
        flags.push_str(&format!(" -X {major_variable}={major} -X {minor_variable}={minor}"));
    }
    Ok(flags)
}

fn required_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let line = line.trim();
        let mut words = line.strip_prefix("require ").unwrap_or(line).split_whitespace();
        (words.next() == Some(module)).then(|| words.next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_MOD: &str = "module x\n\nrequire (\n\tk8s.io/api v0.34.4 // indirect\n\tk8s.io/kubernetes v1.34.4 // indirect\n)\n\nreplace k8s.io/api => k8s.io/api v0.34.4\n";

    #[test]
    fn the_version_that_is_required_is_the_one_that_is_reported() {
        let flags = ldflags(&MODULES[0], GO_MOD).unwrap();
        assert_eq!(
            flags,
            "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34"
        );
        assert_eq!(ldflags(&MODULES[1], "").unwrap(), "-s -w");
        assert!(ldflags(&MODULES[2], GO_MOD).is_err());
        assert_eq!(required_version("require a.b/c v1.2.3", "a.b/c"), Some("v1.2.3"));
    }

    #[test]
    fn the_modules_in_this_repository_can_be_planned() {
        let cache = Cache::at("/cache".into());
        for module in &MODULES {
            let plan = Build::plan(module, Path::new("go"), "go1.26", &cache).unwrap();
            assert!(plan.output.starts_with("/cache/control-plane"), "{:?}", plan.output);
        }
    }

    #[test]
    fn another_toolchain_is_another_folder() {
        let cache = Cache::at("/cache".into());
        let plan = |go| Build::plan(&MODULES[3], Path::new("go"), go, &cache).unwrap().output;
        assert_eq!(plan("go1.26.0"), plan("go1.26.0"));
        assert_ne!(plan("go1.26.0"), plan("go1.26.1"));
    }

    #[tokio::test]
    async fn a_program_is_built_once_and_again_when_it_is_gone() {
        if exec::which("go").is_none() {
            eprintln!("no Go here: nothing to build with");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().into());
        let go = exec::which("go").unwrap();
        let build = Build::plan(&MODULES[3], &go, "test", &cache).unwrap();
        build.ensure(&Progress::silent()).await.unwrap();
        let pause = build.output.join("pause");
        let built = || fs::metadata(&pause).unwrap().modified().unwrap();
        let first = built();
        build.ensure(&Progress::silent()).await.unwrap();
        assert_eq!(built(), first);
        fs::remove_file(&pause).unwrap();
        build.ensure(&Progress::silent()).await.unwrap();
        assert!(built() > first);
    }
}
