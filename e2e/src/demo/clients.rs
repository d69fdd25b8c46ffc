//! Three clients that know nothing of the project: curl in a pod, Azure's SDK for Python, and a
//! process on the node.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{Demo, POD};
use crate::{claims, exec, pods};

/// As the documentation of NMI has it.
const IN_POD: &str = "curl 'http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F' -H Metadata:true -s";

/// As the documentation of NMI has it.
const ON_NODE: &str = "curl http://127.0.0.1:2579/host/token/?resource=https://vault.azure.net -H \"podname: nginx-flex-kv-int\" -H \"podns: default\"";

const PYTHON: &str = "\
from azure.identity import DefaultAzureCredential

token = DefaultAzureCredential().get_token('https://vault.azure.net/.default')
print(token.token)
";

const DEMO_CLIENT: &str = "20000000-0000-0000-0000-000000000001";

pub(super) async fn run(demo: &mut Demo<'_>) -> Result<()> {
    demo.narrator.step("Three clients get a token");
    in_pod(demo).await.context("curl in the pod")?;
    python(demo).await.context("the Python application")?;
    on_node(demo).await.context("the host endpoint")
}

async fn in_pod(demo: &Demo<'_>) -> Result<()> {
    demo.narrator.say("1. curl in the pod, as in the documentation of AAD Pod Identity:");
    demo.narrator.command(IN_POD);
    let args = ["exec", POD, "-c", "app", "--", "bash", "-c", IN_POD];
    let answer = exec::output(&mut demo.cluster.kubectl(&args)).await?;
    let body: Value =
        serde_json::from_str(&answer).with_context(|| format!("not JSON: {answer}"))?;
    show_token(demo, &body)
}

async fn python(demo: &Demo<'_>) -> Result<()> {
    demo.narrator
        .say("2. An application in Python, with Azure's SDK and its DefaultAzureCredential:");
    demo.narrator.show(PYTHON);
    let mut pod =
        pods::bound(pods::client("default", "python-app", &["python3", "-c", PYTHON]), "select_it");
    pod["metadata"]["labels"]["demo"] = json!("yes");
    demo.narrator.create(demo.cluster, &pod).await?;
    let wait =
        ["wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s", "pod/python-app"];
    let ended = exec::run(&mut demo.cluster.kubectl(&wait)).await;
    let logs =
        exec::output(&mut demo.cluster.kubectl(&["logs", "python-app", "-c", "app"])).await?;
    ended.with_context(|| {
        format!("the application did not succeed; it says:\n{}", exec::tail(&logs))
    })?;
    demo.narrator.say("It printed a token with these claims:");
    show_claims(demo, logs.trim())
}

async fn on_node(demo: &Demo<'_>) -> Result<()> {
    demo.narrator
        .say("3. A process on the node (a CSI driver, a FlexVolume) asks for the pod's token:");
    demo.narrator.command(ON_NODE);
    let args = ["get", "pod", POD, "-o", "jsonpath={.spec.nodeName}"];
    let name = exec::output(&mut demo.cluster.kubectl(&args)).await?;
    let node = demo.cluster.nodes().iter().find(|node| node.name() == name);
    let node = node.with_context(|| format!("the pod is on no node of the cluster: {name:?}"))?;
    let mut command = demo.cluster.in_node(node, "bash");
    let answer = exec::output(command.args(["-c", &format!("{ON_NODE} -s")])).await?;
    let body: Value =
        serde_json::from_str(&answer).with_context(|| format!("not JSON: {answer}"))?;
    let client = body["clientid"].as_str().with_context(|| format!("no token in {body}"))?;
    demo.narrator.show(&format!("clientid: {client}"));
    show_token(demo, &body["token"])
}

/// The answer without the token, and what the token says.
fn show_token(demo: &Demo<'_>, body: &Value) -> Result<()> {
    let token = body["access_token"].as_str().with_context(|| format!("no token in {body}"))?;
    let mut rest = body.clone();
    rest["access_token"] = json!(format!("… {} bytes …", token.len()));
    demo.narrator.show(&rest.to_string());
    demo.narrator.say("The token's claims:");
    show_claims(demo, token)
}

fn show_claims(demo: &Demo<'_>, token: &str) -> Result<()> {
    let claims = claims::decode(token)?;
    demo.narrator.show(&claims::summary(&claims));
    if claims["appid"] != DEMO_CLIENT {
        bail!("this is not the token of the identity that was bound: {}", claims["appid"]);
    }
    Ok(())
}
