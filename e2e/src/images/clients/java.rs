//! Applications in Java: a runtime cut from this machine's JDK, the libraries that it is linked
//! with, and Maven's packages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Client;
use crate::exec;
use crate::images::buildah::Recipe;
use crate::images::{Built, libraries};
use crate::paths::Cache;
use crate::progress::Progress;

const COPY_DEPENDENCIES: &str =
    "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";
/// What the libraries use. Not java.desktop, which would bring a window system along.
const MODULES: &str = "java.base,java.logging,java.management,java.naming,java.net.http,\
    java.security.jgss,java.sql,java.xml,jdk.crypto.ec,jdk.unsupported";
/// The language is that of Java 17, whatever newer JDK compiles it.
const RELEASE: &str = "17";

pub(super) async fn build(cache: &Cache, progress: &Progress) -> Result<Built> {
    let client = Client::Java;
    let jdk = exec::output(exec::command("javac").arg("--version")).await?;
    let inputs = client.fingerprint()?.with("jdk", jdk).with("modules", MODULES).short();
    let stage = async |context: &Path| {
        let root = context.join("root");
        let application = root.join("client");
        progress.watch("installing Maven packages", packages(&application)).await?;
        progress.watch("compiling", compile(&application)).await?;
        progress.watch("making a Java runtime", runtime(&root)).await
    };
    Recipe { name: client.name(), inputs }.ensure(cache, progress, stage).await
}

async fn packages(to: &Path) -> Result<()> {
    let mut command = exec::command("mvn");
    command
        .args(["--quiet", "--batch-mode", "--file"])
        .arg(Client::Java.source().join("pom.xml"))
        .arg(COPY_DEPENDENCIES)
        .arg("-DincludeScope=runtime")
        .arg(format!("-DoutputDirectory={}", to.display()));
    exec::run(&mut command).await.context("cannot install the Maven packages")
}

async fn compile(application: &Path) -> Result<()> {
    let mut command = exec::command("javac");
    command.args(["--release", RELEASE, "-proc:none", "-classpath"]);
    command.arg(application.join("*")).arg("-d").arg(application);
    command.arg(Client::Java.source().join("Client.java"));
    exec::run(&mut command).await.context("cannot compile the client")
}

async fn runtime(root: &Path) -> Result<()> {
    let jre = root.join("jre");
    let mut command = exec::command("jlink");
    command
        .args(["--add-modules", MODULES, "--strip-java-debug-attributes"])
        .args(["--no-header-files", "--no-man-pages", "--output"])
        .arg(&jre);
    exec::run(&mut command).await.context("cannot make a Java runtime")?;
    // Its own classes, ready to be mapped: half of what a short run costs.
    let mut share = exec::command(jre.join("bin/java"));
    exec::run(share.arg("-Xshare:dump")).await.context("cannot share the runtime's classes")?;
    let mut linked = vec![jre.join("bin/java")];
    for folder in ["lib", "lib/server"] {
        linked.extend(shared_objects(&jre.join(folder))?);
    }
    libraries::copy_below(root, &libraries::needed_by(&linked).await?)
}

fn shared_objects(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|suffix| suffix == "so")).collect())
}
