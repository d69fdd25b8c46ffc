//! The HTTP/1.1 server of the token path: small, strict, and safe to run in every pod.
//!
//! Its own and not a library's, because the contract is about raw bytes: a request target must be
//! matched as it was sent (libraries drop a fragment), and a request that another parser could read
//! differently (bare line feeds, two framings) must be refused. It serves GET without a body only;
//! the head itself is parsed by `httparse`.

mod connection;
mod date;
mod head;
mod listener;
mod seats;

pub(crate) use date::Dates;
pub use listener::{Limits, serve};
