//! IMDS that knows every identity and answers at once.

use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Fakes;
use super::token::{Claims, Token, client_id};

/// A running IMDS.
#[derive(Debug)]
pub(crate) struct Imds(SocketAddr);

// === impl Imds ===

impl Imds {
    /// Starts it on a free port of loopback.
    pub(crate) fn start(fakes: &Fakes) -> Result<Self> {
        let (listener, address) = fakes.listen()?;
        let router = Router::new().route("/metadata/identity/oauth2/token", get(token));
        fakes.spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Self(address))
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0)
    }
}

async fn token(RawQuery(query): RawQuery) -> Response {
    let Some(claims) = claims(query.as_deref().unwrap_or_default()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let body = Token::new(&claims).imds_body();
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Of the identity that the query names by its resource id.
fn claims(query: &str) -> Option<Claims> {
    let parameter = |wanted: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    };
    let resource_id = parameter("msi_res_id")?;
    let identity = resource_id.rsplit_once('-')?.1.parse().ok()?;
    Some(Claims { resource: parameter("resource")?, client_id: client_id(identity), resource_id })
}

#[cfg(test)]
mod tests {
    use super::super::token::resource_id;
    use super::*;

    #[test]
    fn the_token_is_the_named_identitys() {
        let id: String = form_urlencoded::byte_serialize(resource_id(7).as_bytes()).collect();
        let found = claims(&format!("api-version=x&resource=https%3A%2F%2Fr&msi_res_id={id}"));
        let found = found.unwrap();
        assert_eq!((found.resource.as_str(), found.client_id), ("https://r", client_id(7)));
        assert_eq!(found.resource_id, resource_id(7));
        assert!(claims("resource=r").is_none());
    }
}
