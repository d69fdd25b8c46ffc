//! The endpoint of the node agent for processes of its node, asked as a driver there asks it.

use std::time::Duration;

use crate::env::{env, eventually};
use crate::namespace::{Answer, Namespace, parse};

const LIMIT: Duration = Duration::from_secs(60);

/// Asks on a node with these headers. Like drivers it comes back when the agent is not there: another
/// test may just have asked for its restart.
pub(crate) async fn ask(node: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: String =
        headers.iter().map(|(name, value)| format!(" -H '{name}: {value}'")).collect();
    let command = format!(
        "curl -sS 'http://127.0.0.1:2579/host/token/?resource=https://vault.azure.net'{headers} -w '\\n%{{http_code}}'"
    );
    eventually("the agent of the node answers", LIMIT, async || {
        let text = env().await.on_node(node, &command).await.ok()?;
        let answer = parse(&text);
        (!matches!(answer, Answer::Http(503, _))).then_some(answer)
    })
    .await
}

/// Asks for a pod's token on the node that the pod is on.
pub(crate) async fn ask_for(space: &Namespace, pod: &str) -> Answer {
    ask(&space.node_of(pod).await, &[("podns", &space.name), ("podname", pod)]).await
}
