//! What `kubectl get azureidentityattachments` says of a host: that it works, or what does not and
//! when it is tried again.

use std::time::Duration;

use e2e::release;
use serde_json::{Value, json};

use crate::env::{Env, MACHINE, env, eventually};
use crate::namespace::Namespace;

/// Other tests' identities fail on the same host for a while.
const LIMIT: Duration = Duration::from_secs(150);
const RECORDS: [&str; 3] = ["-n", release::NAMESPACE, "azureidentityattachments"];

/// The record of the machine, if there is one.
async fn record(env: &Env) -> Option<Value> {
    let all = env.get(&RECORDS).await["items"].as_array().cloned().unwrap();
    let of = |host: &str| host.eq_ignore_ascii_case(MACHINE);
    all.into_iter().find(|record| record["spec"]["host"].as_str().is_some_and(of))
}

/// The line that people see of the machine, by column.
async fn line(env: &Env) -> Option<Vec<(String, String)>> {
    let table = env.kubectl(&[&["get"], &RECORDS[..]].concat()).await.unwrap();
    let mut lines = table.lines();
    let head = lines.next()?;
    let line = lines.find(|line| line.contains("vm/vm3"))?;
    // Columns start where their titles do.
    let titles = ["NAME", "HOST", "IDENTITIES", "STATE", "NEXT ATTEMPT", "AGE"];
    let starts: Vec<usize> = titles.iter().map(|title| head.find(title).unwrap()).collect();
    let ends = starts[1..].iter().copied().chain([line.len()]);
    let cells = starts.iter().zip(ends).map(|(start, end)| line[*start..end].trim().to_owned());
    Some(titles.iter().map(|title| (*title).to_owned()).zip(cells).collect())
}

fn cell<'a>(line: &'a [(String, String)], title: &str) -> &'a str {
    &line.iter().find(|(of, _)| of == title).unwrap().1
}

#[tokio::test]
async fn a_host_says_what_fails_and_when_it_is_tried_again() {
    let space = Namespace::new("attachments").await;
    let env = env().await;
    let (good, forbidden) = (
        env.azure.identity("attached-good", 170).await,
        env.azure.identity("attached-forbidden", 171).await,
    );
    let fault = |fault: Value| json!({"identities": {forbidden.resource_id.as_str(): fault}});
    env.azure.faults(&fault(json!({"attach": "forbidden"}))).await;
    space.bind(&good, "good").await;
    space.bind(&forbidden, "forbidden").await;
    for (name, selector) in [("good", "good"), ("forbidden", "forbidden")] {
        let mut pod = space.pod(name, selector);
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "node3"});
        pod["metadata"]["annotations"] = json!({"aadpodidentity.k8s.io/gate-timeout": "5s"});
        space.apply(&pod).await.unwrap();
    }
    space.ready("good").await;

    let failing = eventually("the record says what fails", LIMIT, async || {
        let record = record(env).await?;
        let all = record["status"]["failing"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|it| it["resourceID"] == forbidden.resource_id.as_str())
    })
    .await;
    assert_eq!(failing["reason"], "IdentityRefused", "{failing}");
    let message = failing["message"].as_str().unwrap();
    assert!(message.starts_with("remedy: az role assignment create"), "{message}");
    assert!(message.contains("LinkedAuthorizationFailed"), "{message}");
    assert!(is_time(failing["nextAttempt"].as_str().unwrap()), "{failing}");
    let shown = line(env).await.unwrap();
    assert_eq!(cell(&shown, "STATE"), "Failing");
    assert!(is_time(cell(&shown, "NEXT ATTEMPT")), "{shown:?}");
    assert!(cell(&shown, "IDENTITIES").parse::<u32>().unwrap() >= 2, "{shown:?}");

    space.delete("pod", "forbidden").await;
    env.azure.faults(&fault(Value::Null)).await;
    let shown = eventually("the host is ready", LIMIT, async || {
        line(env).await.filter(|line| cell(line, "STATE") == "Ready")
    })
    .await;
    assert_eq!(cell(&shown, "NEXT ATTEMPT"), "", "{shown:?}");
    assert!(cell(&shown, "IDENTITIES").parse::<u32>().unwrap() >= 1, "{shown:?}");
    assert!(env.azure.is_attached(&good, MACHINE).await);
    space.done().await;
}

/// Whether it is a time as RFC 3339 writes it: `2025-01-01T00:00:00Z`.
fn is_time(text: &str) -> bool {
    text.len() == 20 && text.starts_with("20") && text.ends_with('Z') && &text[10..11] == "T"
}
