//! The envelope `AdmissionReview` of `admission.k8s.io/v1`, around an object that is kept as JSON.
//!
//! Not kube's type: that one writes a patch as a list of numbers and refuses without a code.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use json_patch::Patch;
use serde::Deserialize;
use serde_json::{Map, Value, json};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What the API server asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// To be repeated in the answer.
    pub uid: String,
    /// The namespace of the object; the object itself may not say it yet.
    pub namespace: String,
    /// Whether this is about the creation of a pod, and not of something else or a subresource.
    pub creates_pod: bool,
    /// The object.
    pub object: Value,
}

/// What the API server is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Why the object is refused, if it is.
    pub denied: Option<String>,
    /// What to change.
    pub patch: Patch,
    /// What `kubectl` prints.
    pub warnings: Vec<String>,
    /// What the audit log records; the API server puts the webhook's name before the keys.
    pub audit: Vec<(&'static str, String)>,
}

/// The body is not a review that can be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// It is not JSON of the right shape.
    #[error("the body is not an AdmissionReview")]
    Shape(#[from] serde_json::Error),
    /// It is something else, or another version.
    #[error(
        "the body is not an AdmissionReview of admission.k8s.io/v1; set admissionReviewVersions to [\"v1\"]"
    )]
    Kind,
    /// It cannot be answered.
    #[error("the request has no uid")]
    NoUid,
    /// There is nothing to review.
    #[error("the request has no object")]
    NoObject,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    resource: Resource,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    object: Value,
}

#[derive(Default, Deserialize)]
struct Resource {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resource: String,
}

// === impl Review ===

impl Review {
    /// Reads the body of a request.
    pub fn parse(body: &[u8]) -> Result<Self, ReviewError> {
        let envelope: Envelope = serde_json::from_slice(body)?;
        if envelope.api_version != API_VERSION || envelope.kind != KIND {
            return Err(ReviewError::Kind);
        }
        let request = envelope.request.ok_or(ReviewError::NoUid)?;
        if request.uid.is_empty() {
            return Err(ReviewError::NoUid);
        }
        let creates_pod = request.operation == "CREATE"
            && request.resource.group.is_empty()
            && request.resource.resource == "pods"
            && request.sub_resource.is_empty();
        if creates_pod && !request.object.is_object() {
            return Err(ReviewError::NoObject);
        }
        let Request { uid, namespace, object, .. } = request;
        Ok(Self { uid, namespace, creates_pod, object })
    }
}

// === impl Answer ===

impl Answer {
    /// The body of the response to the request with this uid.
    pub fn into_review(self, uid: &str) -> Result<Value, serde_json::Error> {
        let mut response = Map::new();
        response.insert("uid".to_owned(), json!(uid));
        response.insert("allowed".to_owned(), json!(self.denied.is_none()));
        if let Some(message) = &self.denied {
            let status = json!({
                "status": "Failure", "code": 403, "reason": "Forbidden", "message": message
            });
            response.insert("status".to_owned(), status);
        } else if !self.patch.is_empty() {
            let patch = STANDARD.encode(serde_json::to_vec(&self.patch)?);
            response.insert("patchType".to_owned(), json!("JSONPatch"));
            response.insert("patch".to_owned(), json!(patch));
        }
        if !self.warnings.is_empty() {
            response.insert("warnings".to_owned(), json!(self.warnings));
        }
        if !self.audit.is_empty() {
            let audit: Map<_, _> =
                self.audit.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
            response.insert("auditAnnotations".to_owned(), Value::Object(audit));
        }
        Ok(json!({"apiVersion": API_VERSION, "kind": KIND, "response": response}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use json_patch::{AddOperation, PatchOperation};
    use jsonptr::PointerBuf;

    fn body(change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut review = json!({
            "apiVersion": API_VERSION, "kind": KIND,
            "request": {
                "uid": "u", "namespace": "shop", "operation": "CREATE",
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "object": {"metadata": {"generateName": "web-"}}, "dryRun": true
            }
        });
        change(&mut review);
        review.to_string().into_bytes()
    }

    #[test]
    fn a_review_needs_no_more_than_the_documented_fields() {
        let review = Review::parse(&body(|_| ())).unwrap();
        assert_eq!((review.uid.as_str(), review.namespace.as_str()), ("u", "shop"));
        assert!(review.creates_pod);
    }

    #[test]
    fn other_operations_resources_and_subresources_are_not_pod_creations() {
        for (pointer, value) in [
            ("/request/operation", json!("UPDATE")),
            ("/request/resource/resource", json!("deployments")),
            ("/request/resource/group", json!("example.org")),
        ] {
            let body = body(|review| *review.pointer_mut(pointer).unwrap() = value);
            assert!(!Review::parse(&body).unwrap().creates_pod, "{pointer}");
        }
        let body = body(|review| review["request"]["subResource"] = json!("binding"));
        assert!(!Review::parse(&body).unwrap().creates_pod);
    }

    #[test]
    fn what_cannot_be_answered_is_an_error() {
        type Change = fn(&mut Value);
        let cases: [Change; 6] = [
            |review| review["apiVersion"] = json!("admission.k8s.io/v1beta1"),
            |review| review["kind"] = json!("Pod"),
            |review| review["request"] = Value::Null,
            |review| review["request"]["uid"] = json!(""),
            |review| review["request"]["uid"] = json!(7),
            |review| review["request"]["object"] = Value::Null,
        ];
        for (index, change) in cases.into_iter().enumerate() {
            assert!(Review::parse(&body(change)).is_err(), "case {index}");
        }
        let deep = "[".repeat(100_000);
        assert!(Review::parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn a_patch_is_base64_and_comes_with_its_type() {
        let path = PointerBuf::parse("/a").unwrap();
        let add = PatchOperation::Add(AddOperation { path, value: json!(1) });
        let answer = Answer { patch: Patch(vec![add]), ..Answer::default() };
        let review = answer.into_review("u").unwrap();
        let patch = STANDARD.decode(review["response"]["patch"].as_str().unwrap()).unwrap();
        assert_eq!(patch, br#"[{"op":"add","path":"/a","value":1}]"#);
        assert_eq!(review["response"]["patchType"], "JSONPatch");
        // The API server refuses a type without a patch.
        let review = Answer::default().into_review("u").unwrap();
        assert_eq!(review["response"], json!({"uid": "u", "allowed": true}));
    }

    #[test]
    fn a_refusal_has_code_reason_and_message() {
        let answer = Answer { denied: Some("no".to_owned()), ..Answer::default() };
        let response = &answer.into_review("u").unwrap()["response"];
        assert_eq!(response["allowed"], false);
        assert_eq!(
            response["status"],
            json!({"status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"})
        );
    }
}
