//! A namespace of a test's own: objects, pods and token requests in it. Deleted when the test
//! passed; kept for looking at when it failed.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use e2e::pods;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

use crate::env::{Env, Identity, env, eventually};

const START: Duration = Duration::from_secs(60);

/// Names that tests of this run have taken.
static TAKEN: Mutex<BTreeSet<String>> = Mutex::const_new(BTreeSet::new());

pub(crate) struct Namespace {
    pub(crate) env: &'static Env,
    pub(crate) name: String,
}

/// The status and body of an answer, or that there was none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Http(u16, Value),
    NoConnection(String),
}

impl Namespace {
    /// An opted-in namespace.
    pub(crate) async fn new(name: &str) -> Self {
        Self::with_labels(name, json!({"aadpodidentity.k8s.io/inject": "enabled"})).await
    }

    /// A namespace that is not opted in.
    pub(crate) async fn plain(name: &str) -> Self {
        Self::with_labels(name, json!({})).await
    }

    async fn with_labels(name: &str, labels: Value) -> Self {
        let env = env().await;
        let name = format!("test-{name}");
        // Whoever comes second would delete the pods of the first.
        assert!(TAKEN.lock().await.insert(name.clone()), "two tests use the namespace {name}");
        let delete = ["delete", "namespace", &name, "--ignore-not-found", "--wait=true"];
        env.kubectl(&delete).await.unwrap();
        let namespace = Self { env, name };
        let object = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace.name, "labels": labels},
        });
        namespace.apply(&object).await.unwrap();
        namespace
    }

    /// Ends the test: a namespace that is still there is one of a test that failed.
    pub(crate) async fn done(self) {
        let delete = ["delete", "namespace", &self.name, "--wait=false"];
        self.env.kubectl(&delete).await.unwrap();
    }

    /// What kubectl says: its words for people, warnings included, or its error.
    pub(crate) async fn apply(&self, object: &Value) -> Result<String, String> {
        let mut command = self.env.cluster.kubectl(&["apply", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(object.to_string().as_bytes()).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        let words = [output.stdout, output.stderr].concat();
        let words = String::from_utf8_lossy(&words).into_owned();
        if output.status.success() { Ok(words) } else { Err(words) }
    }

    /// An object of this namespace and of the product's group.
    pub(crate) fn object(&self, kind: &str, name: &str, spec: &Value) -> Value {
        json!({
            "apiVersion": "aadpodidentity.k8s.io/v1",
            "kind": kind,
            "metadata": {"namespace": self.name, "name": name},
            "spec": spec,
        })
    }

    /// A selector of this namespace's own: bindings reach the pods of all namespaces.
    pub(crate) fn selector(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    /// Binds an identity to a selector of this namespace.
    pub(crate) async fn bind(&self, identity: &Identity, selector: &str) {
        let spec = json!({
            "type": 0,
            "resourceID": identity.resource_id,
            "clientID": identity.client_id,
        });
        self.apply(&self.object("AzureIdentity", &identity.name, &spec)).await.unwrap();
        self.bind_name(&identity.name, selector).await;
    }

    /// Binds whatever has the name to a selector of this namespace.
    pub(crate) async fn bind_name(&self, identity: &str, selector: &str) {
        let spec = json!({"azureIdentity": identity, "selector": self.selector(selector)});
        self.apply(&self.object("AzureIdentityBinding", identity, &spec)).await.unwrap();
    }

    /// An idle pod that a selector of this namespace selects.
    pub(crate) fn pod(&self, name: &str, selector: &str) -> Value {
        pods::bound(pods::client(&self.name, name, pods::IDLE), &self.selector(selector))
    }

    /// Creates a pod and waits until it is ready.
    pub(crate) async fn start(&self, pod: &Value) {
        self.apply(pod).await.unwrap();
        let name = pod["metadata"]["name"].as_str().unwrap();
        self.ready(name).await;
    }

    pub(crate) async fn ready(&self, pod: &str) {
        let pod = format!("pod/{pod}");
        let wait = ["-n", &self.name, "wait", "--for=condition=Ready", "--timeout=60s", &pod];
        if let Err(error) = self.env.kubectl(&wait).await {
            let describe = self.env.kubectl(&["-n", &self.name, "describe", &pod]).await;
            panic!("{error}\n{}", describe.unwrap_or_default());
        }
    }

    /// Waits until the pod's phase is `phase`.
    pub(crate) async fn phase(&self, pod: &str, phase: &str) {
        eventually(&format!("pod {pod} is {phase}"), START, async || {
            let object = self.env.get(&["-n", &self.name, "pod", pod]).await;
            (object["status"]["phase"] == phase).then_some(())
        })
        .await;
    }

    /// Runs a command in the application's container: standard output, or all words as the error.
    pub(crate) async fn exec(&self, pod: &str, command: &str) -> Result<String, String> {
        let args = ["-n", &self.name, "exec", pod, "-c", "app", "--", "bash", "-c", command];
        self.env.kubectl(&args).await
    }

    /// Asks for a token as an application would; `query` is added to the usual one.
    pub(crate) async fn token(&self, pod: &str, query: &str) -> Answer {
        match self.exec(pod, &curl(query)).await {
            Ok(text) => parse(&text),
            Err(error) => Answer::NoConnection(error),
        }
    }

    /// Asks for a token of another resource than [`Self::token`] does.
    pub(crate) async fn token_for(&self, pod: &str, resource: &str) -> Answer {
        match self.exec(pod, &curl_for(resource, "")).await {
            Ok(text) => parse(&text),
            Err(error) => Answer::NoConnection(error),
        }
    }

    /// The name of the node that the pod is on.
    pub(crate) async fn node_of(&self, pod: &str) -> String {
        let pod = self.env.get(&["-n", &self.name, "pod", pod]).await;
        pod["spec"]["nodeName"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn delete(&self, kind: &str, name: &str) {
        self.env.kubectl(&["-n", &self.name, "delete", kind, name]).await.unwrap();
    }

    /// The condition `Ready` of an object: status, reason and message.
    pub(crate) async fn condition(&self, kind: &str, name: &str) -> (String, String, String) {
        eventually(&format!("{kind} {name} has a condition"), START, async || {
            let object = self.env.get(&["-n", &self.name, kind, name]).await;
            let conditions = object["status"]["conditions"].as_array().cloned()?;
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
            let text = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
            Some((text("status"), text("reason"), text("message")))
        })
        .await
    }
}

/// A resource that nobody has asked for, also not in an earlier run: no cache has its token.
pub(crate) fn fresh(name: &str) -> String {
    static RUN: LazyLock<u128> = LazyLock::new(|| UNIX_EPOCH.elapsed().unwrap().as_millis());
    format!("https://{name}-{:x}.example", *RUN)
}

/// The token request of the documents, for Key Vault.
pub(crate) fn curl(query: &str) -> String {
    curl_for("https://vault.azure.net", query)
}

/// The token request of the documents. `query` is added to it, up to the end of a shell's quote.
pub(crate) fn curl_for(resource: &str, query: &str) -> String {
    let resource = resource.replace(':', "%3A").replace('/', "%2F");
    format!(
        "curl -sS --max-time 30 -w '\\n%{{http_code}}' -H Metadata:true 'http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}{query}'"
    )
}

pub(crate) fn parse(text: &str) -> Answer {
    let (body, status) = text.trim_end().rsplit_once('\n').unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
    Answer::Http(status.parse().unwrap(), body)
}

impl Answer {
    /// The claims of the token that was answered.
    pub(crate) fn claims(&self) -> Value {
        let Self::Http(200, body) = self else { panic!("no token: {self:?}") };
        e2e::claims::decode(body["access_token"].as_str().unwrap()).unwrap()
    }

    /// Asserts that the token is the identity's, and for Key Vault.
    pub(crate) fn is_of(&self, identity: &Identity) {
        let claims = self.claims();
        assert_eq!(claims["aud"], "https://vault.azure.net");
        assert_eq!(claims["appid"], identity.client_id.as_str());
        assert_eq!(claims["oid"], identity.object_id.as_str());
        let resource = claims["xms_mirid"].as_str().unwrap();
        assert!(resource.eq_ignore_ascii_case(&identity.resource_id), "{resource}");
    }

    /// Asserts a 400 in the words of IMDS.
    pub(crate) fn is_refused(&self, words: &str) {
        self.is_error("invalid_request", words);
    }

    /// Asserts a 400 with this error code and these words.
    pub(crate) fn is_error(&self, code: &str, words: &str) {
        let Self::Http(400, body) = self else { panic!("not refused: {self:?}") };
        let description = body["error_description"].as_str().unwrap();
        assert_eq!(body["error"], code, "{description}");
        assert!(description.contains(words), "{description}");
    }
}
