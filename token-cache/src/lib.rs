//! A cache of tokens: single flight per key, refreshed ahead of expiry, served while they live.
//!
//! ```text
//! 0 ───────── Fresh ───────── ½ ───── Aging ───── 10 min ── Urgent ── 5 min ── Critical ── expiry
//!    answer                    answer, refresh     answer, refresh      wait for a refresh,
//!                              behind it           more often           else answer
//! ```
//!
//! Where tokens come from is a [`Source`]; the cache knows neither identities nor HTTP. Time is
//! tokio's monotonic clock.

mod cache;
mod flight;
mod freshness;
mod kept;
mod policy;
mod shelf;
mod source;
mod stats;

pub use cache::{GetError, Hit, TokenCache};
pub use freshness::{Freshness, Jitter, freshness};
pub use policy::Policy;
pub use source::{FetchError, Fetched, Source};
pub use stats::Stats;
