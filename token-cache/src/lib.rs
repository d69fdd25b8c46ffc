//! A cache of tokens: single flight per key, refreshed ahead of expiry, served while they live.
//!
//! ```text
//! 0 ──────── Fresh ──────── < ½ ───── Aging ───── 10 min ── Urgent ── 5 min ── Critical ── expiry
//!    answer                    answer, refresh     answer, refresh      wait for a refresh,
//!                              behind it           more often           else answer
//! ```
//!
//! Where tokens come from is a [`Source`]; the cache knows neither identities nor HTTP. Time is
//! tokio's monotonic clock.

mod budget;
mod cache;
mod flight;
mod freshness;
mod kept;
mod pilot;
mod policy;
mod request;
mod shelf;
mod source;
mod stats;
#[cfg(feature = "testing")]
pub mod testing;

pub use budget::Budget;
pub use cache::{GetError, Hit, TokenCache};
pub use freshness::{Freshness, Jitter, freshness};
pub use policy::Policy;
pub use request::Request;
pub use source::{Call, FetchError, Fetched, Source};
pub use stats::{Stats, Tokens};
