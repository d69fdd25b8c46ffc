//! The fake's behaviour over real sockets: each service as its callers see it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail the test, outside of a function that clippy knows as one"
)]

mod arm;
mod control;
mod entra;
mod etags;
mod faults;
mod federation;
mod fixture;
mod imds;
mod vault;
