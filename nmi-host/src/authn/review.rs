//! Asks the API server about a token, and reads its answer.

use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::Client;
use kube::api::{Api, PostParams};

use crate::caller::{Caller, ServiceAccount};
use crate::pods::PodRef;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Asks the API server who a token belongs to.
#[derive(Clone)]
pub(crate) struct Reviewer {
    api: Api<TokenReview>,
    audience: String,
    node: String,
}

/// Why a token does not make its bearer a pod of this node. Says nothing that the API server said:
/// callers get this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReviewError {
    /// The API server does not vouch for it.
    #[error("the token is not a valid, pod-bound token for this audience")]
    Rejected,
    /// It belongs to a pod elsewhere.
    #[error("the token belongs to a pod of another node")]
    WrongNode,
    /// The API server cannot be asked.
    #[error("the API server cannot be asked about the token")]
    Unavailable,
}

// === impl Reviewer ===

impl Reviewer {
    /// A reviewer for tokens of `audience` that pods of `node` hold.
    pub(crate) fn new(client: Client, audience: String, node: String) -> Self {
        Self { api: Api::all(client), audience, node }
    }

    /// The pod that the token is bound to, and its service account.
    pub(crate) async fn review(&self, token: &str) -> Result<Caller, ReviewError> {
        let spec = TokenReviewSpec {
            audiences: Some(vec![self.audience.clone()]),
            token: Some(token.to_owned()),
        };
        let review = TokenReview { spec, ..TokenReview::default() };
        match self.api.create(&PostParams::default(), &review).await {
            Ok(reviewed) => {
                let status = reviewed.status.unwrap_or_default();
                if let Some(error) = &status.error {
                    tracing::debug!(%error, "Token rejected");
                }
                interpret(&status, &self.audience, &self.node)
            }
            Err(error) => {
                tracing::warn!(%error, "Token cannot be reviewed");
                Err(ReviewError::Unavailable)
            }
        }
    }
}

/// Reads a review: the pod, if the API server vouches for token, audience, pod and node.
fn interpret(
    status: &TokenReviewStatus,
    audience: &str,
    node: &str,
) -> Result<Caller, ReviewError> {
    // An API server that ignores audiences answers without them, and the token would be one for
    // the API server itself.
    let for_us = status.audiences.iter().flatten().any(|granted| granted == audience);
    let user = status.user.as_ref().ok_or(ReviewError::Rejected)?;
    if status.authenticated != Some(true) || !for_us {
        return Err(ReviewError::Rejected);
    }
    let subject = user.username.as_deref().unwrap_or_default();
    let account = ServiceAccount::from_subject(subject).ok_or(ReviewError::Rejected)?;
    let extra = |key| single(user, key).ok_or(ReviewError::Rejected);
    let (name, uid, pods_node) = (extra(POD_NAME)?, extra(POD_UID)?, extra(NODE_NAME)?);
    if pods_node != node {
        return Err(ReviewError::WrongNode);
    }
    let namespace = account.namespace.clone();
    let pod = PodRef { namespace, name: name.to_owned(), uid: uid.to_owned() };
    Ok(Caller { pod, account: Some(account) })
}

fn single<'a>(user: &'a UserInfo, key: &str) -> Option<&'a str> {
    match user.extra.as_ref()?.get(key)?.as_slice() {
        [value] if !value.is_empty() => Some(value),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    use serde_json::{Value, json};

    use super::{NODE_NAME, POD_NAME, POD_UID};

    pub(crate) const AUDIENCE: &str = "nmi-host.aadpodidentity.k8s.io";
    pub(crate) const NODE: &str = "node-1";

    /// A review in favour of the pod `team/web-0` on [`NODE`].
    pub(crate) fn accepted() -> Value {
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "metadata": {},
            "spec": {},
            "status": {
                "authenticated": true,
                "audiences": [AUDIENCE],
                "user": {
                    "username": "system:serviceaccount:team:default",
                    "extra": {POD_NAME: ["web-0"], POD_UID: ["uid-1"], NODE_NAME: [NODE]}
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn interpreted(review: &Value) -> Result<Caller, ReviewError> {
        let status = serde_json::from_value(review["status"].clone()).unwrap();
        interpret(&status, fixtures::AUDIENCE, fixtures::NODE)
    }

    #[test]
    fn the_pod_is_the_one_that_the_token_is_bound_to() {
        assert_eq!(interpreted(&fixtures::accepted()), Ok(crate::caller::testing::caller()));
    }

    #[test]
    fn anything_missing_or_odd_is_a_rejection() {
        let cases: [(&str, Value); 12] = [
            ("/status/authenticated", json!(false)),
            ("/status/authenticated", Value::Null),
            ("/status/audiences", json!([])),
            ("/status/audiences", Value::Null),
            ("/status/audiences", json!(["https://kubernetes.default.svc"])),
            ("/status/user", Value::Null),
            ("/status/user/username", json!("system:node:node-1")),
            ("/status/user/username", json!("system:serviceaccount:team")),
            ("/status/user/extra", json!({})),
            ("/status/user/extra/authentication.kubernetes.io~1pod-uid", json!([])),
            ("/status/user/extra/authentication.kubernetes.io~1pod-name", json!(["a", "b"])),
            ("/status/user/extra/authentication.kubernetes.io~1node-name", json!([""])),
        ];
        for (path, value) in cases {
            let mut review = fixtures::accepted();
            *review.pointer_mut(path).unwrap() = value.clone();
            assert_eq!(interpreted(&review), Err(ReviewError::Rejected), "{path} = {value}");
        }
    }

    #[test]
    fn a_pod_of_another_node_is_told_so() {
        let mut review = fixtures::accepted();
        review["status"]["user"]["extra"][NODE_NAME] = json!(["node-2"]);
        assert_eq!(interpreted(&review), Err(ReviewError::WrongNode));
    }
}
