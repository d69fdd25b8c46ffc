//! The floor: a bare axum server on one thread, with the answer of a token call and none of the
//! work. Measured in turn with the sidecar, so that their ratio holds on a noisy machine too.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::header;
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use crate::fakes::token::{Claims, Token};

/// Serves until it is killed.
pub(crate) fn run(listen: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let listener = TcpListener::bind(listen).await.context("cannot listen")?;
        serve(listener).await
    })
}

/// Answers every request for a token.
pub(crate) async fn serve(listener: TcpListener) -> Result<()> {
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    axum::serve(listener, router()).await.context("cannot serve")
}

fn router() -> Router {
    let body = Token::new(&Claims::default()).imds_body();
    let answer = move || {
        let body = body.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], body) }
    };
    Router::new().route("/metadata/identity/oauth2/token", get(answer))
}
