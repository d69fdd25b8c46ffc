//! Entra's documents about itself: where its endpoints are, and which authorities it knows. Pure.

use serde_json::{Value, json};

use crate::entra_error::EntraError;

/// Authorities of the public cloud, which all mean the same directory.
const PUBLIC: [&str; 4] =
    ["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"];
const CHINA: [&str; 2] = ["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"];
const US_GOVERNMENT: [&str; 2] = ["login.microsoftonline.us", "login.usgovcloudapi.net"];

/// The OpenID configuration. `tenant` is an id, or the placeholder of `common`.
pub(crate) fn openid_configuration(host: &str, tenant: &str) -> Value {
    json!({
        "token_endpoint": format!("https://{host}/{tenant}/oauth2/v2.0/token"),
        "token_endpoint_auth_methods_supported":
            ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "jwks_uri": format!("https://{host}/{tenant}/discovery/v2.0/keys"),
        "issuer": format!("https://{host}/{tenant}/v2.0"),
        "authorization_endpoint": format!("https://{host}/{tenant}/oauth2/v2.0/authorize"),
        "device_authorization_endpoint": format!("https://{host}/{tenant}/oauth2/v2.0/devicecode"),
        "response_types_supported": ["code", "id_token"],
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "scopes_supported": ["openid"],
        "tenant_region_scope": "EU",
        "cloud_instance_name": "microsoftonline.com",
    })
}

/// The answer to `GET /common/discovery/instance`: clients ask it whether an authority is one.
/// `host` is this fake itself, which is an authority too.
pub(crate) fn instance(query: &str, host: &str) -> Result<Value, EntraError> {
    let endpoint = form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "authorization_endpoint")
        .map(|(_, value)| value.into_owned())
        .ok_or_else(|| EntraError::missing("authorization_endpoint"))?;
    let rest = endpoint.strip_prefix("https://").unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let known = [&PUBLIC[..], &CHINA, &US_GOVERNMENT].concat();
    if authority.is_empty() || (authority != host && !known.contains(&authority)) {
        return Err(EntraError::unknown_authority(authority));
    }
    let tenant = path.split('/').next().filter(|tenant| !tenant.is_empty()).unwrap_or("common");
    let cloud = |aliases: &[&str], cache: &str| json!({"preferred_network": aliases[0], "preferred_cache": cache, "aliases": aliases});
    let mut metadata = vec![
        cloud(&PUBLIC, "login.windows.net"),
        cloud(&CHINA, CHINA[0]),
        cloud(&US_GOVERNMENT, US_GOVERNMENT[0]),
    ];
    if !known.contains(&host) {
        metadata.push(cloud(&[host], host));
    }
    let document = format!("https://{authority}/{tenant}/v2.0/.well-known/openid-configuration");
    Ok(json!({
        "tenant_discovery_endpoint": document,
        "api-version": "1.1",
        "metadata": metadata,
    }))
}

#[cfg(test)]
mod tests {
    use super::instance;

    #[test]
    fn only_authorities_that_exist_are_found() {
        let ask = |endpoint: &str| {
            let query = format!("api-version=1.1&authorization_endpoint={endpoint}");
            let found = instance(&query, "10.77.0.254:8443");
            found.map(|body| body["tenant_discovery_endpoint"].as_str().unwrap().to_owned())
        };
        for (endpoint, tenant) in [
            ("https://login.microsoftonline.com/common/oauth2/v2.0/authorize", "common"),
            ("https://login.windows.net/T/oauth2/v2.0/authorize", "T"),
            ("https://10.77.0.254:8443/T/oauth2/v2.0/authorize", "T"),
        ] {
            let authority = endpoint.split('/').nth(2).unwrap();
            let expected =
                format!("https://{authority}/{tenant}/v2.0/.well-known/openid-configuration");
            assert_eq!(ask(endpoint), Ok(expected));
        }
        for endpoint in ["https://login.evil.example/T/oauth2", "login.windows.net", ""] {
            assert_eq!(ask(endpoint).unwrap_err().error, "invalid_instance", "{endpoint}");
        }
        assert_eq!(instance("", "h").unwrap_err().error, "invalid_request");
    }
}
