//! Makes Entra's errors readable for the library.
//!
//! `azure_identity` 1.0 wants to borrow `error_description` from the JSON, which fails for every
//! text with an escape in it. Entra's texts have `\r\n`: status and reason would be lost.

use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{AsyncRawResponse, Context, Request};
use serde_json::Value;

/// Cuts the description of an error down to its first line, without escapes.
#[derive(Debug)]
pub(crate) struct ReadableErrors;

#[async_trait]
#[expect(elided_lifetimes_in_paths, reason = "as the trait has it, or async_trait binds it early")]
impl Policy for ReadableErrors {
    async fn send(
        &self,
        context: &Context,
        request: &mut Request,
        next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        let [first, rest @ ..] = next else {
            return Err(Error::with_message(ErrorKind::Other, "no transport"));
        };
        let response = first.send(context, request, rest).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers, body) = response.deconstruct();
        let body = body.collect().await?;
        let readable = match serde_json::from_slice(&body) {
            Ok(error) => readable(error).unwrap_or_else(|| body.to_vec()),
            // A gateway's page: the status is what is left to tell.
            Err(_) => b"{}".to_vec(),
        };
        Ok(AsyncRawResponse::from_bytes(status, headers, readable))
    }
}

fn readable(mut error: Value) -> Option<Vec<u8>> {
    let description = error.get_mut("error_description")?;
    let line = description.as_str()?.lines().next()?;
    let plain = line.replace('"', "'").replace(['\\', '\t'], " ");
    *description = Value::String(plain);
    serde_json::to_vec(&error).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn descriptions_lose_their_escapes_and_everything_else_stays() {
        let error = json!({
            "error": "invalid_client",
            "error_description": "AADSTS1: \"a\"\tb\\c.\r\nTrace ID: 1",
        });
        let expected = r#"{"error":"invalid_client","error_description":"AADSTS1: 'a' b c."}"#;
        assert_eq!(String::from_utf8(readable(error).unwrap()).unwrap(), expected);
        for other in [json!({}), json!("x"), json!({"error_description": 1})] {
            assert_eq!(readable(other.clone()), None, "{other}");
        }
    }
}
