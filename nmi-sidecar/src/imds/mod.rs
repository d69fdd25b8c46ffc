//! The contract of the instance metadata service: what a request asks for and what is answered,
//! byte by byte. Pure: no socket, no clock.

mod error;
mod query;
mod request;
mod response;

pub use error::{ErrorReply, ImdsError, Outcome};
pub use request::{Hosts, TokenKey, TokenRequest, parse};
pub use response::{CachedToken, Connection, Content, Frame, Reply};
