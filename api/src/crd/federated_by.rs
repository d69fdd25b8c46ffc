//! Whose service-account token stands in for the credential of a federated identity.

use std::fmt;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Whose token Entra is shown for an identity of type 3. A word from elsewhere is kept, so that one
/// odd object cannot break reading all others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum FederatedBy {
    /// The pod's own: one federated credential for every service account.
    Pod,
    /// The node agent's, after it authenticated the pod: one federated credential for every
    /// cluster.
    NodeAgent,
    /// None of these.
    Unknown(String),
}

impl FederatedBy {
    /// The word in an object.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Pod => "Pod",
            Self::NodeAgent => "NodeAgent",
            Self::Unknown(word) => word,
        }
    }
}

impl fmt::Display for FederatedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<String> for FederatedBy {
    fn from(word: String) -> Self {
        match word.as_str() {
            "Pod" => Self::Pod,
            "NodeAgent" => Self::NodeAgent,
            _ => Self::Unknown(word),
        }
    }
}

impl From<FederatedBy> for String {
    fn from(form: FederatedBy) -> Self {
        form.as_str().to_owned()
    }
}

/// The words that new objects may hold. Not the schema of an `Option`, which the API server would
/// take to be the words and a text "null".
pub(super) fn words(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Pod", "NodeAgent"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_reading_and_writing() {
        for (word, form) in [
            ("Pod", FederatedBy::Pod),
            ("NodeAgent", FederatedBy::NodeAgent),
            ("pod", FederatedBy::Unknown("pod".to_owned())),
            ("", FederatedBy::Unknown(String::new())),
        ] {
            let read: FederatedBy = serde_json::from_value(word.into()).unwrap();
            assert_eq!(read, form);
            assert_eq!(serde_json::to_value(&read).unwrap(), word);
        }
    }
}
