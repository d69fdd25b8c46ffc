//! Each credential of each language: the default identity, one of two by every name that it can be
//! told, and one that the pod does not have.

use std::process::Output;

use e2e::images::Client;
use serde_json::json;
use tokio::sync::RwLock;

use crate::env::{Env, Identity};
use crate::language::{COMMAND_LINE, Credential, GO, JAVA, JAVASCRIPT, Language, PYTHON, RUST};
use crate::language::{NODE, Selector};
use crate::namespace::Namespace;
use crate::run::{Asked, Outcome, prepare};

const RESOURCE: &str = "https://vault.azure.net";

/// Read by those that count on the node agent, written by the one that restarts it.
pub(crate) static NODE_AGENT: RwLock<()> = RwLock::const_new(());

/// The pods of one language: with one identity, and with two.
struct Pods {
    language: Language,
    space: Namespace,
    one: Identity,
    two: Identity,
}

#[tokio::test]
async fn python_libraries_get_the_token_they_ask_for() {
    every_credential(PYTHON, "python", 100).await;
}

#[tokio::test]
async fn azure_cli_and_a_dotnet_tool_get_the_token_they_ask_for() {
    every_credential(COMMAND_LINE, "cli", 102).await;
}

#[tokio::test]
async fn javascript_libraries_get_the_token_they_ask_for() {
    every_credential(JAVASCRIPT, "javascript", 104).await;
}

#[tokio::test]
async fn java_libraries_get_the_token_they_ask_for() {
    every_credential(JAVA, "java", 106).await;
}

#[tokio::test]
async fn go_modules_get_the_token_they_ask_for() {
    every_credential(GO, "go", 108).await;
}

#[tokio::test]
async fn the_rust_crate_gets_the_token_it_asks_for() {
    every_credential(RUST, "rust", 110).await;
}

async fn every_credential(language: Language, name: &str, number: u16) {
    let pods = Pods::start(language, name, number).await;
    let _agent = NODE_AGENT.read().await;
    let mut problems = Vec::new();
    for credential in language.credentials {
        let mut note = |case: &str, result: Result<f64, String>| match result {
            Ok(seconds) => eprintln!("{name} {}, {case}: {seconds:.3} s", credential.name),
            Err(problem) => problems.push(format!("{}, {case}: {problem}", credential.name)),
        };
        note("default identity", pods.default_identity(credential).await);
        for (index, selector) in credential.selectors.iter().enumerate() {
            let identity = if index % 2 == 0 { &pods.two } else { &pods.one };
            note(&format!("by {selector:?}"), pods.by(credential, *selector, identity).await);
            note(&format!("wrong {selector:?}"), pods.wrong(credential, *selector).await);
        }
        note("two identities and no name", pods.ambiguous(credential).await);
    }
    assert!(problems.is_empty(), "{problems:#?}");
    pods.space.done().await;
}

impl Pods {
    async fn start(language: Language, name: &str, number: u16) -> Self {
        let env = prepare(language.client).await;
        let space = Namespace::new(&format!("sdk-{name}")).await;
        let identity = async |suffix: &str, number| {
            env.azure.identity(&format!("sdk-{name}-{suffix}"), number).await
        };
        let (one, two) = (identity("one", number).await, identity("two", number + 1).await);
        space.bind(&one, "one").await;
        space.bind(&two, "both").await;
        let spec = json!({"azureIdentity": one.name, "selector": space.selector("both")});
        space.apply(&space.object("AzureIdentityBinding", "one-of-both", &spec)).await.unwrap();
        space.apply(&language.pod(&space, "one", "one")).await.unwrap();
        space.apply(&language.pod(&space, "both", "both")).await.unwrap();
        space.ready("one").await;
        space.ready("both").await;
        Self { language, space, one, two }
    }

    async fn ask(&self, pod: &str, asked: Asked<'_>) -> Result<Vec<Outcome>, String> {
        self.language.ask(&self.space, pod, asked).await
    }

    async fn default_identity(&self, credential: &Credential) -> Result<f64, String> {
        let resource = credential.resource(RESOURCE);
        let asked = Asked { credential, resources: &[resource], selected: None };
        let outcomes = self.ask("one", asked).await?;
        outcomes[0].is_of(&self.one, resource)?;
        Ok(outcomes[0].seconds)
    }

    async fn by(
        &self,
        credential: &Credential,
        selector: Selector,
        identity: &Identity,
    ) -> Result<f64, String> {
        let resource = credential.resource(RESOURCE);
        let selected = Some((selector, identity));
        let asked = Asked { credential, resources: &[resource], selected };
        let outcomes = self.ask("both", asked).await?;
        outcomes[0].is_of(identity, resource)?;
        Ok(outcomes[0].seconds)
    }

    /// An identity that is not there is no reason to wait: told at the first request, in a second.
    async fn wrong(&self, credential: &Credential, selector: Selector) -> Result<f64, String> {
        let resource = credential.resource(RESOURCE);
        let stranger = Identity {
            name: "stranger".to_owned(),
            resource_id: self.one.resource_id.replace(&self.one.name, "stranger"),
            client_id: "2a000000-0000-0000-0000-000000999999".to_owned(),
            object_id: "3a000000-0000-0000-0000-000000999999".to_owned(),
        };
        // Twice: the first time, what is measured is also how long the program's code takes to load.
        let resources = [resource, resource];
        let selected = Some((selector, &stranger));
        let before = self.refused_requests().await;
        let outcomes =
            self.ask("one", Asked { credential, resources: &resources, selected }).await?;
        let requests = self.refused_requests().await - before;
        for outcome in &outcomes {
            outcome.says(credential.instead.unwrap_or("Identity not found"))?;
        }
        if requests != resources.len() {
            return Err(format!("{requests} requests instead of {}", resources.len()));
        }
        let seconds = outcomes[0].seconds.min(outcomes[1].seconds);
        if seconds < self.patience() { Ok(seconds) } else { Err(format!("told after {seconds} s")) }
    }

    async fn ambiguous(&self, credential: &Credential) -> Result<f64, String> {
        let resource = credential.resource(RESOURCE);
        let asked = Asked { credential, resources: &[resource], selected: None };
        let outcomes = self.ask("both", asked).await?;
        let words = "Multiple user assigned identities exist";
        outcomes[0].says(credential.instead.unwrap_or(words))?;
        Ok(outcomes[0].seconds)
    }

    /// A second, and what a busy machine adds to it. A tool is a program that starts.
    fn patience(&self) -> f64 {
        if self.language.client == Client::CommandLine { 15.0 } else { 3.0 }
    }

    /// How many requests of the first pod were told that there is no such identity.
    async fn refused_requests(&self) -> usize {
        let metrics = metrics(self.space.env, &self.space.name, "one").await;
        let line = metrics.lines().find(|line| line.contains(r#"outcome="identity_not_found""#));
        let count = line.and_then(|line| line.rsplit(' ').next()).expect("the sidecar counts");
        count.parse().unwrap()
    }
}

/// The metrics of a pod's sidecar, as Prometheus would get them.
async fn metrics(env: &Env, namespace: &str, pod: &str) -> String {
    let pod = env.get(&["-n", namespace, "pod", pod]).await;
    let url = format!("http://{}:2580/metrics", pod["status"]["podIP"].as_str().unwrap());
    let node = env.cluster.nodes().iter().find(|node| node.name() == NODE).unwrap();
    let Output { stdout, .. } =
        env.cluster.in_node(node, "curl").args(["-sS", &url]).output().await.unwrap();
    String::from_utf8(stdout).unwrap()
}
