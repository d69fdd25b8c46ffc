//! The chart renders to what the golden files say (`UPDATE_GOLDEN=1` refreshes them), passes
//! `helm lint`, and refuses values that cannot work.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::PathBuf;
use std::process::{Command, Output};

use e2e::paths::Cache;
use e2e::progress::Progress;
use e2e::release;
use e2e::tools::control_plane::ControlPlane;

/// What every rendering needs.
const BASE: &[&str] = &["--set", "image.registry=registry.example/pod-identity-sidecar"];

/// Nothing else differs from the other cases.
const CONTROLLER: &str = "--show-only=templates/controller/deployment.yaml";

const CASES: [(&str, &[&str]); 6] = [
    ("default", &[]),
    (
        "custom-cloud",
        &[
            "--set=cloud.name=Custom,cloud.authorityHost=https://login.example",
            "--set=cloud.resourceManager=https://arm.example",
            "--set=cloud.caBundle=PEM,azure.federationAudience=api://stack",
            "--set=azure.credential=servicePrincipal,azure.existingSecret=sp",
            "--set=azure.clientID=00000000-0000-0000-0000-000000000001,azure.tenantID=contoso",
            "--set=nmiHost.allowAccessToSecrets=true",
            "--set=nmiHost.allowedAuthorityHosts={login.other.example,login.example:8443}",
        ],
    ),
    ("azure-json", &["--set=azure.credential=cloudConfig", "--set=forceNamespaced=true"]),
    (
        "certificate",
        &[
            "--set=azure.credential=servicePrincipal,azure.existingSecret=sp",
            "--set=azure.useCertificate=true,azure.tenantID=contoso",
            "--set=azure.clientID=00000000-0000-0000-0000-000000000001",
            CONTROLLER,
        ],
    ),
    (
        "azure-json-directory",
        &["--set=azure.credential=cloudConfig,azure.cloudConfigMount=Directory", CONTROLLER],
    ),
    (
        "minimal",
        &[
            "--set=webhook.replicas=1,controller.replicas=1",
            "--set=sidecar.federatedToken=false",
            "--set=injection.warmUp={https://vault.azure.net,https://storage.azure.com/}",
            "--set=nmiHost.nodeGuard=false,nmiHost.hostEndpoint=false,userFacingRoles=true",
            "--set=nmiHost.federatedToken=false,cloud.name=AzureChinaCloud",
            "--set=azure.credential=workloadIdentity,azure.tenantID=contoso",
            "--set=azure.clientID=00000000-0000-0000-0000-000000000001",
        ],
    ),
];

/// Values that must not get as far as a cluster, and what the person is told.
const REFUSED: [(&[&str], &str); 16] = [
    (
        &[
            "--set=azure.credential=servicePrincipal,azure.useCertificate=true",
            "--set=azure.clientID=00000000-0000-0000-0000-000000000001,azure.tenantID=contoso",
        ],
        "name a Secret with the key certificate",
    ),
    (
        &[
            "--set=azure.credential=servicePrincipal,azure.tenantID=contoso",
            "--set=azure.clientID=00000000-0000-0000-0000-000000000001",
        ],
        "name a Secret with the key clientSecret",
    ),
    (
        &[
            "--set=azure.credential=cloudConfig,azure.cloudConfigMount=Directory",
            "--set=azure.cloudConfigPath=/etc/azure.json",
        ],
        "would mount /etc of the node",
    ),
    (&["--set=azure.cloudConfigMount=Node"], "cloudConfigMount"),
    (&["--set=image.registry="], "image.registry is empty"),
    (&["--set=webhook.replica=3"], "replica"),
    (&["--set=forceNamespaced=yes"], "forceNamespaced"),
    (&["--set=cloud.name=AzureGermanCloud"], "/cloud/name"),
    (&["--set=cloud.name=Custom"], "authorityHost"),
    (&["--set=injection.gateTimeout=soon"], "gateTimeout"),
    (&["--set=azure.clientID=kubelet"], "clientID"),
    (&["--set=nmiHost.allowAccessToSecrets=yes"], "allowAccessToSecrets"),
    (&["--set=nmiHost.allowedAuthorityHosts={https://x}"], "allowedAuthorityHosts"),
    (&["--set=azure.federationAudience=a b"], "federationAudience"),
    (&["--set=injection.warmUp={a b}"], "warmUp"),
    (&["--set=sidecar.federatedToken=yes"], "federatedToken"),
];

async fn helm(args: &[&str]) -> Output {
    let cache = Cache::locate().unwrap();
    let programs = ControlPlane::ensure(&cache, &Progress::to_stderr()).await.unwrap();
    let mut command = Command::new(programs.program("helm"));
    command.args(args).args(BASE).output().unwrap()
}

async fn render(args: &[&str]) -> Output {
    let chart = release::chart();
    let head = ["template", "pis", chart.to_str().unwrap(), "--namespace=pis-system"];
    let tail = ["--kube-version=1.34.0"];
    let all: Vec<&str> = head.into_iter().chain(tail).chain(BASE.iter().copied()).collect();
    let cache = Cache::locate().unwrap();
    let programs = ControlPlane::ensure(&cache, &Progress::to_stderr()).await.unwrap();
    Command::new(programs.program("helm")).args(all).args(args).output().unwrap()
}

#[tokio::test]
async fn renderings_are_the_golden_ones() {
    for (case, args) in CASES {
        let output = render(args).await;
        assert!(output.status.success(), "{case}: {}", String::from_utf8_lossy(&output.stderr));
        let rendered = String::from_utf8(output.stdout).unwrap();
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(format!("chart-{case}.yaml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &rendered).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert!(rendered == expected, "{} differs: run `make golden`", golden.display());
    }
}

#[tokio::test]
async fn the_chart_passes_lint() {
    let chart = release::chart();
    let args = ["lint", "--strict", chart.to_str().unwrap(), "--kube-version=1.34.0"];
    let output = helm(&args).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn values_that_cannot_work_are_refused() {
    for (args, expected) in REFUSED {
        let output = render(args).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{args:?} was accepted");
        assert!(error.contains(expected), "{args:?}: {error}");
    }
}
