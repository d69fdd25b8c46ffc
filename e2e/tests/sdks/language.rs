//! The languages, the credentials that their client programs can ask with, and what each of these
//! can be told.

use e2e::images::Client;
use serde_json::{Value, json};

use crate::env::Identity;
use crate::namespace::Namespace;

/// All pods of these tests are there: its container runtime alone needs the images.
pub(crate) const NODE: &str = "node1";

/// A client program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Language {
    pub(crate) client: Client,
    program: &'static [&'static str],
    idle: &'static [&'static str],
    pub(crate) credentials: &'static [Credential],
}

/// One way of asking for a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credential {
    /// What the client program calls it.
    pub(crate) name: &'static str,
    /// How it can be told which identity it shall ask for.
    pub(crate) selectors: &'static [Selector],
    /// The only resource that it asks for.
    pub(crate) only: Option<&'static str>,
    /// What it says of every refusal, where it keeps the server's words to itself.
    pub(crate) instead: Option<&'static str>,
}

/// What an identity is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    Client,
    Object,
    Resource,
}

const ANY: &[Selector] = &[Selector::Client, Selector::Object, Selector::Resource];
const CLIENT_ID: &[Selector] = &[Selector::Client];
const NO_OBJECT_ID: &[Selector] = &[Selector::Client, Selector::Resource];
/// What azmcp asks for.
const RESOURCE_MANAGER: &str = "https://management.azure.com/";

const fn credential(name: &'static str, selectors: &'static [Selector]) -> Credential {
    Credential { name, selectors, only: None, instead: None }
}

const fn taciturn(credential: Credential, words: &'static str) -> Credential {
    Credential { instead: Some(words), ..credential }
}

const fn azmcp(name: &'static str) -> Credential {
    Credential { only: Some(RESOURCE_MANAGER), ..credential(name, CLIENT_ID) }
}

pub(crate) const PYTHON: Language = Language {
    client: Client::Python,
    program: &["python3", "/client/client.py"],
    idle: e2e::pods::IDLE,
    credentials: &[
        credential("managed-identity", ANY),
        credential("managed-identity-aio", ANY),
        credential("default", CLIENT_ID),
        credential("default-aio", CLIENT_ID),
        credential("msal", ANY),
    ],
};

pub(crate) const COMMAND_LINE: Language = Language {
    client: Client::CommandLine,
    program: &["python3", "/client/client.py"],
    idle: e2e::pods::IDLE,
    credentials: &[credential("az", ANY), azmcp("azmcp"), azmcp("azmcp-default")],
};

pub(crate) const JAVASCRIPT: Language = Language {
    client: Client::JavaScript,
    program: &["/node", "/client/client.js"],
    idle: &["/node", "/client/client.js", "idle"],
    credentials: &[
        credential("managed-identity", ANY),
        credential("default", NO_OBJECT_ID),
        credential("msal", ANY),
    ],
};

pub(crate) const JAVA: Language = Language {
    client: Client::Java,
    program: &["/jre/bin/java", "-cp", "/client:/client/*", "Client"],
    idle: &["/jre/bin/java", "-cp", "/client:/client/*", "Client", "idle"],
    credentials: &[
        credential("managed-identity", ANY),
        taciturn(
            credential("default", NO_OBJECT_ID),
            "Managed Identity authentication is not available",
        ),
        credential("msal", ANY),
    ],
};

pub(crate) const GO: Language = Language {
    client: Client::Go,
    program: &["/client"],
    idle: &["/client", "idle"],
    credentials: &[
        credential("managed-identity", ANY),
        credential("default", CLIENT_ID),
        credential("msal", ANY),
    ],
};

pub(crate) const RUST: Language = Language {
    client: Client::Rust,
    program: &["/client"],
    idle: &["/client", "idle"],
    credentials: &[taciturn(
        credential("managed-identity", ANY),
        "The requested identity has not been assigned to this resource",
    )],
};

pub(crate) const ALL: [Language; 6] = [PYTHON, COMMAND_LINE, JAVASCRIPT, JAVA, GO, RUST];

impl Language {
    /// The pod of an application that waits to be told what to ask for.
    pub(crate) fn pod(&self, space: &Namespace, name: &str, selector: &str) -> Value {
        let mut pod = space.pod(name, selector);
        let spec = &mut pod["spec"];
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": NODE});
        spec["containers"][0]["image"] = json!(e2e::images::reference(self.client.name()));
        spec["containers"][0]["command"] = json!(self.idle);
        if self.client == Client::CommandLine {
            // To the stand-in for the resource manager, which the program starts.
            spec["hostAliases"] =
                json!([{"ip": "127.0.0.1", "hostnames": ["management.azure.com"]}]);
            let low_ports = json!({"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"});
            spec["securityContext"] = json!({"sysctls": [low_ports]});
        }
        pod
    }

    /// The command line that asks for tokens.
    pub(crate) fn command(
        &self,
        credential: &Credential,
        resources: &[&str],
        selected: Option<(Selector, &Identity)>,
    ) -> Vec<String> {
        let mut words: Vec<&str> = self.program.to_vec();
        words.push(credential.name);
        words.extend(resources);
        if let Some((selector, identity)) = selected {
            words.extend([selector.option(), selector.value(identity)]);
        }
        words.into_iter().map(str::to_owned).collect()
    }
}

impl Credential {
    /// The resource to ask for: this one, unless it cannot be told.
    pub(crate) fn resource<'a>(&self, wanted: &'a str) -> &'a str {
        self.only.unwrap_or(wanted)
    }
}

impl Selector {
    fn option(self) -> &'static str {
        match self {
            Self::Client => "--client-id",
            Self::Object => "--object-id",
            Self::Resource => "--resource-id",
        }
    }

    pub(crate) fn value(self, identity: &Identity) -> &str {
        match self {
            Self::Client => &identity.client_id,
            Self::Object => &identity.object_id,
            Self::Resource => &identity.resource_id,
        }
    }
}
