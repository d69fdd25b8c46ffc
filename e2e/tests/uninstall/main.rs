//! What a restart leaves in place, an uninstall takes away.
//!
//! A program of its own: it removes the installation that the other tests share.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(dead_code, reason = "the shared modules serve the other tests too")]

#[path = "../cluster/env.rs"]
mod env;
#[path = "../cluster/namespace.rs"]
mod namespace;

use std::time::Duration;

use e2e::release;

use crate::env::{Env, env, eventually};
use crate::namespace::{Answer, Namespace};

const LIMIT: Duration = Duration::from_secs(60);

/// How many nodes have rules of the guard.
async fn guarded(env: &Env) -> usize {
    let mut count = 0;
    for node in env.cluster.nodes() {
        let output = env.cluster.in_node(node, "iptables-save").output().await.unwrap();
        let rules = String::from_utf8_lossy(&output.stdout).into_owned();
        count += usize::from(rules.contains("POD-IDENTITY-GUARD"));
    }
    count
}

#[tokio::test]
async fn the_guard_outlives_the_agent_and_not_the_release() {
    let env = env().await;
    let space = Namespace::plain("uninstall").await;
    space.start(&space.pod("app", "app")).await;
    assert_eq!(guarded(env).await, env.cluster.nodes().len());

    let agent = "app.kubernetes.io/component=nmi-host";
    let delete = ["-n", release::NAMESPACE, "delete", "pod", "-l", agent, "--wait=true"];
    env.kubectl(&delete).await.unwrap();
    assert_eq!(guarded(env).await, env.cluster.nodes().len(), "a restart must not open a node");
    assert!(matches!(space.token("app", "").await, Answer::NoConnection(_)));

    let uninstall = ["uninstall", release::NAME, "-n", release::NAMESPACE, "--wait"];
    let output = env.cluster.helm(&uninstall).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    eventually("the guard is gone", LIMIT, async || (guarded(env).await == 0).then_some(())).await;
    let pods = space.env.get(&["-n", &space.name, "pods"]).await;
    assert_eq!(pods["items"].as_array().unwrap().len(), 1, "workloads go on");
    space.done().await;
}
