//! The HTTP side of reviews: `POST /mutate`, and the bounds of what one caller may cost.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use crate::injector::{Failure, Injector};

/// The API server stores no object above 1.5 MiB.
const BODY_LIMIT: usize = 3 * 1024 * 1024;
/// The API server has given up by then, see `timeoutSeconds` of the webhook's configuration.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONCURRENCY: usize = 64;

/// The routes.
pub fn router(injector: Arc<Injector>) -> Router {
    bounded(Router::new().route("/mutate", post(mutate)).with_state(injector))
}

/// A caller's mistake, a panic or a stuck review ends that request and nothing else.
fn bounded(router: Router) -> Router {
    router
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(CatchPanicLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(CONCURRENCY))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, TIMEOUT))
}

async fn mutate(
    State(injector): State<Arc<Injector>>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return rejection.into_response(),
    };
    match injector.review(&body).await {
        Ok(review) => Json(review).into_response(),
        Err(failure) => refuse(&failure),
    }
}

fn refuse(failure: &Failure) -> Response {
    let status = match failure {
        Failure::BadRequest(_) => StatusCode::BAD_REQUEST,
        Failure::Inject(_) | Failure::Encode(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let text = chain(failure);
    tracing::warn!(status = status.as_u16(), error = text, "Cannot answer a review");
    (status, text).into_response()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Request;
    use axum::routing::get;
    use tower::ServiceExt;

    async fn status(router: Router) -> StatusCode {
        let request = Request::builder().uri("/").body(Body::empty()).unwrap();
        bounded(router).oneshot(request).await.unwrap().status()
    }

    #[expect(unreachable_code, reason = "gives the handler a type")]
    async fn panics() -> &'static str {
        panic!("boom");
        ""
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let router = Router::new().route("/", get(panics));
        assert_eq!(status(router).await, StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_review_that_takes_too_long_is_given_up() {
        let router = Router::new().route("/", get(std::future::pending::<()>));
        assert_eq!(status(router).await, StatusCode::SERVICE_UNAVAILABLE);
    }
}
