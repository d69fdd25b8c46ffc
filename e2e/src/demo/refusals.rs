//! Those who get no token, and what they are told.

use anyhow::{Result, bail};
use serde_json::json;

use super::narrator::answer;
use super::{Demo, POD, demo_pod};

const NO_IDENTITY: &str = "nobody";
const PLAIN_NAMESPACE: &str = "plain";
const URL: &str = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";

pub(super) async fn run(demo: &mut Demo<'_>) -> Result<()> {
    demo.narrator.step("Who gets nothing");

    demo.narrator.say(
        "A pod whose label no binding selects (it is told after the start-up gate, here 2 s):",
    );
    let mut pod = demo_pod("default", "unbound", Some(NO_IDENTITY));
    pod["metadata"]["annotations"] = json!({"aadpodidentity.k8s.io/gate-timeout": "2s"});
    demo.start(&pod).await?;
    refused(demo, "default", "unbound", "", "Identity not found").await?;

    demo.narrator.say("A client id that is not bound to the pod:");
    let other = "&client_id=20000000-0000-0000-0000-000000000002";
    refused(demo, "default", POD, other, "Identity not found").await?;

    demo.narrator.say("A pod that is not injected: the guard of the node refuses its connection.");
    let namespace = format!("create namespace {PLAIN_NAMESPACE}");
    // It is there already at a second run.
    drop(demo.narrator.kubectl(demo.cluster, &namespace).await);
    demo.start(&demo_pod(PLAIN_NAMESPACE, "uninjected", None)).await?;
    refused(demo, PLAIN_NAMESPACE, "uninjected", "", "").await
}

/// Asks for a token, shows what is said, and fails if that is a token.
async fn refused(
    demo: &Demo<'_>,
    namespace: &str,
    pod: &str,
    selector: &str,
    expected: &str,
) -> Result<()> {
    let line = format!("curl '{URL}{selector}' -H Metadata:true -sS");
    demo.narrator.command(&line);
    let args = ["-n", namespace, "exec", pod, "-c", "app", "--", "bash", "-c", &line];
    let answer = answer(&mut demo.cluster.kubectl(&args)).await?;
    demo.narrator.show(&answer.text);
    if answer.text.contains("access_token") {
        bail!("this pod must not get a token");
    }
    let as_expected = if expected.is_empty() { !answer.ok } else { answer.text.contains(expected) };
    if !as_expected {
        bail!("the answer is not the documented one");
    }
    Ok(())
}
