//! The product on a real cluster: what only a kubelet, an API server and iptables can show.
//!
//! Needs root; `make cluster-test` runs it. Tests share one installation and bring a namespace of
//! their own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]

mod attachments;
mod bad_input;
mod env;
mod federation;
mod guard;
mod host;
mod identities;
mod lifecycle;
mod namespace;
mod outages;
mod predecessor;
mod principals;
mod requests;
mod secrecy;
mod steady;
mod storms;
mod tokens;
mod vaults;
