//! The API server is out of reach for a node's agent: what it knew goes on to count.
//!
//! A program of its own: what other tests create meanwhile, the agent of that node would not see.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(dead_code, reason = "the shared modules serve the other tests too")]

#[path = "../cluster/env.rs"]
mod env;
#[path = "../cluster/host.rs"]
mod host;
#[path = "../cluster/namespace.rs"]
mod namespace;
#[path = "../cluster/steady.rs"]
mod steady;

use std::process::Command;
use std::time::Duration;

use e2e::topology::API_SERVICE_IP;
use serde_json::json;

use crate::env::{Env, env, eventually};
use crate::namespace::{Answer, Namespace, curl};
use crate::steady::{SteadyClient, cold};

const NODE: &str = "node3";

/// Takes the API server's Service away from the processes of a node that use it. That is the agent
/// alone: kubelet and kube-proxy go to the API server itself, and pods do not pass here.
struct Partition {
    netns: String,
}

impl Partition {
    fn begin(env: &Env) -> Self {
        let partition = Self { netns: format!("/run/netns/{}", env.node(NODE).netns()) };
        partition.change("-I");
        partition
    }

    fn change(&self, action: &str) {
        let to = API_SERVICE_IP.to_string();
        self.iptables(&[action, "OUTPUT", "-p", "tcp", "-d", &to, "--dport", "443", "-j", "DROP"]);
    }

    /// How many packets were dropped so far.
    fn dropped(&self) -> u64 {
        let listed = self.iptables(&["-vnxL", "OUTPUT"]);
        let rule = listed.lines().find(|line| line.contains("DROP")).expect("the rule is there");
        rule.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn iptables(&self, args: &[&str]) -> String {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns)).args(["iptables", "-w", "-t", "mangle"]);
        let output = command.args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.change("-D");
    }
}

#[tokio::test]
async fn tokens_go_on_without_the_api_server_and_revocation_when_it_is_back() {
    let env = env().await;
    let space = Namespace::new("partition").await;
    let identity = env.azure.identity("partition", 87).await;
    space.bind(&identity, "app").await;
    let mut pod = space.pod("app", "app");
    pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": NODE});
    space.start(&pod).await;
    space.token("app", "").await.is_of(&identity);

    let partition = Partition::begin(env);
    let driver = async {
        // After the agent noticed, if it ever does.
        tokio::time::sleep(Duration::from_secs(30)).await;
        host::ask_for(&space, "app").await
    };
    let run = async |request: String| SteadyClient::run(&space, "app", 45, &request).await;
    let (warm, cold, driver) = tokio::join!(run(curl("")), run(cold("partition")), driver);
    warm.is_content(100);
    cold.is_content(100);
    let Answer::Http(200, body) = driver else { panic!("no token on the node: {driver:?}") };
    Answer::Http(200, body["token"].clone()).is_of(&identity);

    assert!(partition.dropped() > 10, "the agent did not ask: the test shows nothing");
    drop(partition);
    space.delete("azureidentitybinding", "partition").await;
    eventually("the token is refused", Duration::from_secs(60), async || {
        matches!(space.token("app", "").await, Answer::Http(400, _)).then_some(())
    })
    .await;
    space.done().await;
}
