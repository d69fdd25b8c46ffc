//! The product on the local cluster: its chart, installed with the images of this checkout and
//! pointed at fake Azure.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::exec;
use crate::images::Built;

/// Name of the release, and prefix of its objects.
pub const NAME: &str = "pod-identity-sidecar";
/// Namespace of the release.
pub const NAMESPACE: &str = "pod-identity-system";

/// Client id of the scale set's own identity in fake Azure: what the controller signs in with.
const NODE_IDENTITY: &str = "20000000-0000-0000-0000-000000000004";
/// Client id of an identity that stays attached, for the test that says so.
pub const IMMUTABLE: &str = "2a000000-0000-0000-0000-000000000160";
const ENTRA: &str = "https://10.77.0.254:8443";
const ARM: &str = "https://10.77.0.254:9443";

/// Folder of the chart in this checkout.
#[must_use]
pub fn chart() -> PathBuf {
    let checkout =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(1).unwrap_or(Path::new("."));
    checkout.join("charts").join(NAME)
}

/// Helm's arguments for installing, or bringing up to date, the release.
pub fn install_args(cluster: &Cluster, images: &[Built]) -> Result<Vec<String>> {
    let values = cluster.state().root().join("values.json");
    let ca = std::fs::read_to_string(cluster.fake_azure_ca())
        .context("fake Azure has written no CA certificate")?;
    std::fs::write(&values, serde_json::to_vec_pretty(&self::values(&ca, images))?)
        .with_context(|| format!("cannot write {}", values.display()))?;
    let chart = chart();
    let args = ["upgrade", "--install", NAME, path(&chart)?, "--namespace", NAMESPACE];
    let more = ["--create-namespace", "--skip-crds", "--wait", "--timeout", "3m", "--values"];
    Ok(args.into_iter().chain(more).chain([path(&values)?]).map(str::to_owned).collect())
}

/// Installs the release, or brings it up to date, and waits until it is ready.
pub async fn install(cluster: &Cluster, images: &[Built]) -> Result<()> {
    apply_crds(cluster).await?;
    let args = install_args(cluster, images)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    exec::run(&mut cluster.helm(&args)).await.context("the chart did not become ready")
}

/// Helm installs the definitions once and never changes them: an upgrade needs this.
pub async fn apply_crds(cluster: &Cluster) -> Result<()> {
    let crds = chart().join("crds");
    let args = ["apply", "--server-side", "--force-conflicts", "-f", path(&crds)?];
    exec::run(&mut cluster.kubectl(&args)).await?;
    let wait = ["wait", "--for=condition=Established", "--timeout=30s", "-f", path(&crds)?];
    exec::run(&mut cluster.kubectl(&wait)).await
}

fn values(ca: &str, images: &[Built]) -> Value {
    // A tag says nothing about its content: what the pods were made from does.
    let made_from = |part: &str| {
        let key = images.iter().find(|image| image.name == part).map(|image| image.key.as_str());
        json!({"pod-identity-sidecar.local/image": key.unwrap_or_default()})
    };
    json!({
        "image": {"registry": "localhost/pod-identity-sidecar", "tag": "dev", "pullPolicy": "Never"},
        "cloud": {
            "name": "Custom",
            "authorityHost": ENTRA,
            "resourceManager": ARM,
            "caBundle": ca,
        },
        "azure": {"credential": "managedIdentity", "clientID": NODE_IDENTITY},
        // Short, so that a person at the demo and a test see what it does.
        "controller": {
            "detachLinger": "5s",
            "recheckInterval": "15s",
            "immutableIdentities": [IMMUTABLE],
            "podAnnotations": made_from("controller"),
        },
        "webhook": {"podAnnotations": made_from("webhook")},
        "nmiHost": {"allowAccessToSecrets": true, "podAnnotations": made_from("nmi-host")},
    })
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
