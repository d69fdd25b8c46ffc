//! Tells fake Azure the keys of this cluster's service account tokens, which the real Entra reads
//! from the cluster's issuer URL. Which service account may be which identity is up to users.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::topology::{FAKE_AZURE_FORWARD, SERVICE_ACCOUNT_ISSUER};

/// Again at each start: fake Azure forgets the keys when it is reset.
pub(super) async fn publish_issuer(client: &kube::Client) -> Result<()> {
    let request = http::Request::get("/openid/v1/jwks").body(Vec::new())?;
    let jwks: Value = client.request(request).await.context("the API server shows no keys")?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    http.post(format!("http://{FAKE_AZURE_FORWARD}/_fake/issuers"))
        .json(&json!({"issuer": SERVICE_ACCOUNT_ISSUER, "jwks": jwks}))
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .context("fake Azure does not take the keys of the cluster's service account tokens")?;
    Ok(())
}
