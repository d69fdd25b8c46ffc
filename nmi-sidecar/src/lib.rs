//! The sidecar of a pod: answers the instance metadata service's token calls on loopback.
//!
//! ```text
//! application ──HTTP──► server ──► imds (pure: what was asked, what is answered)
//!                         │
//!                      service ──► token-cache ──► node ──TLS──► nmi-host
//!                                                   ▲
//!                                     gate ─────────┘  holds the pod's start back
//! ```
//!
//! Only the token path exists here, and nothing is ever passed on to another metadata service.

pub mod args;
pub mod gate;
pub mod imds;
pub mod metrics;
pub mod node;
pub mod run;
pub mod server;
pub mod service;
pub mod warm_up;
