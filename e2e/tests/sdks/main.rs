//! Azure's own libraries and tools get tokens in injected pods: unmodified, from their registries,
//! in six languages and .NET.
//!
//! A program of its own: its images take longer to make than all others together. Needs root; `make
//! cluster-test` runs it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at the first surprise")]
#![allow(dead_code, reason = "the shared modules serve the other tests too")]

#[path = "../cluster/env.rs"]
mod env;
#[path = "../cluster/namespace.rs"]
mod namespace;

mod cases;
mod language;
mod outages;
mod run;
