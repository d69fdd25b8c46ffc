//! Tests of the webhook from the outside: decisions, patches, HTTP and TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod decisions;
mod fixtures;
mod golden;
mod http;
mod namespaces;
mod properties;
mod tls;
