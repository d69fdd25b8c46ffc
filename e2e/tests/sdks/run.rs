//! Runs client programs in their pods and judges what they print.

use e2e::images::{self, Client};
use e2e::paths::Cache;
use e2e::progress::Progress;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::env::{AS_IS, Env, Identity, env};
use crate::language::{Credential, Language, NODE, Selector};
use crate::namespace::Namespace;

/// What came of asking for one token.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Outcome {
    ok: bool,
    claims: Option<Claims>,
    /// Around the library's call, or the tool's run.
    pub(crate) seconds: f64,
    error: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Claims {
    appid: String,
    oid: String,
    aud: String,
}

/// What a test asks of a client program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) credential: &'a Credential,
    pub(crate) resources: &'a [&'a str],
    pub(crate) selected: Option<(Selector, &'a Identity)>,
}

static IMAGES: Mutex<()> = Mutex::const_new(());

/// Builds a client's image and gives it to the node.
pub(crate) async fn prepare(client: Client) -> &'static Env {
    let env = env().await;
    let cluster = &env.cluster;
    let node = cluster.nodes().iter().find(|node| node.name() == NODE).unwrap();
    let is_there = cluster.state().image_marker(node, client.name()).is_file();
    if is_there && std::env::var_os(AS_IS).is_some() {
        return env;
    }
    let _one_at_a_time = IMAGES.lock().await;
    let progress = Progress::to_stderr();
    let cache = Cache::locate().unwrap();
    let built = images::build(&[images::Image::Client(client)], &cache, &progress).await.unwrap();
    for image in &built {
        let nodes = std::slice::from_ref(node);
        images::load_built(image, cluster.state(), nodes, &progress).await.unwrap();
    }
    env
}

impl Language {
    /// One outcome for each resource.
    pub(crate) async fn ask(
        &self,
        space: &Namespace,
        pod: &str,
        asked: Asked<'_>,
    ) -> Result<Vec<Outcome>, String> {
        let command = self.command(asked.credential, asked.resources, asked.selected);
        let mut args = vec!["-n", &space.name, "exec", pod, "-c", "app", "--"];
        args.extend(command.iter().map(String::as_str));
        let printed = space.env.kubectl(&args).await?;
        let outcomes: Result<Vec<Outcome>, _> = printed.lines().map(serde_json::from_str).collect();
        let outcomes = outcomes.map_err(|error| format!("{error}: {printed}"))?;
        if outcomes.len() == asked.resources.len() {
            Ok(outcomes)
        } else {
            Err(format!("{} outcomes: {printed}", outcomes.len()))
        }
    }
}

impl Outcome {
    /// Whether it is a token of this identity, for this resource.
    pub(crate) fn is_of(&self, identity: &Identity, resource: &str) -> Result<(), String> {
        let Some(claims) = self.claims.as_ref().filter(|_| self.ok) else {
            return Err(format!("no token: {}", self.error.as_deref().unwrap_or_default()));
        };
        let is_it = claims.appid == identity.client_id && claims.oid == identity.object_id;
        if is_it && claims.aud == resource {
            Ok(())
        } else {
            Err(format!("not a token of {} for {resource}: {claims:?}", identity.name))
        }
    }

    /// Whether it is an error with these words in it.
    pub(crate) fn says(&self, words: &str) -> Result<(), String> {
        let error = self.error.as_deref().filter(|_| !self.ok).unwrap_or_default();
        if error.contains(words) {
            Ok(())
        } else {
            Err(format!("does not say {words:?}: {self:?}"))
        }
    }
}
